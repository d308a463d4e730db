"""discard, reschedule, purge by filter, and the filters that all of them share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Call, World


def job(world: World, job_id: int) -> Any:
    return world.connection.execute(
        "select state, reason, error, priority, attempt, max_attempts, run_at > now()"
        " from pgtask.jobs where id = %s",
        [job_id],
    ).fetchone()


@pytest.fixture
def worker(world: World) -> str:
    return world.worker()


# --- discard -------------------------------------------------------------------------------------


def test_discard_by_id_says_what_became_of_each(call: Call, world: World, worker: str) -> None:
    running, done = world.job(), world.job()
    first, second = world.claim(worker, 2)
    world.finish(worker, second)
    ready = world.job()

    answer = call("discard", ready, running, done, 999, "--message", "no such customer")

    assert (answer.code, answer.lines) == (
        1,
        [
            [str(running), "running"],
            [str(done), "finished"],
            [str(ready), "discarded"],
            ["999", "missing"],
        ],
    )
    assert job(world, ready)[:3] == ("failed", "discarded", "no such customer")
    assert first[0] == running


def test_discard_by_filter_leaves_what_runs(call: Call, world: World, worker: str) -> None:
    running = world.job()
    world.claim(worker)
    ready, later = world.job(), world.job(delay="1 hour")
    other = world.job(queue="other")

    dry = call("discard", "-Q", "default", "--dry-run")
    answer = call("discard", "-Q", "default", "--json")

    assert dry.out == "would discard 2 jobs\n"
    assert answer.json["outcomes"] == {"discarded": 2}
    assert [job(world, one)[0] for one in (running, ready, later, other)] == [
        "running", "failed", "failed", "ready",
    ]  # fmt: skip
    assert job(world, ready)[2] == "Manually marked as failed"
    assert call("discard", "-s", "running").code == 2


# --- reschedule ----------------------------------------------------------------------------------


def test_reschedule_changes_what_is_said(call: Call, world: World) -> None:
    first, second = world.job(max_attempts=5), world.job(delay="1 hour")

    later = call("reschedule", first, "--in", "10m", "--priority", -7)
    now = call("reschedule", second, "--at", "2001-01-01T00:00", "--max-attempts", 9)

    assert (later.code, later.out) == (0, f"{first} rescheduled\n")
    assert job(world, first) == ("scheduled", None, None, -7, 0, 5, True)
    assert job(world, second)[0] == "ready"
    assert job(world, second)[5] == 9
    assert now.code == 0


def test_reschedule_by_filter_with_new_attempts(call: Call, world: World, worker: str) -> None:
    bad, other = world.job(), world.job(task="mail.count")
    world.fail(worker, world.claim(worker)[0], verdict="retried")

    answer = call("reschedule", "-t", "mail.send", "--attempt", 0, "--in", "0")

    assert (answer.code, answer.out) == (0, "rescheduled 1\n")
    assert job(world, bad)[0] == "ready"
    assert job(world, bad)[4] == 0
    assert job(world, other)[0] == "ready"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("7",), "what is to change? → give --at, --in"),
        (("--all",), "what is to change?"),
        (("7", "--in", "1m", "--at", "2030-01-01T00:00"), "both say when"),
        (("--in", "1m"), "which jobs? → give ids, a filter"),
        (("7", "-Q", "mail", "--in", "1m"), "ids and filters do not go together"),
        (("7", "--priority", "101"), "101 is not in the range"),
        (("7", "--at", "tomorrow"), "is not a time"),
        (("-s", "failed", "--in", "1m"), "reschedule does nothing to failed jobs"),
    ],
)
def test_reschedule_refuses_what_it_cannot_mean(
    call: Call, world: World, words: tuple[str, ...], said: str
) -> None:
    answer = call("reschedule", *words)

    assert answer.code == 2
    assert said in answer.err


def test_attempts_that_would_leave_none_are_refused_by_the_database(
    call: Call, world: World, worker: str
) -> None:
    bad = world.job()
    world.fail(worker, world.claim(worker)[0], verdict="retried")

    answer = call("reschedule", bad, "--max-attempts", 1)

    assert answer.code == 2
    assert f"job {bad} would have had 1 of 1 attempts and none left" in answer.err


# --- purge ---------------------------------------------------------------------------------------


def test_purge_takes_ids_and_filters_too(call: Call, world: World, worker: str) -> None:
    good, bad, ready = world.job(), world.job(), 0
    first, second = world.claim(worker, 2)
    world.finish(worker, first)
    world.fail(worker, second)
    ready = world.job()

    dry = call("purge", "-s", "failed", "--dry-run")
    by_id = call("purge", good, ready, 999)
    young = call("purge", "-s", "failed", "--older-than", "1h")
    by_filter = call("purge", "-Q", "default", "--json")

    assert dry.out == "would purge 1 jobs\n"
    assert by_id.lines == [[str(good), "purged"], [str(ready), "unfinished"], ["999", "missing"]]
    assert young.out == "no job\n"
    assert by_filter.json["outcomes"] == {"purged": 1}
    assert job(world, bad) is None
    assert job(world, ready)[0] == "ready"


def test_purge_by_age_can_be_tried_out(call: Call, world: World, worker: str) -> None:
    done = world.job()
    world.finish(worker, world.claim(worker)[0])

    assert call("purge", "--dry-run").out == "would purge 0 jobs\n"
    assert call("purge", "--finished", "0", "--dry-run", "--json").json == {
        "dry_run": True,
        "matched": 1,
    }
    assert job(world, done)[0] == "succeeded"
    assert call("purge", "--finished", "0", "-Q", "default").code == 2


# --- filters -------------------------------------------------------------------------------------


def test_every_filter_narrows(call: Call, world: World, worker: str) -> None:
    plain = world.job()
    lane, mine = world.job(serial="box-1"), world.job(tenant="acme")
    expired = world.job()
    world.fail(worker, world.claim(worker)[0])
    world.connection.execute("update pgtask.ready set created_at = now() - interval '2 hours'")

    def ids(*words: str) -> list[int]:
        return sorted(int(one["id"]) for one in call("ls", "--json", *words).json)

    assert ids("--serial", "box-1") == [lane]
    assert ids("--tenant", "acme") == [mine]
    assert ids("--reason", "error") == [plain]
    assert ids("--older-than", "1h") == [lane, mine, expired]
    assert ids("--older-than", "0") == [plain, lane, mine, expired]
    assert call("ls", "--json", "--tenant", "acme").json[0]["tenant"] == "acme"
    assert call("cancel", "--older-than", "0", "--dry-run").out == "would cancel 3 jobs\n"
