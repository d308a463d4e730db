"""What tests ask about jobs: where one stands, how attempts ended, what an effect log says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from pgtask.job import FINISHED
from tests.conditions import eventually

Connection = psycopg.Connection[Any]


class Standing(NamedTuple):
    """A row of pgtask.jobs, as far as tests look at it."""

    state: str
    reason: str | None
    attempt: int
    epoch: int
    crashes: int
    error: str | None


def standing(connection: Connection, job_id: int) -> Standing | None:
    row = connection.execute(
        "select state, reason, attempt, epoch, crashes, error from pgtask.jobs where id = %s",
        [job_id],
    ).fetchone()
    return None if row is None else Standing._make(row)


def end_of(connection: Connection, job_id: int, timeout: float = 15.0) -> Standing:
    """Wait until the job has ended; return where it stands then."""

    def ended() -> Standing | None:
        now = standing(connection, job_id)
        return now if now is not None and now.state in FINISHED else None

    return eventually(ended, timeout) or Standing("", None, 0, 0, 0, None)


def outcomes(connection: Connection, job_id: int) -> list[str]:
    """How the unsuccessful attempts ended, in their order."""
    return [
        outcome
        for (outcome,) in connection.execute(
            "select outcome from pgtask.attempts where job = %s order by epoch", [job_id]
        )
    ]


def counted(connection: Connection, task: str, outcome: str) -> int:
    row = connection.execute(
        "select n from pgtask.tally where task = %s and outcome = %s", [task, outcome]
    ).fetchone()
    return 0 if row is None else int(row[0])


def unfinished(connection: Connection) -> int:
    row = connection.execute(
        "select count(*) from pgtask.jobs where finished_at is null"
    ).fetchone()
    assert row is not None
    return int(row[0])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def declare_dead(connection: Connection, pid: int) -> None:
    """What other workers do after a lease of silence: rescue, with the beat that did not move."""
    row = connection.execute(
        "select id, beat from pgtask.worker where pid = %s and alive", [pid]
    ).fetchone()
    assert row is not None
    connection.execute(
        "select * from pgtask.rescue(array[%s]::uuid[], array[%s]::bigint[])", [row[0], row[1]]
    )
