"""The SQL reference: a page for each function that people call, and the index of all.

Signature, sentence and columns come from the catalogue, errors from the bodies of the functions,
who may from the table of grants, the example from the function's own file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from pgtask import errors
from pgtask.broker.grants import ENGINE, FUNCTIONS, GROUPS, groups_of, readers_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference" / "sql"
_SOURCES = ROOT / "sql" / "functions"

# SQLSTATEs of PostgreSQL that functions of ours raise, too.
_STANDARD = {
    "40001": "Others changed the same rows again and again meanwhile; try the transaction again.",
    "55P03": "Others held the same rows or tables for too long; try again.",
}

# What a parameter means wherever it stands, and "function.parameter" where it means another thing.
_MEANINGS = {
    "app": "the app that declares it",
    "args": "positional arguments, a JSON array; none",
    "at": "as if it were this instant; now",
    "attempt": "so many attempts count as used; as it is",
    "backoff": (
        'before another attempt: `"exp"`, `"linear:S"`, `"const:S"` or a list of seconds; `"exp"`'
    ),
    "catchup": "what to do about missed ticks: `last`, `none` or `all`; `last`",
    "delay": "when to run, from now on; at once",
    "enabled": "whether it fires; true",
    "epoch": "which claim of the job this is, as `claim` answered",
    "error": "what went wrong, in words",
    "expires": "not started within it, the job is cancelled; never",
    "finished": "ended that long ago, or longer; 7 days, with `ids` any age",
    "grace": "a tick that is later than this is not fired; never too late",
    "headers": "a JSON object that travels beside the arguments",
    "ids": "of which jobs",
    "job": "the id of the job",
    "jobs": "which of the worker's jobs; all, and the worker's row goes",
    "keep": "what is kept of it: `all`, `failures` or `none`; `all`",
    "key": "at most one unfinished job has it; none",
    "kwargs": "arguments by name, a JSON object; none",
    "lease": "dead after so long without a sign of life, 1 second to 1 day; 30 seconds",
    "limit": "at most so many; all",
    "max_attempts": "executions in all; 3",
    "n": "at most so many; 1",
    "name": "of which one",
    "of_table": "of which table; all tables",
    "older_than": "nothing has happened to it for longer",
    "on_conflict": "when an unfinished job has the key: `replace`, `keep` or `raise`; `replace`",
    "outcomes": "how the attempts ended; see the type in the [index](../sql.md)",
    "overlap": "while the job before is unfinished: `skip`, `queue` or `replace`; `skip`",
    "page": "at most so many in this call; 5000",
    "priority": "-100 to 100, higher first; 0",
    "queue": "the lane that workers take; `default`",
    "queues": "of these queues; of any that has work",
    "reason": "why, for people",
    "result": "what came of it, as JSON",
    "retry_at": "when to try again; by the job's policy",
    "run_at": "when to run; at once",
    "serial": "at most one job with it runs at a time; none",
    "spec": "when, as JSON: see [schedules](../../how-to/schedules.md)",
    "state": "`blocked`, `scheduled`, `ready`, `running`, `succeeded`, `failed` or `cancelled`",
    "tag": "with this tag",
    "tags": "words to find it by; none",
    "task": "the name of the task",
    "tasks": "of these tasks only, `*` is any run of characters; of any",
    "tenant": "whose it is; as the setting `pgtask.tenant` says",
    "terminate": "interrupt what runs, and kill it after a grace; only ask it to stop",
    "timeout": "how long an attempt may run; without limit",
    "wake_for": "have enqueues notify channel `pgtask` for so long; not at all",
    "worker": "a uuid of the consumer's own, the same in all its calls",
    "enqueue_many.jobs": "the jobs, in order: see the type in the [index](../sql.md)",
    "claim.tenant": "only what is this tenant's; as the setting `pgtask.tenant` says",
    "discard.reason": "what is recorded as the error; `Manually marked as failed`",
    "find_jobs.key": "with this key",
    "find_jobs.queue": "of this queue",
    "find_jobs.reason": "ended for this reason",
    "find_jobs.serial": "with this serial key",
    "find_jobs.task": "of this task, `*` is any run of characters",
    "find_jobs.tenant": "of this tenant",
    "purge.ids": "of these jobs only; all",
    "reschedule.max_attempts": "executions in all; as it is",
    "reschedule.priority": "-100 to 100, higher first; as it is",
    "reschedule.run_at": "when to run; as it is",
    "set_queue_events.enabled": "on, or off; on",
    "set_queue_events.queue": "of which queue",
    "snooze.delay": "how long to let it be; by its backoff",
}  # fmt: skip
_TITLES = {
    "producer": "To enqueue",
    "worker": "To consume",
    "admin": "To look after jobs, queues and schedules",
}


@dataclass(frozen=True)
class Function:
    """One function as the catalogue has it; `parameters` are (name, type, has a default)."""

    name: str
    parameters: tuple[tuple[str, str, bool], ...]
    returns: str
    comment: str | None
    body: str
    columns: tuple[tuple[str, str], ...]

    @property
    def is_trigger(self) -> bool:
        return self.returns == "trigger"


def pages(connection: psycopg.Connection[Any]) -> dict[Path, str]:
    """The text of each page, by its path."""
    functions = _functions(connection)
    return {FOLDER / f"{name}.md": _page(functions[name], functions) for name in _interface()}


def index(connection: psycopg.Connection[Any]) -> str:
    """What there is, on one page: functions by purpose, types, views."""
    functions = _functions(connection)
    parts: list[str] = []
    for group, title in _TITLES.items():
        rows = [
            (f"[`{name}`](sql/{name}.md)", _comment(functions[name]), ", ".join(groups_of(name)))
            for name in _interface()
            if _purpose(name) == group
        ]
        parts += [f"## {title}", _table(("function", "what it does", "for"), rows)]
    own = [(f"`{name}`", _comment(functions[name])) for name in sorted(ENGINE) if name[0] != "_"]
    parts += [
        "## What pgtask's own processes call",
        "They may be another in the next release.",
        _table(("function", "what it does"), own),
        "## Types",
        *_relations(connection, "c"),
        "## Views",
        *_relations(connection, "v"),
    ]
    return "\n\n".join(parts) + "\n"


def example_of(name: str) -> str:
    """The example beside the function; empty when there is none."""
    text = (_SOURCES / f"{name}.sql").read_text("utf-8")
    block = re.search(r"^-- example:\n((?:--(?:   .*)?\n?)+)", text, re.MULTILINE)
    if block is None:
        return ""
    lines = [re.sub(r"^--(   )?", "", line) for line in block[1].splitlines()]
    return "\n".join(lines).rstrip() + "\n"


def _interface() -> list[str]:
    granted = {name for names in FUNCTIONS.values() for name in names}
    return sorted(name for name in granted - set(ENGINE) if name[0] != "_")


def _purpose(name: str) -> str:
    groups = groups_of(name)
    if "producer" in groups:
        return "producer"
    return "admin" if "admin" in groups else "worker"


def _functions(connection: psycopg.Connection[Any]) -> dict[str, Function]:
    rows = connection.execute(
        "select p.proname, coalesce((select json_agg(json_build_array(p.proargnames[n],"
        " format_type(t, null), n > p.pronargs - p.pronargdefaults) order by n)"
        " from unnest(p.proargtypes::oid[]) with ordinality as a (t, n)), '[]'),"
        " pg_get_function_result(p.oid), obj_description(p.oid), p.prosrc,"
        " p.proargnames[p.pronargs + 1:],"
        " array(select format_type(t, null) from unnest(p.proallargtypes) with ordinality"
        " as a (t, n) where n > p.pronargs order by n), y.typrelid::bigint"
        " from pg_proc p join pg_type y on y.oid = p.prorettype"
        " where p.pronamespace = 'pgtask'::regnamespace"
    ).fetchall()
    found = {}
    for name, said, returns, comment, body, names, types, relation in rows:
        columns = list(zip(names or (), types or (), strict=True))
        if relation:
            columns = _columns(connection, relation)
        found[name] = Function(
            name,
            tuple((parameter, _short(kind), optional) for parameter, kind, optional in said),
            _short(returns.replace("SETOF ", "setof ").replace("TABLE(", "table (")),
            comment,
            body,
            tuple((column, _short(kind)) for column, kind in columns),
        )
    return found


def _page(function: Function, functions: dict[str, Function]) -> str:
    name = function.name
    example = example_of(name)
    assert example, f"sql/functions/{name}.sql has no `-- example:` block"
    parts = [f"# {name}", _comment(function), "\n".join(["```text", *_signature(function), "```"])]
    if function.is_trigger:
        parts.append(
            "A trigger function: its arguments stand in `create trigger`, see "
            "[from a trigger](../../how-to/from-a-trigger.md)."
        )
    if function.parameters:
        parts.append("## Parameters")
        if any(optional for _, _, optional in function.parameters):
            parts.append("NULL stands for the default.")
        rows = [
            (f"`{parameter}`", kind, _meaning(name, parameter, optional=optional))
            for parameter, kind, optional in function.parameters
        ]
        parts.append(_table(("parameter", "type", "meaning; what is the default"), rows))
    if function.columns:
        parts += ["## Returns", "Rows of: " + _listed(function.columns) + "."]
    if states := sorted(_states(name, functions, set())):
        parts += ["## Errors", _table(("SQLSTATE", "in Python", "meaning"), map(_error, states))]
    who = groups_of(name)
    options = " or ".join(f"`--grant-{group} ROLE`" for group in who)
    parts += ["## Who may", f"{_spoken(who)}: `pgtask migrate` with {options}."]
    parts += ["## Example", f"```sql\n{example}```", "All functions and views: [SQL](../sql.md)."]
    return "\n\n".join(parts) + "\n"


def _meaning(function: str, parameter: str, *, optional: bool) -> str:
    meaning = _MEANINGS.get(f"{function}.{parameter}") or _MEANINGS.get(parameter)
    assert meaning, f"docs/sql_reference.py does not say what {function}({parameter}) means"
    return meaning if optional else meaning.partition("; ")[0] + "; must be given"


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _signature(function: Function) -> list[str]:
    shown = [
        f"  {name} {kind}{' default NULL' if optional else ''}"
        for name, kind, optional in function.parameters
    ]
    opening = f"pgtask.{function.name}("
    if not shown:
        return [f"{opening})", f"  returns {function.returns}"]
    return [opening, ",\n".join(shown) + ")", f"  returns {function.returns}"]


def _states(name: str, functions: dict[str, Function], seen: set[str]) -> set[str]:
    """The SQLSTATEs that the function, or one that it calls, raises by itself."""
    if name in seen or name not in functions:
        return set()
    seen.add(name)
    body = re.sub(r"--[^\n]*", "", functions[name].body)
    found = set(re.findall(r"errcode = '(\w{5})'", body))
    for called in re.findall(r"pgtask\.(\w+)\s*\(", body):
        found |= _states(called, functions, seen)
    return found


def _error(state: str) -> tuple[str, str, str]:
    if state in _STANDARD:
        kind = psycopg.errors.lookup(state)
        return f"`{state}`", f"`psycopg.errors.{kind.__name__}`", _STANDARD[state]
    for kind in vars(errors).values():
        if isinstance(kind, type) and vars(kind).get("sqlstate") == state:
            return f"`{state}`", f"`{kind.__name__}`", (kind.__doc__ or "").splitlines()[0]
    raise AssertionError(f"no exception in pgtask/errors.py has the SQLSTATE {state}")


def _relations(connection: psycopg.Connection[Any], kind: LiteralString) -> list[str]:
    lines = []
    for oid, name, comment in connection.execute(
        "select c.oid, c.relname, coalesce(obj_description(c.oid), obj_description(c.reltype))"
        " from pg_class c where c.relnamespace = 'pgtask'::regnamespace and c.relkind = %s"
        " order by c.relname",
        [kind],
    ).fetchall():
        assert comment, f"pgtask.{name} has no comment: add `comment on` to its file"
        who = f" For: {', '.join(readers_of(name))}." if kind == "v" else ""
        columns = _listed(_columns(connection, oid))
        lines.append(f"### `{name}`\n\n{comment}{who}\n\nColumns: {columns}.")
    return lines


def _columns(connection: psycopg.Connection[Any], oid: int) -> list[tuple[str, str]]:
    return connection.execute(
        "select a.attname::text, format_type(a.atttypid, a.atttypmod) from pg_attribute a"
        " where a.attrelid = %s::bigint and a.attnum > 0 and not a.attisdropped order by a.attnum",
        [oid],
    ).fetchall()


def _listed(columns: Any) -> str:
    return ", ".join(f"`{name}` {_short(kind)}" for name, kind in columns)


def _short(kind: str) -> str:
    return kind.replace("timestamp with time zone", "timestamptz").replace("pgtask.", "")


def _comment(function: Function) -> str:
    assert function.comment, f"pgtask.{function.name} has no comment: add `comment on` to its file"
    sentence = function.comment
    return sentence if sentence.endswith(".") else f"{sentence}."


def _spoken(groups: list[Any]) -> str:
    assert set(groups) <= set(GROUPS)
    names = [f"{'an' if group == 'admin' else 'a'} {group}" for group in groups]
    said = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return said[0].upper() + said[1:]
