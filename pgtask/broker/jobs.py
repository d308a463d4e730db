"""Jobs as clients see them: enqueue, look, wait, and the verbs that change many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgtask.broker.statement import Row, Statement, array_of_texts
from pgtask.job import FINISHED, STATES
from pgtask.signature import Signature


class Standing(NamedTuple):
    """Where a job stands and what it left; `result` is JSON text, only of a succeeded job."""

    id: int
    state: str
    reason: str | None
    attempt: int
    result: str | None
    error_type: str | None
    error_message: str | None
    error_traceback: str | None


def enqueue(signatures: Sequence[Signature]) -> Statement[list[tuple[int, bool]]]:
    """Insert jobs of one task that share their options; answers (id, created) in order."""
    first = signatures[0]
    options = first.options
    kwargs = [signature.kwargs for signature in signatures]
    keys = [signature.key for signature in signatures]
    serials = [signature.serial for signature in signatures]
    return Statement(
        "select * from pgtask._enqueue(%(task)s::text, %(args)s::text::json[],"
        " %(kwargs)s::text::json[], %(queue)s::text, %(priority)s::int, %(delay)s::float8,"
        " %(run_at)s::timestamptz, %(keys)s::text[], %(on_conflict)s::text,"
        " %(serials)s::text[], %(max_attempts)s::int,"
        " %(max_crashes)s::int, %(expires_in)s::float8, %(expires_at)s::timestamptz,"
        " %(keep)s::text, %(policy)s::json, %(headers)s::json, %(tags)s::text[])",
        {
            "task": first.task,
            "args": array_of_texts([signature.args for signature in signatures]),
            "kwargs": array_of_texts(kwargs) if any(kwargs) else None,
            "queue": options.queue,
            "priority": options.priority,
            "delay": options.delay,
            "run_at": options.run_at,
            "keys": keys if any(key is not None for key in keys) else None,
            "on_conflict": options.on_conflict,
            "serials": serials if any(serial is not None for serial in serials) else None,
            "max_attempts": options.max_attempts,
            "max_crashes": options.max_crashes,
            "expires_in": options.expires_in,
            "expires_at": options.expires_at,
            "keep": options.keep,
            "policy": options.policy_json(),
            "headers": options.headers_json(),
            "tags": list(options.tags) if options.tags else None,
        },
        lambda rows: [(row[0], row[1]) for row in rows],
    )


def results(ids: Sequence[int]) -> Statement[dict[int, Standing]]:
    """Return where these jobs stand; an id that does not exist is missing from the answer."""
    return Statement(
        "select * from pgtask._results(%(ids)s::bigint[])", {"ids": list(ids)}, _standings
    )


def watch(ids: Sequence[int]) -> Statement[dict[int, Standing]]:
    """As results, and for the next 60 s the end of one of them is announced on pgtask_done."""
    return Statement(
        "select * from pgtask._watch(%(ids)s::bigint[])", {"ids": list(ids)}, _standings
    )


def cancel(ids: Sequence[int], *, terminate: bool = False) -> Statement[dict[int, str]]:
    """Cancel jobs; answers per id: cancelled, cancelling, finished or missing."""
    return Statement(
        "select * from pgtask.cancel(%(ids)s::bigint[], %(terminate)s::boolean)",
        {"ids": list(ids), "terminate": terminate},
        dict,
    )


def retry(ids: Sequence[int]) -> Statement[dict[int, str]]:
    """Run finished jobs again; answers per id: retried, unfinished, missing or refused."""
    return Statement("select * from pgtask.retry(%(ids)s::bigint[])", {"ids": list(ids)}, dict)


def reschedule(
    ids: Sequence[int],
    *,
    run_at: datetime | None = None,
    delay: float | None = None,
    priority: int | None = None,
    attempt: int | None = None,
    max_attempts: int | None = None,
) -> Statement[dict[int, str]]:
    """Change jobs that have not begun; answers: rescheduled, running, finished or missing.

    `delay` is seconds from now by the database's clock.
    """
    return Statement(
        "with changed as materialized ("
        "select c.id from pgtask.reschedule(%(ids)s::bigint[], coalesce(%(run_at)s::timestamptz,"
        " clock_timestamp() + %(delay)s::float8 * interval '1 second'), %(priority)s::int,"
        " %(attempt)s::int, %(max_attempts)s::int) c)"
        " select c.id, 'rescheduled' from changed c" + _UNCHANGED,
        {
            "ids": list(ids),
            "run_at": run_at,
            "delay": delay,
            "priority": priority,
            "attempt": attempt,
            "max_attempts": max_attempts,
        },
        dict,
    )


def discard(ids: Sequence[int], message: str | None = None) -> Statement[dict[int, str]]:
    """End jobs that have not begun as failed; answers: discarded, running, finished or missing."""
    return Statement(
        "with changed as materialized ("
        "select c.id from pgtask.discard(%(ids)s::bigint[], %(message)s::text) c)"
        " select c.id, 'discarded' from changed c" + _UNCHANGED,
        {"ids": list(ids), "message": message},
        dict,
    )


def purge(ids: Sequence[int]) -> Statement[dict[int, str]]:
    """Remove finished jobs; answers: purged, unfinished, missing; finished: it is in use."""
    return Statement(
        "with changed as materialized ("
        "select c as id from pgtask._purge_jobs(%(ids)s::bigint[]) c)"
        " select c.id, 'purged' from changed c" + _UNCHANGED,
        {"ids": list(ids)},
        lambda rows: {row[0]: _UNFINISHED.get(str(row[1]), str(row[1])) for row in rows},
    )


@dataclass(frozen=True, slots=True)
class Verb:
    """What is done: to jobs in which states, and which answers mean that it was."""

    name: str
    ing: str
    default_states: tuple[str, ...]
    possible_states: tuple[str, ...]
    done: frozenset[str]


_ENDED = tuple(state for state in STATES if state in FINISHED)
_ALIVE = tuple(state for state in STATES if state not in FINISHED)
_PENDING = tuple(state for state in _ALIVE if state != "running")

RETRY = Verb("retry", "retrying", ("failed",), _ENDED, frozenset({"retried"}))
CANCEL = Verb("cancel", "cancelling", _ALIVE, _ALIVE, frozenset({"cancelled", "cancelling"}))
DISCARD = Verb("discard", "discarding", _PENDING, _PENDING, frozenset({"discarded"}))
RESCHEDULE = Verb("reschedule", "rescheduling", _PENDING, _PENDING, frozenset({"rescheduled"}))
PURGE = Verb("purge", "purging", _ENDED, _ENDED, frozenset({"purged"}))

# The states are those of before: what was pending and did not change had just been claimed.
_UNCHANGED: LiteralString = """
 union all
select i.id, coalesce((select case when j.finished_at is null then 'running' else 'finished' end
                         from pgtask.jobs j where j.id = i.id limit 1), 'missing')
  from (select distinct u.id from unnest(%(ids)s::bigint[]) as u (id)) i
 where i.id not in (select c.id from changed c)"""
_UNFINISHED = {"running": "unfinished"}


def _standings(rows: Sequence[Row]) -> dict[int, Standing]:
    return {row[0]: Standing._make(row) for row in rows}
