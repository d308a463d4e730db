"""The engine under test; after each test the tables must hold together."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.races import Another, Races


@pytest.fixture
def engine(connection: psycopg.Connection[Any]) -> Iterator[Engine]:
    """Calls in autocommit; what must hold of the tables is checked when the test has ended."""
    engine = Engine(connection)
    yield engine
    engine.check()


@pytest.fixture
def another(dsn: str) -> Iterator[Another]:
    """Engines on connections of their own, closed (and rolled back) at the end."""
    with ExitStack() as stack:

        def connect() -> Engine:
            return Engine(stack.enter_context(psycopg.connect(dsn, autocommit=True)))

        yield connect


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that have to wait."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def races(engine: Engine, another: Another, aside: ThreadPoolExecutor) -> Races:
    return Races(engine, another, aside)
