"""`pgtask retry`, `cancel`, `discard` and `reschedule`: by id, or every job that a filter finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pgtask.broker import jobs
from pgtask.broker.jobs import Verb
from pgtask.cli import failure
from pgtask.cli.filters import JOB_ID, filter_of, filtered
from pgtask.cli.progress import Progress
from pgtask.cli.session import Session, pass_session
from pgtask.cli.times import DURATION, INSTANT

if TYPE_CHECKING:
    from pgtask.broker.inspect import Filter
    from pgtask.broker.pool import Broker
    from pgtask.broker.statement import Statement

PAGE = 1000
ASK_ABOVE = 20

Change = Callable[[list[int]], "Statement[dict[int, str]]"]

_IDS = click.argument("ids", nargs=-1, type=JOB_ID, metavar="[ID]...")
_EVERY = click.option("--all", "every", is_flag=True, help="Every job there is.")
_DRY = click.option("--dry-run", is_flag=True, help="Only say how many jobs it would be.")


@click.command()
@_IDS
@filtered
@_EVERY
@_DRY
@pass_session
def retry(session: Session, /, **given: Any) -> int:
    """Run finished jobs again: these, or what a filter finds.

    A filter without -s finds failed jobs. Their attempts are counted anew.
    A job whose key has passed to a newer job is refused.
    """
    return run(session, jobs.RETRY, jobs.retry, **given)


@click.command()
@_IDS
@filtered
@click.option("--terminate", is_flag=True, help="Interrupt what runs, and kill it after a grace.")
@_EVERY
@_DRY
@pass_session
def cancel(session: Session, /, *, terminate: bool, **given: Any) -> int:
    """Cancel jobs: these, or what a filter finds.

    What has not begun ends now; what runs is asked to stop.
    """
    return run(session, jobs.CANCEL, lambda ids: jobs.cancel(ids, terminate=terminate), **given)


@click.command()
@_IDS
@filtered
@click.option("--message", metavar="TEXT", help="Their error (Manually marked as failed).")
@_EVERY
@_DRY
@pass_session
def discard(session: Session, /, *, message: str | None, **given: Any) -> int:
    """Give up jobs that have not begun: these, or what a filter finds.

    They end as failed, for the reason discarded. What runs goes on: see cancel.
    """
    return run(session, jobs.DISCARD, lambda ids: jobs.discard(ids, message), **given)


@click.command()
@_IDS
@filtered
@click.option("--at", "run_at", type=INSTANT, help="Run then; what is past is now.")
@click.option("--in", "delay", type=DURATION, help="Run so long from now, as 10m.")
@click.option("--priority", type=click.IntRange(-100, 100), help="Higher first.")
@click.option("--attempt", type=click.IntRange(0, 32766), help="So many were made; 0: anew.")
@click.option("--max-attempts", type=click.IntRange(1, 32767), help="So many at most, in all.")
@_EVERY
@_DRY
@pass_session
def reschedule(
    session: Session,
    /,
    *,
    run_at: datetime | None,
    delay: float | None,
    priority: int | None,
    attempt: int | None,
    max_attempts: int | None,
    **given: Any,
) -> int:
    """Change when jobs run that have not begun, or how: these, or what a filter finds.

    What is not given stays as it is.
    """
    if run_at is not None and delay is not None:
        raise click.UsageError("--at and --in both say when → give one of them")
    if all(value is None for value in (run_at, delay, priority, attempt, max_attempts)):
        raise click.UsageError(
            "what is to change? → give --at, --in, --priority, --attempt or --max-attempts"
        )

    def change(ids: list[int]) -> Statement[dict[int, str]]:
        return jobs.reschedule(
            ids,
            run_at=run_at,
            delay=delay,
            priority=priority,
            attempt=attempt,
            max_attempts=max_attempts,
        )

    return run(session, jobs.RESCHEDULE, change, **given)


def run(
    session: Session,
    verb: Verb,
    change: Change,
    *,
    ids: tuple[int, ...],
    every: bool,
    dry_run: bool,
    **options: Any,
) -> int:
    """Do it to the ids, or to what the filter finds, and say what became of them; the exit code."""
    which = None if ids else _which(verb, every=every, **options)
    if ids and (every or _is_filter(options)):
        raise click.UsageError("ids and filters do not go together → give one of them")
    with session.broker() as broker:
        if which is None:
            total, pages = len(set(ids)), _slices(sorted(set(ids)))
        else:
            total, pages = _found(broker, which)
        if dry_run:
            _say(session, verb, total, Counter(), {}, dry_run=True)
            return failure.OK
        if total > ASK_ABOVE:
            session.confirm(f"{verb.name.capitalize()} {total} jobs?")
        outcomes: Counter[str] = Counter()
        by_id: dict[int, str] = {}
        with Progress(verb.ing, total, quiet=session.quiet) as progress:
            for page in pages:
                answers = broker.run(change(page))
                outcomes.update(answers.values())
                if ids:
                    by_id.update(answers)
                progress.add(len(page))
    _say(session, verb, total, outcomes, by_id, dry_run=False)
    return _code(verb, outcomes, by_id)


def _which(verb: Verb, *, every: bool, **options: Any) -> Filter:
    if not every and not _is_filter(options):
        raise click.UsageError(
            f"which jobs? → give ids, a filter such as -Q or --since, or --all: "
            f"pgtask {verb.name} --help"
        )
    for state in options["state"]:
        if state not in verb.possible_states:
            raise click.UsageError(
                f"{verb.name} does nothing to {state} jobs → -s takes "
                + ", ".join(verb.possible_states)
            )
    which = filter_of(**options)
    return which if which.states else replace(which, states=verb.default_states)


def _is_filter(options: Mapping[str, Any]) -> bool:
    return any(value not in (None, ()) for value in options.values())


def _found(broker: Broker, which: Filter) -> tuple[int, Iterator[list[int]]]:
    from pgtask.broker import inspect

    total, last = broker.run(inspect.count(which))

    def pages() -> Iterator[list[int]]:
        # No further than what was counted: jobs that fail meanwhile would never come to an end.
        bounded = replace(which, before=last + 1)
        after = 0
        while page := broker.run(inspect.matching_ids(bounded, after, PAGE)):
            yield page
            after = page[-1]

    return total, pages()


def _slices(ids: list[int]) -> Iterator[list[int]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))


def _say(
    session: Session,
    verb: Verb,
    total: int,
    outcomes: Counter[str],
    by_id: dict[int, str],
    *,
    dry_run: bool,
) -> None:
    if session.json:
        session.document(
            {
                "dry_run": dry_run,
                "matched": total,
                "outcomes": dict(outcomes),
                "jobs": [{"id": str(key), "outcome": said} for key, said in by_id.items()],
            }
        )
    elif dry_run:
        session.data(f"would {verb.name} {total} jobs")
    elif by_id:
        session.data("\n".join(f"{key} {said}" for key, said in sorted(by_id.items())))
    else:
        session.data(", ".join(f"{said} {n}" for said, n in sorted(outcomes.items())) or "no job")


def _code(verb: Verb, outcomes: Counter[str], by_id: dict[int, str]) -> int:
    if by_id and set(by_id.values()) == {"missing"}:
        return failure.NOT_FOUND
    # What a filter found may finish, or go, before its page comes: that is no failure.
    moved = {"finished", "missing", "unfinished", "running"}
    bad = set(outcomes) - verb.done - (set() if by_id else moved)
    return failure.FAILED if bad else failure.OK
