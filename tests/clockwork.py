"""What tests of schedules ask and do: put one there, look at its ticks and jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tests.standing import Connection

SECONDLY = {"cron": "* * * * * *"}


class Ticked(NamedTuple):
    """A row of pgtask.tick."""

    at: datetime
    job: int | None
    reason: str | None
    missed: int
    fired_at: datetime


def put(
    connection: Connection, name: str, spec: object = SECONDLY, task: str = "t", **columns: Any
) -> int:
    """Insert a schedule as people do, by DML."""
    said = {"name": name, "task": task, "spec": json.dumps(spec), **columns}
    places = ", ".join(f"%({column})s" for column in said)
    row = connection.execute(
        f"insert into pgtask.schedule ({', '.join(said)}) values ({places}) returning id".encode(),
        said,
    ).fetchone()
    assert row is not None
    return int(row[0])


def ticks(connection: Connection, name: str) -> list[Ticked]:
    return [
        Ticked._make(row)
        for row in connection.execute(
            "select t.tick_at, t.job, t.reason, t.missed, t.fired_at from pgtask.tick t"
            " join pgtask.schedule s on s.id = t.schedule where s.name = %s order by t.tick_at",
            [name],
        )
    ]


def jobs(connection: Connection, name: str) -> list[tuple[int, str]]:
    """The id and the tick of every job that a schedule made, oldest tick first."""
    return connection.execute(
        "select id, headers ->> 'scheduled_for' from pgtask.jobs"
        " where headers ->> 'schedule' = %s order by 2",
        [name],
    ).fetchall()


def column(connection: Connection, name: str, what: str) -> Any:
    row = connection.execute(
        f"select {what} from pgtask.schedule where name = %s".encode(), [name]
    ).fetchone()
    return None if row is None else row[0]


def shift(connection: Connection, name: str, seconds: float) -> None:
    """Set when it is due next, as a beat would; nobody is told."""
    connection.execute(
        "update pgtask.schedule set next_at = date_trunc('second', clock_timestamp())"
        " + %s * interval '1 s' where name = %s",
        [seconds, name],
    )


def check_conserved(connection: Connection, names: Sequence[str]) -> None:
    """Every tick that fired has its one job, every job its one tick."""
    for name in names:
        fired = [tick for tick in ticks(connection, name) if tick.job is not None]
        made = jobs(connection, name)
        assert [(t.job, f"{t.at:%Y-%m-%dT%H:%M:%SZ}") for t in fired] == made, name
        assert len({tick for _, tick in made}) == len(made), name
