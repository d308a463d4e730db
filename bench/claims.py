"""How long the server takes for a claim, by its own clock: pg_stat_user_functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import sql


class Claims(NamedTuple):
    """Calls so far, and ms spent in them."""

    calls: int
    ms: float

    def mean_since(self, before: Claims) -> float | None:
        """Milliseconds a call between the two; None without a call."""
        calls = self.calls - before.calls
        return (self.ms - before.ms) / calls if calls else None


def count_claims(connection: psycopg.Connection[Any]) -> None:
    """Let sessions that start from now on count their function calls."""
    name = sql.Identifier(connection.info.dbname)
    connection.execute(sql.SQL("alter database {} set track_functions = 'pl'").format(name))


def claims(connection: psycopg.Connection[Any]) -> Claims:
    """What was counted so far; sessions report about once a second."""
    connection.execute("select pg_stat_clear_snapshot()")
    row = connection.execute(
        "select coalesce(sum(calls), 0)::bigint, coalesce(sum(total_time), 0)::float8"
        " from pg_stat_user_functions"
        " where schemaname = 'pgtask' and funcname like 'claim%'"
    ).fetchone()
    assert row is not None
    return Claims(*row)
