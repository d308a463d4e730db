"""Session: how a connection of pgtask's own begins: what it is told, past a pooler or not.

Defaults of a role or a database must not change what a statement means. Directly, settings are
start-up options. A pooler that lends a server's connection out for one transaction refuses these,
or drops them, and nothing that is set once lasts: there, each statement carries its settings along,
in the one message and the one transaction that it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any, LiteralString, NamedTuple, TypeAlias

import psycopg
from psycopg import AsyncClientCursor, AsyncCursor, ClientCursor, Cursor, pq
from psycopg.conninfo import conninfo_to_dict

from pgtask.broker.bounded import PATIENCE, AsyncBoundedConnection, BoundedConnection

AnyConnection: TypeAlias = "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"

log = logging.getLogger("pgtask.broker")

CONNECT = 10  # s
KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # ms that sent data may stay without an acknowledgement
}

# What a client's DSN says in its own `options` has the last word over these,
_DEFAULTS = {"lock_timeout": "0", "synchronous_commit": "on"}
# and these have it over the DSN.
_FIRM = {
    "search_path": "",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "30s",
    "idle_session_timeout": "0",
    "datestyle": "iso",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "standard_conforming_strings": "on",
}
_WORKER = {
    "statement_timeout": "60s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "synchronous_commit": "on",
}
# Past a pooler: what is read after the end of the transaction; what its first words say; what the
# driver quotes for either way.
_NOT_LOCAL = {"datestyle", "default_transaction_isolation", "standard_conforming_strings"}

# Who is at the other end, and whether the role's own default forbids to write. Where the server's
# configuration does, somebody has fenced it: an old primary after a failover. That one stands.
_LOOK = b"""
set local statement_timeout = '10s';
select pg_catalog.pg_backend_pid(), exists (
  select from pg_catalog.pg_settings s
  where s.name = 'default_transaction_read_only' and s.setting = 'on'
    and s.source in ('user', 'database', 'database user'))"""


class _Known(NamedTuple):
    """What the connections so far have taught; it only ever grows."""

    pooled: bool = False
    writes: bool = False  # must say that it will
    limits: bool = False  # PostgreSQL 17 and later limit a transaction's time


class Session:
    """Opens connections to one database. `pooler` is auto, transaction or none."""

    def __init__(
        self,
        dsn: str,
        *,
        pooler: str = "auto",
        patience: float = PATIENCE,
        worker: bool = False,
    ) -> None:
        self._dsn = dsn
        # The server gives up before we do: then it is known that nothing was committed.
        self._defaults = {"statement_timeout": f"{max(1, int(patience - 5))}s", **_DEFAULTS}
        self._auto = pooler == "auto"
        self._worker = worker
        self._known = _Known(pooled=pooler == "transaction")

    @property
    def pooled(self) -> bool:
        """Whether a transaction pooler stands before the database: no LISTEN, nothing prepared."""
        return self._known.pooled

    def connect(self, name: str, *, deadline: int = CONNECT) -> BoundedConnection:
        """Open a connection for synchronous code; each host has `deadline` seconds."""
        while True:
            before = self._known
            arguments = {**self.arguments(name), "connect_timeout": deadline}
            try:
                connection = BoundedConnection.connect(self._dsn, **arguments)
            except psycopg.OperationalError as error:
                self._blame_pooler(error)
                continue
            connection.patience = deadline
            try:
                cursor = connection.execute(_LOOK, prepare=False).set_result(-1)
                self._learn(connection, cursor.fetchone())
                if self._is_as_told(before):
                    if (late := self._late_words(connection, before)) is not None:
                        connection.execute(late, prepare=False)
                    connection.patience = PATIENCE
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()

    async def aconnect(self, name: str, *, deadline: float = CONNECT) -> AsyncBoundedConnection:
        """Open a connection; TimeoutError when that takes longer than `deadline` seconds."""
        while True:
            before = self._known
            try:
                async with asyncio.timeout(deadline):
                    connection = await AsyncBoundedConnection.connect(
                        self._dsn, **self.async_arguments(name)
                    )
            except psycopg.OperationalError as error:
                self._blame_pooler(error)
                continue
            connection.patience = deadline
            try:
                cursor = await connection.execute(_LOOK, prepare=False)
                await cursor.set_result(-1)
                self._learn(connection, await cursor.fetchone())
                if self._is_as_told(before):
                    if (late := self._late_words(connection, before)) is not None:
                        await connection.execute(late, prepare=False)
                    return connection
            except BaseException:
                await connection.close()
                raise
            await connection.close()

    def arguments(self, name: str) -> dict[str, Any]:
        """Return the keyword arguments of a connection, by what is known so far."""
        arguments = self._arguments(name)
        arguments["cursor_factory"] = ClientCursor if self.pooled else Cursor
        return arguments

    def async_arguments(self, name: str) -> dict[str, Any]:
        """As arguments."""
        arguments = self._arguments(name)
        arguments["cursor_factory"] = AsyncClientCursor if self.pooled else AsyncCursor
        return arguments

    def configure(self, connection: psycopg.Connection[Any]) -> None:
        """Tell a connection that a pool has opened what could not be said at its start."""
        if (late := self._late_words(connection, self._known)) is not None:
            connection.execute(late, prepare=False)

    async def aconfigure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """As configure."""
        if (late := self._late_words(connection, self._known)) is not None:
            await connection.execute(late, prepare=False)

    def text(self, statement: LiteralString) -> LiteralString:
        """Return the statement as it is sent: past a pooler, with its settings before it.

        Several statements in one message are one transaction; the last one answers.
        """
        return self.preamble() + statement if self.pooled else statement

    def preamble(self) -> LiteralString:
        """Return what a transaction past a pooler begins with."""
        writes = " read write" if self._known.writes else ""
        return f"set transaction isolation level read committed{writes}; " + "".join(
            f"set local {name} = '{value}'; "
            for name, value in {**self._defaults, **self._settings()}.items()
            if name not in _NOT_LOCAL
        )

    # ---------------------------------------------------------------------------------------------

    def _arguments(self, name: str) -> dict[str, Any]:
        theirs = conninfo_to_dict(self._dsn)
        arguments: dict[str, Any] = {
            "autocommit": True,
            "application_name": name,
            "client_encoding": "UTF8",
            "connect_timeout": CONNECT,
            **KEEPALIVE,
        }
        if self.pooled:
            return {**arguments, "prepare_threshold": None}
        own = str(theirs.get("options") or os.environ.get("PGOPTIONS") or "")
        arguments["options"] = f"{_options(self._defaults)} {own} {_options(self._settings())}"
        if self._known.writes:
            arguments["options"] += " -c default_transaction_read_only=off"
        hosts = str(theirs.get("host") or theirs.get("hostaddr") or os.environ.get("PGHOST") or "")
        if "," in hosts and not (
            theirs.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS")
        ):
            # The one that takes writes. By "read-write" a role's default would make it a standby.
            newer = pq.version() >= 140_000
            arguments["target_session_attrs"] = "primary" if newer else "read-write"
        return arguments

    def _settings(self) -> dict[str, str]:
        limits = {"transaction_timeout": "0"} if self._known.limits else {}
        return {**_FIRM, **limits, **(_WORKER if self._worker else {})}

    def _late_words(self, connection: AnyConnection, before: _Known) -> bytes | None:
        if self.pooled:
            style = connection.info.parameter_status("DateStyle") or ""
            # PgBouncer keeps this one for each of its clients.
            return None if style.startswith("ISO") else b"set datestyle = 'ISO, MDY'"
        return b"set transaction_timeout = 0" if self._known.limits > before.limits else None

    def _is_as_told(self, before: _Known) -> bool:
        """Whether a connection that was opened by what was known then is as it should be by now."""
        return self._known._replace(limits=before.limits) == before

    def _blame_pooler(self, error: psycopg.OperationalError) -> None:
        """Return where the connection may be tried again without options; raise otherwise."""
        if not self._auto or self.pooled or not refuses_options(error):
            raise error
        self._known = self._known._replace(pooled=True)
        self._say("it refuses start-up options")

    def _learn(self, connection: AnyConnection, looked: tuple[int, bool] | None) -> None:
        assert looked is not None
        backend, must_say = looked
        pooled = self.pooled
        if self._auto and not pooled and backend != connection.info.backend_pid:
            pooled = True
            self._say("the process that works is not the one that answered")
        limits = connection.info.server_version >= 170_000
        self._known = _Known(pooled, self._known.writes or must_say, limits)

    def _say(self, why: str) -> None:
        log.info(
            "a connection pooler stands before the database (%s): nothing is prepared, and nobody"
            " listens through it; set PGTASK_POOLER=none if that is wrong",
            why,
        )


def refuses_options(error: psycopg.Error) -> bool:
    """Tell whether a pooler refused the connection for its start-up options."""
    # PgBouncer's words, which it does not translate.
    return "unsupported startup parameter" in str(error)


def _options(settings: dict[str, str]) -> str:
    return " ".join(f"-c {name}=" + value.replace(" ", "\\ ") for name, value in settings.items())
