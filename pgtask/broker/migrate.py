"""Bringing a database's schema to what this code needs, and saying whether it is there.

A migration that drops a view or function which is to come back unchanged deletes its row from
`pgtask.repeatable`: only files whose checksum is not recorded are applied again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources.abc import Traversable
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgtask.broker.faults import translate
from pgtask.broker.grants import CLOSE, NOBODY_NEW, Wishes, sql_text
from pgtask.broker.script import BOOTSTRAP, OPEN, SETTINGS, Step, record
from pgtask.broker.script import sql_script as sql_script
from pgtask.broker.sqlfiles import Migration, Repeatable, Tree, read_tree, version
from pgtask.config import release
from pgtask.errors import (
    BrokerError,
    MigrationChanged,
    SchemaMissing,
    SchemaTooNew,
    SchemaTooOld,
    Unavailable,
    WrongDatabase,
)

OLDEST_SERVER = 14

Connection: TypeAlias = "psycopg.Connection[Any]"
AsyncConnection: TypeAlias = "psycopg.AsyncConnection[Any]"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be applied, or what was: migrations first, then repeatables."""

    migrations: tuple[Migration, ...]
    repeatables: tuple[Repeatable, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return (*self.migrations, *self.repeatables)

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `migrate --list`; state is applied, pending, changed or "newer code"."""

    path: str
    state: str
    applied_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Recorded:
    name: str
    checksum: str
    release: str
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class _State:
    """What the two tables of the migrator say; None stands for a database without a schema."""

    migrations: dict[int, _Recorded]
    repeatables: dict[str, _Recorded]


@contextmanager
def connection(dsn: str) -> Iterator[Connection]:
    """A connection fit for the functions of this file; Unavailable when there is none."""
    try:
        opened = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=10,
            application_name="pgtask:migrate",
            client_encoding="UTF8",
        )
    except psycopg.Error as error:
        raise translate(error) or error from error
    with opened:
        yield opened


def plan(connection: Connection, *, root: Traversable | None = None) -> Plan:
    """What `migrate` would apply. Changes nothing."""
    return _plan(read_tree(root), _state(connection))


def migrate(
    connection: Connection,
    *,
    root: Traversable | None = None,
    wishes: Wishes = NOBODY_NEW,
    on_step: Callable[[Step], None] | None = None,
) -> Plan:
    """Apply what is missing, have roles be able to what they should, return what was applied.

    `on_step` hears of each file after its transaction has committed. Any number may run at once.
    """
    if connection.info.transaction_status != TransactionStatus.IDLE:
        raise BrokerError("migrate needs a connection outside a transaction → commit first")
    _server_fits(connection.info.server_version)
    check_roles(connection, wishes)
    tree = read_tree(root)
    applied: list[Migration] = []
    while True:
        with connection.transaction():
            _open(connection)
            # Read again behind the lock: another migrator may have gone first.
            todo = _plan(tree, _state(connection))
            steps: Sequence[Step] = todo.migrations[:1] or todo.repeatables
            for step in steps:
                _apply(connection, step)
            # In this transaction: nothing that is new may be everybody's for a moment.
            _grant(connection, CLOSE if todo.migrations else sql_text(wishes))
        if on_step is not None:
            for step in steps:
                on_step(step)
        if not todo.migrations:
            return Plan(tuple(applied), todo.repeatables)
        applied.append(todo.migrations[0])


def check_roles(connection: Connection, wishes: Wishes) -> None:
    """Raise unless there are all the roles of the wishes."""
    if not wishes:
        return
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(_UNKNOWN, [wishes.roles], prepare=False)
        for (role,) in cursor.fetchall():
            raise BrokerError(f'there is no role "{role}" → create it first: create role "{role}"')
        cursor.execute(_OWNER, [list(wishes.revokes)], prepare=False)
        for (role,) in cursor.fetchall():
            raise BrokerError(f'the role "{role}" owns the schema → it keeps its rights')


def status(connection: Connection, *, root: Traversable | None = None) -> list[Entry]:
    """Every file this code or the database knows, in order of application."""
    tree, state = read_tree(root), _state(connection) or _State({}, {})
    entries = [
        _entry(file.path, file.checksum, state.migrations.get(file.number))
        for file in tree.migrations
    ]
    known = {file.number for file in tree.migrations}
    entries += [
        Entry(f"migrations/{number:04}_{recorded.name}.sql", "newer code", recorded.applied_at)
        for number, recorded in sorted(state.migrations.items())
        if number not in known
    ]
    return entries + [
        _entry(file.path, file.checksum, state.repeatables.get(file.path))
        for file in tree.repeatables
    ]


def check(connection: Connection, *, root: Traversable | None = None) -> None:
    """Raise unless this code can work with the schema: SchemaMissing, SchemaTooOld, SchemaTooNew.

    Safe inside a caller's transaction: none of its statements can fail for want of the schema.
    """
    _server_fits(connection.info.server_version)
    _judge(read_tree(root), _state(connection))


async def acheck(connection: AsyncConnection, *, root: Traversable | None = None) -> None:
    """`check` for an async connection."""
    _server_fits(connection.info.server_version)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_LOOK, prepare=False)
        if not _readable(await cursor.fetchone()):
            return _judge(read_tree(root), None)
        await cursor.execute(_RECORDED, prepare=False)
        return _judge(read_tree(root), _parsed(await cursor.fetchall()))


# --- deciding ------------------------------------------------------------------------------------


def _plan(tree: Tree, state: _State | None) -> Plan:
    if state is None:
        return Plan(tree.migrations, tree.repeatables)
    _refuse_if_too_old(state)
    pending = []
    for migration in tree.migrations:
        recorded = state.migrations.get(migration.number)
        if recorded is None:
            pending.append(migration)
        elif recorded.checksum != migration.checksum:
            raise MigrationChanged(
                f"sql/{migration.path} was applied on {recorded.applied_at:%Y-%m-%d} and has "
                "changed since → restore the file, and put the change into a new migration"
            )
    return Plan(tuple(pending), tuple(_stale(tree, state)))


def _judge(tree: Tree, state: _State | None) -> None:
    if state is None or not state.migrations:
        raise SchemaMissing('the database has no schema "pgtask" → run: pgtask migrate')
    todo = _plan(tree, state)
    if todo.migrations:
        raise SchemaTooOld(
            f'the schema "pgtask" is at version {max(state.migrations)}, this code needs '
            f"{tree.migrations[-1].number} → run: pgtask migrate"
        )
    if todo.repeatables:
        raise SchemaTooOld(
            f"{len(todo.repeatables)} functions or views of the schema are older than this code "
            f"({todo.repeatables[0].path}, …) → run: pgtask migrate"
        )


def _refuse_if_too_old(state: _State) -> None:
    for number, recorded in sorted(state.migrations.items()):
        if version(release()) < version(recorded.release):
            raise SchemaTooNew(
                f"migration {number} ({recorded.name}) needs pgtask {recorded.release} or later, "
                f"this is {release()} → upgrade pgtask"
            )


def _stale(tree: Tree, state: _State) -> Iterator[Repeatable]:
    known = {migration.number for migration in tree.migrations}
    if not known.issuperset(state.migrations):
        return  # a later release was here: its functions are not to be taken back
    for repeatable in tree.repeatables:
        recorded = state.repeatables.get(repeatable.path)
        if recorded is None or (
            recorded.checksum != repeatable.checksum
            and version(recorded.release) <= version(release())
        ):
            yield repeatable


def _entry(path: str, checksum: str, recorded: _Recorded | None) -> Entry:
    if recorded is None:
        return Entry(path, "pending", None)
    return Entry(
        path, "applied" if recorded.checksum == checksum else "changed", recorded.applied_at
    )


def _server_fits(server_version: int) -> None:
    if server_version < OLDEST_SERVER * 10_000:
        raise WrongDatabase(
            f"the server is PostgreSQL {server_version // 10_000} → pgtask needs {OLDEST_SERVER} "
            "or later"
        )


# --- speaking to the database --------------------------------------------------------------------

# From the catalogs, not to_regclass(): that one fails in a schema the role may not use.
_LOOK = b"""
select count(*) filter (where pg_catalog.has_schema_privilege(n.oid, 'usage')
                          and pg_catalog.has_table_privilege(c.oid, 'select')),
       count(*), current_user::text
  from pg_catalog.pg_namespace n
  join pg_catalog.pg_class c on c.relnamespace = n.oid
 where n.nspname = 'pgtask' and c.relname in ('migration', 'repeatable') and c.relkind = 'r'"""

# Seconds, because a caller's DateStyle may be one that psycopg cannot read.
_RECORDED = b"""
select number, name, checksum, oldest_release,
       extract(epoch from applied_at)::pg_catalog.float8
  from pgtask.migration
 union all
select null, path, checksum, release, extract(epoch from applied_at)::pg_catalog.float8
  from pgtask.repeatable"""


_UNKNOWN = b"""
select w.role from pg_catalog.unnest(%s::pg_catalog.text[]) as w (role)
 where not exists (select from pg_catalog.pg_roles r where r.rolname = w.role)"""


_OWNER = b"""
select w.role from pg_catalog.unnest(%s::pg_catalog.text[]) as w (role)
  join pg_catalog.pg_namespace n
    on n.nspname = 'pgtask' and pg_catalog.pg_get_userbyid(n.nspowner) = w.role"""


def _state(connection: Connection) -> _State | None:
    with connection.cursor(row_factory=tuple_row) as cursor:
        if not _readable(cursor.execute(_LOOK, prepare=False).fetchone()):
            return None
        return _parsed(cursor.execute(_RECORDED, prepare=False).fetchall())


def _readable(row: tuple[Any, ...] | None) -> bool:
    assert row is not None  # an aggregate always answers
    allowed, there, role = row
    if there == 2 and allowed < 2:
        raise BrokerError(
            f'the role "{role}" may not use the schema "pgtask" → let its owner run: '
            f'pgtask migrate --grant-producer "{role}" (or -worker, -admin, -monitor)'
        )
    return bool(there == 2)


def _parsed(rows: Sequence[tuple[Any, ...]]) -> _State:
    state = _State({}, {})
    for number, name, checksum, at_release, applied_at in rows:
        recorded = _Recorded(name, checksum, at_release, datetime.fromtimestamp(applied_at, UTC))
        if number is None:
            state.repeatables[name] = recorded
        else:
            state.migrations[number] = recorded
    return state


def _open(connection: Connection) -> None:
    _execute(connection, OPEN)
    try:
        _execute(connection, BOOTSTRAP)
    except psycopg.errors.InsufficientPrivilege as error:
        info = connection.info
        raise BrokerError(
            f'the role "{info.user}" may not create the schema "pgtask" '
            f"({error.diag.message_primary}) → let an owner run: "
            f'grant create on database "{info.dbname}" to "{info.user}"'
        ) from error


def _apply(connection: Connection, step: Step) -> None:
    try:
        _execute(connection, step.text)
        _execute(connection, SETTINGS)
        _execute(connection, record(step))
    except psycopg.Error as error:
        if connection.closed:
            raise Unavailable("the connection was lost → run: pgtask migrate again") from error
        raise BrokerError(f"sql/{step.path}: {error}") from error


def _grant(connection: Connection, text: str) -> None:
    try:
        _execute(connection, text)
    except psycopg.errors.InsufficientPrivilege as error:
        raise BrokerError(
            f"{error.diag.message_primary} → run it as the owner: pgtask migrate"
        ) from error


def _execute(connection: Connection, text: str) -> None:
    # bytes without parameters: sent as it is, any number of statements, any % in them.
    connection.execute(text.encode(), prepare=False)
