"""Roles: a migrated database, a log-in role of each group, and one that has been given nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from pgtask.broker import migrate
from pgtask.broker.grants import GROUPS, Group, Wishes

if TYPE_CHECKING:
    from tests.conftest import TestServer

PASSWORD = "open"


@dataclass(frozen=True)
class Roles:
    """Each group has one role; roles are the server's, so the test process is in their names."""

    server: TestServer
    database: str
    suffix: str

    @classmethod
    @contextmanager
    def made(cls, server: TestServer, suffix: str) -> Iterator[Roles]:
        """Make database and roles; drop them afterwards."""
        roles = cls(server, f"roles_{suffix}", suffix)
        names = [roles.name(group) for group in (*GROUPS, "stranger")]
        owner = server.create(roles.database)
        with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
            for name in names:
                connection.execute(f'create role "{name}" login password {PASSWORD!r}'.encode())
        try:
            with migrate.connection(owner) as connection:
                wishes = Wishes(tuple((roles.name(group), group) for group in GROUPS))
                migrate.migrate(connection, wishes=wishes)
            yield roles
        finally:
            server.drop(roles.database)
            with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
                for name in names:
                    connection.execute(f'drop role "{name}"'.encode())

    def name(self, group: str) -> str:
        return f"{group}_{self.suffix}"

    def dsn(self, group: Group | str) -> str:
        """How the role logs in; `owner` is who owns the schema."""
        if group == "owner":
            return self.server.dsn(self.database)
        if group == "superuser":
            return psycopg.conninfo.make_conninfo(self.server.superuser_dsn, dbname=self.database)
        return self.server.lease.dsn_of(self.name(group), self.database, PASSWORD)

    @contextmanager
    def connected(self, group: Group | str) -> Iterator[psycopg.Connection[Any]]:
        """A connection of that role, in autocommit."""
        with psycopg.connect(self.dsn(group), autocommit=True) as connection:
            yield connection
