"""The command line in the hands of each role: it works, or says which grant it wants."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.roles import Roles

ROOT = Path(__file__).parents[2]
LOOKS = (
    "ls", "show {job}", "queues", "workers", "tasks", "schedule ls", "schedule show nightly",
    "cancel --dry-run -Q default", "purge --dry-run",
)  # fmt: skip
CHANGES = (
    "retry {job}", "reschedule {job} --priority 5", "discard {job}", "queue pause mail",
    "queue events mail on", "schedule fire nightly", "cancel {job}",
)  # fmt: skip


@pytest.fixture
def job(roles: Roles) -> int:
    """A job with more arguments than a row holds, and a schedule."""
    with roles.connected("owner") as owner:
        owner.execute("select pgtask.put_schedule('nightly', 't', '{\"every\": 60}')")
        row = owner.execute(
            "select pgtask.enqueue('tests.shop.echo', json_build_array(repeat('secret', 2000)))"
        ).fetchone()
    assert row is not None
    return int(row[0])


def run(roles: Roles, group: str, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgtask", "-A", "tests.shop:app", *command.split()],
        cwd=ROOT,
        env={**os.environ, "PGTASK_DSN": roles.dsn(group)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("group", ["monitor", "worker", "admin"])
def test_who_may_look_looks_and_only_the_admin_sees_arguments(
    roles: Roles, job: int, group: str
) -> None:
    for command in LOOKS:
        done = run(roles, group, command.format(job=job))

        assert done.returncode == 0, (command, done.stderr)
        assert ("secretsecret" in done.stdout) == (group == "admin" and command == "show {job}")


@pytest.mark.parametrize("group", ["monitor", "worker", "producer"])
def test_who_may_not_is_told_what_would_help(roles: Roles, job: int, group: str) -> None:
    for command in CHANGES[3:]:
        done = run(roles, group, command.format(job=job))

        assert done.returncode == 1, command
        assert "→ let the owner of the schema run: pgtask migrate --grant-" in done.stderr
        assert "--grant-admin ROLE" in done.stderr
    if group != "worker":
        done = run(roles, group, "worker --drain -c 1")
        assert done.returncode == 1
        assert "--grant-worker ROLE" in done.stderr


def test_the_admin_changes_what_there_is(roles: Roles, job: int) -> None:
    for command in ("reschedule {job} --priority 5", "discard {job}", *CHANGES[:1], *CHANGES[3:]):
        done = run(roles, "admin", command.format(job=job))

        assert done.returncode == 0, (command, done.stderr)


def test_a_worker_runs_one_job_or_drains(roles: Roles, job: int) -> None:
    once = run(roles, "worker", f"worker --once {job} -c 1")
    assert once.returncode == 0, once.stderr
    drained = run(roles, "worker", "worker --drain -c 1")
    assert drained.returncode == 0, drained.stderr

    assert run(roles, "producer", f"wait {job} --timeout 5").returncode == 0
