"""Consumer: a process that is none of pgtask's workers, as SQL alone makes one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.engine import Engine


@contextmanager
def refused(sqlstate: str, match: str | None = None) -> Iterator[None]:
    """What is done inside must be refused with this SQLSTATE."""
    with pytest.raises(psycopg.Error, match=match) as error:
        yield
    assert error.value.sqlstate == sqlstate


class Consumer:
    """The functions that consumers call, under one id."""

    def __init__(self, engine: Engine, worker: UUID | None = None) -> None:
        self.engine = engine
        self.id = worker or uuid4()

    def claim(self, n: int | None = 10, **options: object) -> list[Any]:
        params = {
            name: options.get(name) for name in ("queues", "tasks", "lease", "tenant", "wake_for")
        }
        assert set(options) <= set(params), options
        return self.engine.all(
            "select * from pgtask.claim(%s, %s::int, %s::text[], %s::text[], %s::interval,"
            " %s::text, %s::interval)",
            self.id, n, *params.values(),
        )  # fmt: skip

    def one(self, **options: object) -> Any:
        (job,) = self.claim(1, **options)
        return job

    def complete(self, job: Any, result: object = None) -> None:
        text = None if result is None else json.dumps(result)
        self.engine.all(
            "select pgtask.complete(%s, %s::bigint, %s::int, %s::json)",
            self.id, job.id, job.epoch, text,
        )  # fmt: skip

    def fail(self, job: Any, error: str | None = None, retry_at: str | None = None) -> None:
        self.engine.all(
            "select pgtask.fail(%s, %s::bigint, %s::int, %s::text, %s::timestamptz)",
            self.id, job.id, job.epoch, error, retry_at,
        )  # fmt: skip

    def snooze(self, job: Any, delay: str | None = None) -> None:
        self.engine.all(
            "select pgtask.snooze(%s, %s::bigint, %s::int, %s::interval)",
            self.id, job.id, job.epoch, delay,
        )  # fmt: skip

    def finish(self, *outcomes: tuple[object, ...]) -> dict[int, str]:
        """Outcomes are (job, verdict[, result as JSON text[, error[, delay]]])."""
        rows = []
        for job, verdict, *rest in outcomes:
            result, error, delay = (*rest, None, None, None)[:3]
            rows.append((job.id, job.epoch, verdict, result, error, delay))  # type: ignore[attr-defined]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 6
        return dict(
            self.engine.all(
                "select * from pgtask.finish(%s, array(select (o.*)::pgtask.outcome from unnest("
                "%s::bigint[], %s::int[], %s::text[], %s::json[], %s::text[], %s::interval[]) as o"
                " (job, epoch, verdict, result, error, delay)))",
                self.id, *columns,
            )
        )  # fmt: skip

    def heartbeat(self) -> dict[int, bool]:
        return dict(self.engine.all("select * from pgtask.heartbeat(%s)", self.id))

    def release(self, *ids: int) -> list[int]:
        return self.engine.values(
            "select * from pgtask.release(%s, %s::bigint[])", self.id, list(ids) or None
        )

    def fall_silent(self, interval: str = "1 hour") -> None:
        """Be as one that gave its last sign so long ago; and let the next claim look for it."""
        self.engine.all(
            "update pgtask.worker set last_beat_at = last_beat_at - %s::interval where id = %s"
            " returning id",
            interval, self.id,
        )  # fmt: skip
        self.engine.all("select setval('pgtask.upkeep_at', 0)")

    def row(self) -> Any:
        return self.engine.one("select * from pgtask.workers where id = %s", self.id)
