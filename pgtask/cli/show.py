"""`pgtask show`: everything about one job, and why it is not running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pgtask.cli.filters import JOB_ID
from pgtask.cli.session import Session, as_json, pass_session
from pgtask.cli.table import pairs
from pgtask.cli.times import duration, instant
from pgtask.errors import JobNotFound
from pgtask.job import FINISHED

if TYPE_CHECKING:
    from pgtask.broker.inspect import AttemptLine, JobPage, Obstacles


@click.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@pass_session
def show(session: Session, job_id: int) -> None:
    """Show everything about a job, and why it is not running."""
    from pgtask.broker import inspect

    with session.broker() as broker:
        page = broker.run(inspect.job(job_id))
        attempts = broker.run(inspect.attempts(job_id))
        obstacles = broker.run(inspect.obstacles(job_id))
    if page is None or obstacles is None:
        raise JobNotFound(
            f"there is no job {job_id}: never committed, or gone after its retention "
            "→ see: pgtask ls"
        )
    reasons = list(why_not_running(page, obstacles))
    if session.json:
        session.document(_document(page, attempts, obstacles, reasons))
        return
    session.data(_facts(page, obstacles))
    session.data("\ntimeline\n" + _timeline(page, attempts))
    if reasons:
        session.data("\nwhy it is not running\n" + "\n".join(f"  {reason}" for reason in reasons))
    for attempt in attempts:
        if attempt.error_traceback:
            session.data(f"\ntraceback of attempt {attempt.attempt}\n")
            session.data("\n".join(f"  {line}" for line in attempt.error_traceback.splitlines()))


def why_not_running(page: JobPage, facts: Obstacles) -> Iterator[str]:
    """One sentence for each thing that keeps an unfinished job from running."""
    job = page.line
    if job.state == "running" or job.state in FINISHED:
        return
    if facts.expires_in is not None and facts.expires_in <= 0:
        yield f"it expired {duration(-facts.expires_in)} ago: it will be cancelled, not run"
    if job.state == "blocked":
        if job.serial is None:
            yield "it waits for other jobs to finish"
        elif facts.serial_owner is not None:
            yield f"its serial key {job.serial!r} is busy: job {facts.serial_owner} has it"
    if job.state == "scheduled" and facts.due_in is not None:
        if facts.due_in > 0:
            what = "its next try is due" if job.attempt else "it is due"
            yield f"{what} in {duration(facts.due_in)}, at {instant(job.run_at)}"
        else:
            yield f"it has been due for {duration(-facts.due_in)} and waits for a live worker"
    if facts.paused:
        by = f" by {facts.paused_by}" if facts.paused_by else ""
        because = f" ({facts.paused_reason})" if facts.paused_reason else ""
        yield (f"queue {job.queue!r} was paused{by}{because} → pgtask queue resume {job.queue}")
    yield from _workers(page, facts)
    if job.state == "ready" and facts.ahead:
        yield f"{facts.ahead} ready jobs of queue {job.queue!r} go before it"


def _workers(page: JobPage, facts: Obstacles) -> Iterator[str]:
    queue, task = page.line.queue, page.line.task
    if facts.workers == 0:
        yield "no worker is alive → pgtask worker"
        return
    if facts.workers_of_queue == 0:
        yield f"no live worker takes queue {queue!r} → pgtask worker -Q {queue}"
    if facts.workers_of_task == 0:
        yield f"no live worker knows task {task!r} → see: pgtask tasks"
    if facts.workers_of_queue and facts.workers_of_task and facts.workers_of_both == 0:
        yield f"the live workers that know task {task!r} do not take queue {queue!r}"
    if page.line.state == "ready" and facts.workers_of_both and facts.workers_with_room == 0:
        yield f"the workers that could take it ({facts.workers_of_both}) are busy → pgtask workers"


def _facts(page: JobPage, facts: Obstacles) -> str:
    job = page.line
    owner = facts.key_owner
    key = job.key
    if key is not None and owner is not None and owner != job.id:
        key = f"{key} (job {owner} has it now)"
    return pairs(
        [
            ("job", job.id),
            ("task", job.task),
            ("state", f"{job.state} ({job.reason})" if job.reason else job.state),
            ("queue", job.queue),
            ("priority", job.priority),
            ("attempt", f"{job.attempt} of {job.max_attempts} (epoch {page.epoch})"),
            ("crashes", page.crashes or None),
            ("key", key),
            ("serial", job.serial),
            ("tags", ", ".join(job.tags) if job.tags else None),
            ("args", page.args),
            ("kwargs", page.kwargs),
            ("policy", page.policy),
            ("headers", page.headers),
            ("keep", page.keep),
            ("expires", instant(page.expires_at)),
            ("worker", page.worker_name or job.worker),
            ("result", page.result),
            ("error", job.error),
        ]
    )


def _timeline(page: JobPage, attempts: list[AttemptLine]) -> str:
    job = page.line
    events: list[tuple[datetime | None, str, int]] = [(job.created_at, "created", 0)]
    for attempt in attempts:
        what = f"attempt {attempt.attempt} {attempt.outcome}"
        if attempt.error_type:
            what += f": {attempt.error_type}: {attempt.error_message or ''}"
        events.append((attempt.claimed_at, f"attempt {attempt.attempt} began", 1))
        events.append((attempt.ended_at, what, 2))
    if not any(attempt.claimed_at == job.claimed_at for attempt in attempts):
        events.append((job.claimed_at, f"attempt {job.attempt} began", 1))
    events.append((job.run_at, "due", 3))
    events.append((job.finished_at, job.state, 4))
    told = sorted((at, order, what) for at, what, order in events if at is not None)
    return pairs([(f"  {instant(at)}", what) for at, _, what in told])


def _document(
    page: JobPage, attempts: list[AttemptLine], facts: Obstacles, reasons: list[str]
) -> dict[str, object]:
    def loaded(text: str | None) -> object:
        return None if text is None else json.loads(text)

    return as_json(
        page.line,
        epoch=page.epoch,
        crashes=page.crashes,
        keep=page.keep,
        args=loaded(page.args),
        kwargs=loaded(page.kwargs),
        policy=loaded(page.policy),
        headers=loaded(page.headers),
        expires_at=page.expires_at,
        result=loaded(page.result),
        worker_name=page.worker_name,
        key_owner=None if facts.key_owner is None else str(facts.key_owner),
        attempts=[as_json(attempt) for attempt in attempts],
        why_not_running=reasons,
    )
