"""SQLAlchemy engines on a test's database, disposed of with the block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


class engine_for:  # noqa: N801 - used as a context manager
    def __init__(self, dsn: str) -> None:
        self.engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn))

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()


@asynccontextmanager
async def async_engine_for(driver: str, dsn: str) -> AsyncIterator[AsyncEngine]:
    arguments: dict[str, Any] = dict(conninfo_to_dict(dsn))
    if driver == "asyncpg":
        arguments = {
            name: arguments[known]
            for known, name in (
                ("host", "host"),
                ("port", "port"),
                ("user", "user"),
                ("password", "password"),
                ("dbname", "database"),
            )
            if known in arguments
        }
    engine = create_async_engine(f"postgresql+{driver}://", connect_args=arguments)
    try:
        yield engine
    finally:
        await engine.dispose()
