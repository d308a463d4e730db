"""Which installation a connection leads to: statements that cannot fail in a transaction."""

from __future__ import annotations

from typing import NamedTuple

from pgtask.broker.statement import Statement


class Identity(NamedTuple):
    """Two connections lead to the same installation exactly when these are equal."""

    installation: str
    database: int


def is_readable() -> Statement[bool | None]:
    """Whether the role may read the identity; None where there is no pgtask schema.

    Asked of the catalogue, which everybody may read: to_regclass() raises for a schema without
    USAGE, and an error would abort the caller's transaction. False where it is too old, too.
    """
    return Statement(
        "select pg_catalog.has_schema_privilege(n.oid, 'usage')"
        " and coalesce(pg_catalog.bool_or(pg_catalog.has_function_privilege(p.oid, 'execute')),"
        " false)"
        " from pg_catalog.pg_namespace n left join pg_catalog.pg_proc p"
        " on p.pronamespace = n.oid and p.proname = '_installation'"
        " where n.nspname = 'pgtask' group by n.oid",
        {},
        lambda rows: rows[0][0] if rows else None,
    )


def identity() -> Statement[Identity]:
    """The identity of the database; only where `is_readable` answered True."""
    return Statement(
        "select pgtask._installation()::text, d.oid::bigint from pg_catalog.pg_database d"
        " where d.datname = pg_catalog.current_database()",
        {},
        lambda rows: Identity(rows[0][0], rows[0][1]),
    )
