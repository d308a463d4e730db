"""What the stories share: a business table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgtask import config
from tests import ledger
from tests.standing import Connection


@pytest.fixture
def effects(connection: Connection) -> Callable[[], list[int]]:
    """The table that transactional tasks write to, empty; read by calling."""
    connection.execute("create table if not exists public.effect (value integer not null)")
    connection.execute("truncate public.effect")
    return lambda: [
        value for (value,) in connection.execute("select value from public.effect order by value")
    ]


@pytest.fixture
def booked(connection: Connection, dsn: str) -> Iterator[Callable[[], list[int]]]:
    """The table and the app of tests.ledger; what is booked is read by calling."""
    drop = (
        "drop table if exists public.ledger; drop sequence if exists public.runs;"
        " drop function if exists public.obey()"
    )
    connection.execute(drop)
    connection.execute(
        "create table public.ledger (value integer not null); create sequence public.runs"
    )
    ledger.app.config = config.load({"dsn": dsn}, {}, {}, Path.cwd())
    yield lambda: [
        value for (value,) in connection.execute("select value from public.ledger order by value")
    ]
    ledger.app.close()
    connection.execute(drop)
