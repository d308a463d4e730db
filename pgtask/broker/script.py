"""The SQL the migrator sends, statement by statement or as one script for psql."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import TypeAlias

from pgtask.broker.grants import CLOSE, NOBODY_NEW, Wishes
from pgtask.broker.grants import sql_text as grants_text
from pgtask.broker.sqlfiles import Migration, Repeatable, read_tree, version
from pgtask.config import release

LOCK = 6_074_317_052_148_531_211  # any number nobody else would take; it is per database

Step: TypeAlias = Migration | Repeatable

# What a role's defaults could bend. A migration may set some of them for itself: they are put
# back after each file.
SETTINGS = """\
set local search_path = '';
set local client_encoding = 'UTF8';
set local client_min_messages = warning;
set local standard_conforming_strings = on;
set local transform_null_equals = off;
set local check_function_bodies = off;
set local datestyle = 'ISO, MDY';
set local timezone = 'UTC';
set local statement_timeout = 0;
set local lock_timeout = 0;
set local idle_in_transaction_session_timeout = 0;
set local synchronous_commit = on;
set local default_tablespace = '';
set local default_table_access_method = heap;"""

# What a superuser's migrate makes must not be the superuser's: functions run as who owns them, and
# on tables of another owner they could do nothing.
AS_OWNER = """\
do $$
declare
  v_owner name;
begin
  select pg_catalog.pg_get_userbyid(n.nspowner) into v_owner
  from pg_catalog.pg_namespace n
  where n.nspname = 'pgtask' and pg_catalog.pg_get_userbyid(n.nspowner) <> current_user;
  if v_owner is not null and pg_catalog.pg_has_role(v_owner, 'MEMBER') then
    perform pg_catalog.set_config('role', v_owner, true);
  end if;
exception when insufficient_privilege then
  null;  -- a member that may not become it, but acts with its rights
end $$;"""

# The isolation level comes first, it cannot be set after a query: what is read behind the lock
# must be as fresh as the lock.
OPEN = f"""\
set transaction isolation level read committed read write;
{SETTINGS}
do $$ begin perform pg_catalog.pg_advisory_xact_lock({LOCK}); end $$;
{AS_OWNER}"""

# `create schema if not exists` would ask for the right to create it even when it is there.
BOOTSTRAP = """\
do $$ begin
  if not exists (select from pg_catalog.pg_namespace where nspname = 'pgtask') then
    create schema pgtask;
  end if;
  if not exists (
    select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pgtask' and c.relname = 'migration'
  ) then
    create table pgtask.migration (
      number         integer     not null primary key,
      name           text        not null,
      checksum       text        not null,
      oldest_release text        not null,
      applied_at     timestamptz not null default clock_timestamp()
    );
    comment on table pgtask.migration is
      'The numbered files of sql/migrations that were applied, and the oldest release that works.';
    create table pgtask.repeatable (
      path       text        not null primary key,
      checksum   text        not null,
      release    text        not null,
      applied_at timestamptz not null default clock_timestamp()
    );
    comment on table pgtask.repeatable is
      'The files of sql/functions and sql/views in force, and the release that applied them.';
  end if;
end $$;"""


def sql_script(*, root: Traversable | None = None, wishes: Wishes = NOBODY_NEW) -> str:
    """All of sql/ as one psql script, the same text every time; `wishes` at its end.

    It looks before it applies, so it may be run again, on an empty database or on an older one.
    """
    tree = read_tree(root)
    parts = [
        f"-- The schema of pgtask {release()}. Run it with: psql -X -f this.sql",
        "\\set ON_ERROR_STOP on",
        "\\set QUIET on",
    ]
    for migration in tree.migrations:
        parts += ["begin;", OPEN, BOOTSTRAP, _guard(migration), *_block(migration)]
        parts += [CLOSE, "commit;"]
    parts += ["begin;", OPEN]
    for repeatable in tree.repeatables:
        parts += _block(repeatable)
    return "\n".join([*parts, grants_text(wishes), "commit;", ""])


def record(step: Step) -> str:
    if isinstance(step, Migration):
        return (
            "insert into pgtask.migration (number, name, checksum, oldest_release)\n"
            f"values ({step.number}, {_quoted(step.name)}, {_quoted(step.checksum)}, "
            f"{_quoted(step.oldest_release)});"
        )
    return (
        "insert into pgtask.repeatable (path, checksum, release)\n"
        f"values ({_quoted(step.path)}, {_quoted(step.checksum)}, {_quoted(release())})\n"
        "on conflict (path) do update set checksum = excluded.checksum, "
        "release = excluded.release, applied_at = excluded.applied_at;"
    )


def _block(step: Step) -> list[str]:
    if isinstance(step, Migration):
        there = f"select from pgtask.migration where number = {step.number}"
    else:
        there = (
            f"select from pgtask.repeatable where path = {_quoted(step.path)} and "
            f"(checksum = {_quoted(step.checksum)} or {_numbers('release')} > {_ours()})"
        )
    return [
        f"select not exists ({there}) as pgtask_pending \\gset",
        "\\if :pgtask_pending",
        step.text.rstrip("\n"),
        SETTINGS,
        record(step),
        "\\endif",
    ]


def _guard(migration: Migration) -> str:
    """What `_plan` raises, as SQL: a changed file, and a schema too new for this release."""
    return f"""\
do $$ begin
  if exists (select from pgtask.migration where {_numbers("oldest_release")} > {_ours()}) then
    raise exception 'the schema needs a later pgtask than {release()}';
  end if;
  if exists (
    select from pgtask.migration
    where number = {migration.number} and checksum <> {_quoted(migration.checksum)}
  ) then
    raise exception '{migration.path} was applied and has changed since';
  end if;
end $$;"""


def _numbers(column: str) -> str:
    leading = f"substring({column} from '^[0-9]+(?:\\.[0-9]+)*')"
    return f"string_to_array(regexp_replace({leading}, '(\\.0)+$', ''), '.')::int[]"


def _ours() -> str:
    return f"array{list(version(release()))}::int[]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
