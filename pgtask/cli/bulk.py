"""`pgtask retry` and `pgtask cancel`: by id, or every job that a filter finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from pgtask.cli import failure
from pgtask.cli.filters import filter_of, filtered
from pgtask.cli.progress import Progress
from pgtask.cli.session import Session, pass_session
from pgtask.job import FINISHED, STATES

if TYPE_CHECKING:
    from pgtask.broker.inspect import Filter
    from pgtask.broker.pool import Broker
    from pgtask.broker.statement import Statement

PAGE = 1000
ASK_ABOVE = 20

Change = Callable[[list[int]], "Statement[dict[int, str]]"]


@dataclass(frozen=True, slots=True)
class Verb:
    """What is done: to jobs in which states, and which answers mean that it was."""

    name: str
    ing: str
    default_states: tuple[str, ...]
    possible_states: tuple[str, ...]
    done: frozenset[str]


RETRY = Verb("retry", "retrying", ("failed",), tuple(sorted(FINISHED)), frozenset({"retried"}))
CANCEL = Verb(
    "cancel",
    "cancelling",
    tuple(state for state in STATES if state not in FINISHED),
    tuple(state for state in STATES if state not in FINISHED),
    frozenset({"cancelled", "cancelling"}),
)

_IDS = click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
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
    from pgtask.broker import jobs

    return _run(session, RETRY, jobs.retry, **given)


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
    from pgtask.broker import jobs

    return _run(session, CANCEL, lambda ids: jobs.cancel(ids, terminate=terminate), **given)


def _run(
    session: Session,
    verb: Verb,
    change: Change,
    *,
    ids: tuple[int, ...],
    every: bool,
    dry_run: bool,
    **options: Any,
) -> int:
    which = None if ids else _which(verb, every=every, **options)
    if ids and (every or any(options.values())):
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
    if not every and not any(options.values()):
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
    bad = set(outcomes) - verb.done - (set() if by_id else {"finished", "missing", "unfinished"})
    return failure.FAILED if bad else failure.OK
