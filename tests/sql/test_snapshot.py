"""sql/snapshot.txt: the schema as a reviewer reads it, which must not drift from sql/."""

from __future__ import annotations

import os
from pathlib import Path

from pgtask.broker import migrate
from pgtask.broker.snapshot import describe

SNAPSHOT = Path(__file__).parents[2] / "sql" / "snapshot.txt"


def test_the_snapshot_shows_the_schema_of_this_checkout(fresh_database: str) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection)
        found = describe(connection)

    if os.environ.get("PGTASK_UPDATE_SNAPSHOT") == "1":
        SNAPSHOT.write_text(found, "utf-8")
    assert SNAPSHOT.is_file(), "make it: PGTASK_UPDATE_SNAPSHOT=1 ./dev test tests/sql"
    assert found == SNAPSHOT.read_text("utf-8"), (
        "the schema differs from sql/snapshot.txt; if that is meant, write it anew: "
        "PGTASK_UPDATE_SNAPSHOT=1 ./dev test tests/sql/test_snapshot.py"
    )


def test_daily_partitions_are_not_part_of_the_schema(fresh_database: str) -> None:
    with migrate.connection(fresh_database) as connection:
        migrate.migrate(connection)
        before = describe(connection)
        connection.execute(
            "create table pgtask.done_some_day partition of pgtask.done"
            " for values from ('2001-01-01') to ('2001-01-02')"
        )

        assert describe(connection) == before
