"""Which role may call and read what: one table, and the SQL that brings a schema to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

# From the least to the most.
Group: TypeAlias = Literal["producer", "monitor", "worker", "admin"]
GROUPS: tuple[Group, ...] = get_args(Group)

# A name stands in one part only. `_` begins what Python calls and people do not.
_EVERYBODY = ("_installation",)
_PRODUCE = (
    "enqueue", "enqueue_many", "_enqueue", "_results", "_watch",
    # Creating a trigger asks for this; firing it does not.
    "enqueue_row_id", "enqueue_row", "enqueue_fields", "check_triggers",
)  # fmt: skip
_CONSUME = ("claim", "complete", "fail", "snooze", "heartbeat", "release", "finish")
# What pgtask's own workers and beats call. They may be changed from one release to the next.
ENGINE = (
    "_claim", "_claim_job", "_finish", "_heartbeat", "_raise_flag", "beats", "commit_job",
    "deregister", "held", "learn", "maintain", "promote", "queues_with_work", "register", "rescue",
    "writers",
    "_beat_ended", "_declare_schedules", "_due", "_fire", "_planned", "_replan",
)  # fmt: skip
# A worker forgets what is past its retention, as a person may.
_PURGE = ("purge", "_purge_jobs")
_MANAGE = (
    "cancel", "discard", "reschedule", "retry", "add_queue", "pause_queue", "resume_queue",
    "set_queue_events", "put_schedule", "_put_schedule", "fire_schedule", "drop_schedule",
    "pause_schedule", "resume_schedule", "reset_schedule",
)  # fmt: skip
_FIND = ("find_jobs",)
# Called by the functions above, with their owner's rights.
INSIDE = (
    "_announce", "_backoff", "_cancel_again", "_check_arguments", "_check_call", "_check_casts",
    "_check_keys", "_check_nul", "_check_options", "_check_policy", "_check_result",
    "_check_schedule", "_check_specs", "_check_wanted", "_count", "_end", "_enqueue_keyed",
    "_enqueue_row", "_fill", "_fill_time", "_forget", "_forget_ticks", "_globs", "_hand_over",
    "_hold", "_jobs_query", "_keep_keys", "_lock_keyed", "_make_job", "_pick", "_place",
    "_placeholders", "_promote", "_redeclare", "_refuse_stale", "_schedule_of", "_seconds",
    "_settle", "_sign", "_tell_beat", "_tell_event", "_trigger_plan", "_upkeep", "_wait_for",
    "_wake",
)  # fmt: skip

FUNCTIONS: Mapping[Group, tuple[str, ...]] = MappingProxyType(
    {
        "producer": (*_EVERYBODY, *_PRODUCE),
        "worker": (*_EVERYBODY, *_PRODUCE, *_CONSUME, *ENGINE, *_PURGE),
        "admin": (*_EVERYBODY, *_PRODUCE, *_MANAGE, *_FIND, *_PURGE),
        "monitor": (*_EVERYBODY, *_FIND),
    }
)

# The version in force cannot be asked of a function: functions are what has a version.
_VERSION: tuple[tuple[str, str], ...] = (("migration", "select"), ("repeatable", "select"))
# What each of these hides from who may not read pgtask.payload, its own text says.
_VIEWS = (
    "attempts", "beats", "jobs", "live_workers", "overdue_jobs", "payloads", "queue_stats",
    "queues", "running_jobs", "schedules", "ticks", "workers",
)  # fmt: skip
_LOOK = tuple((view, "select") for view in _VIEWS)

RELATIONS: Mapping[Group, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "producer": _VERSION,
        "worker": (*_VERSION, *_LOOK),
        "admin": (
            *_VERSION,
            *_LOOK,
            ("payload", "select"),
            *(("schedule", right) for right in ("select", "insert", "update", "delete")),
            ("seq", "usage"),  # the id of a schedule that is inserted by hand
        ),
        "monitor": (*_VERSION, *_LOOK),
    }
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a migrate is told of roles: new (role, group) pairs, and roles to take all from."""

    grants: tuple[tuple[str, Group], ...] = ()
    revokes: tuple[str, ...] = ()

    @property
    def roles(self) -> list[str]:
        return list(dict.fromkeys([*(role for role, _ in self.grants), *self.revokes]))

    def __bool__(self) -> bool:
        return bool(self.grants or self.revokes)


NOBODY_NEW = Wishes()


def groups_of(function: str) -> list[Group]:
    """The groups that may call the function, in the order of GROUPS."""
    return [group for group in GROUPS if function in FUNCTIONS[group]]


def readers_of(relation: str) -> list[Group]:
    """The groups that may read the table or view, in the order of GROUPS."""
    return [group for group in GROUPS if relation in {name for name, _ in RELATIONS[group]}]


def remedy(message: str) -> str:
    """What to do about `permission denied for function cancel`, in whatever language."""
    name = (re.findall(r"\w+", message) or [""])[-1]
    able = {*groups_of(name), *readers_of(name)}
    groups = [group for group in GROUPS if name == "pgtask" or group in able]
    if not groups:
        return "no role may: what people and programs need are functions and views"
    options = " or ".join(f"--grant-{group}" for group in groups)
    return f"let the owner of the schema run: pgtask migrate {options} ROLE"


def described(wishes: Wishes) -> Iterator[str]:
    """A line for each wish: what the role would be able to do."""
    for role in wishes.revokes:
        yield f"would take everything in the schema from {role}"
    for role, group in wishes.grants:
        functions = ", ".join(sorted(FUNCTIONS[group]))
        rights = ", ".join(f"{right} on {name}" for name, right in RELATIONS[group])
        yield f"would grant {group} to {role}: execute on {functions}; {rights}"


# Everybody may execute a new function. Not by default privileges, which would have to be those of
# all schemas; and only what is needed: a GRANT that changes nothing writes all the same.
CLOSE = """\
do $close$
declare
  v_statement text;
begin
  for v_statement in
    select o.statement from (
      select format('revoke all on routine %s from public', p.oid::regprocedure) as statement,
             coalesce(p.proacl, acldefault('f', p.proowner)) as acl
      from pg_proc p where p.pronamespace = 'pgtask'::regnamespace
      union all
      select format('revoke all on %s %s from public',
                    case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass),
             c.relacl
      from pg_class c
      where c.relnamespace = 'pgtask'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
      union all
      select 'revoke all on schema pgtask from public', n.nspacl
      from pg_namespace n where n.nspname = 'pgtask') o
    where exists (select from aclexplode(o.acl) a where a.grantee = 0)
  loop
    execute v_statement;
  end loop;
end $close$;"""


def sql_text(wishes: Wishes = NOBODY_NEW) -> str:
    """The SQL that ends a migrate: PUBLIC has nothing, known roles have what their groups may."""
    return "\n".join([CLOSE, *_forgotten(wishes.revokes), _granted(wishes.grants)])


def _forgotten(roles: Iterable[str]) -> Iterator[str]:
    for role in roles:
        # The functions run with the owner's rights: without them nobody could do anything.
        yield f"""\
do $owner$ begin
  if exists (select from pg_namespace n
             where n.nspname = 'pgtask' and pg_get_userbyid(n.nspowner) = {_quoted(role)}) then
    raise exception 'the role % owns the schema', {_quoted(role)} using errcode = '42501';
  end if;
end $owner$;"""
        name = '"' + role.replace('"', '""') + '"'
        for kind in ("routines", "tables", "sequences"):
            yield f"revoke all on all {kind} in schema pgtask from {name};"
        yield f"revoke all on schema pgtask from {name};"
        yield f"delete from pgtask.grantee where role = {_quoted(role)};"


def _granted(grants: Sequence[tuple[str, Group]]) -> str:
    rights = [
        *({"may": g, "name": n, "right": "execute"} for g in GROUPS for n in FUNCTIONS[g]),
        *({"may": g, "name": n, "right": r} for g in GROUPS for n, r in RELATIONS[g]),
        *({"may": g, "name": "pgtask", "right": "usage"} for g in GROUPS),
    ]
    new = [{"role": role, "may": group} for role, group in grants]
    return f"""\
do $grant$
declare
  v_rights constant json := {_quoted(json.dumps(rights))};
  v_new    constant json := {_quoted(json.dumps(new))};
  v_role      text;
  v_statement text;
begin
  if to_regclass('pgtask.grantee') is null then
    return;  -- another tree than ours
  end if;
  if not (select pg_has_role(n.nspowner, 'USAGE') from pg_namespace n
          where n.nspname = 'pgtask') then
    if json_array_length(v_new) = 0 then
      return;
    end if;
    raise exception 'only the owner of the schema "pgtask" grants, and the role % is not',
      quote_ident(current_user) using errcode = '42501';
  end if;
  -- Also because of "public", which would be everybody and is no role.
  for v_role in
    select w.role from json_to_recordset(v_new) as w (role text)
    where not exists (select from pg_roles r where r.rolname = w.role)
  loop
    raise exception 'there is no role %', quote_literal(v_role) using errcode = '42704';
  end loop;
  delete from pgtask.grantee g where not exists (
    select from pg_namespace n, aclexplode(n.nspacl) a, pg_roles r
    where n.nspname = 'pgtask' and a.privilege_type = 'USAGE' and r.oid = a.grantee
      and r.rolname = g.role);
  insert into pgtask.grantee (role, may)
  select w.role, w.may from json_to_recordset(v_new) as w (role text, may text)
  on conflict do nothing;
  for v_statement in
    with thing as (
      select 'routine' as kind, p.proname::text as name, p.oid::regprocedure::text as told,
             p.proacl as acl
      from pg_proc p where p.pronamespace = 'pgtask'::regnamespace
      union all
      select case c.relkind when 'S' then 'sequence' else 'table' end, c.relname::text,
             c.oid::regclass::text, c.relacl
      from pg_class c
      where c.relnamespace = 'pgtask'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
      union all
      select 'schema', n.nspname::text, quote_ident(n.nspname), n.nspacl
      from pg_namespace n where n.nspname = 'pgtask'
    )
    select distinct format('grant %s on %s %s to %I', w."right", t.kind, t.told, g.role)
    from pgtask.grantee g
    join json_to_recordset(v_rights) as w (may text, name text, "right" text) on w.may = g.may
    join thing t on t.name = w.name and (t.kind = 'routine') = (w."right" = 'execute')
                and (t.kind = 'schema') = (w.name = 'pgtask')
    where not exists (
      select from aclexplode(t.acl) a join pg_roles r on r.oid = a.grantee
      where r.rolname = g.role and a.privilege_type = upper(w."right"))
  loop
    execute v_statement;
  end loop;
end $grant$;"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
