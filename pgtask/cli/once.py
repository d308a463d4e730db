"""`pgtask worker --once ID`: why the job cannot be run, or how its attempt ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pgtask.cli.show import why_not_running
from pgtask.errors import JobError, JobNotFound
from pgtask.job import FINISHED

if TYPE_CHECKING:
    from pgtask.broker.inspect import JobPage, Obstacles
    from pgtask.broker.pool import Broker


def refuse_in_vain(broker: Broker, job_id: int) -> None:
    """Raise JobNotFound or JobError where it is plain that no worker can run this job now."""
    if reasons := _obstacles(*_look(broker, job_id)):
        raise _not_run(job_id, reasons)


def outcome(broker: Broker, job_id: int, verdict: str | None) -> str:
    """Say that the job succeeded, or raise JobError with what became of it.

    `verdict` is how the worker's attempt at it ended, None where it had none.
    """
    if verdict in ("succeeded", "committed"):
        return f"job {job_id} succeeded"
    if verdict not in (None, "released"):
        state = ""
        try:
            page, _ = _look(broker, job_id)
        except JobNotFound:
            pass  # it keeps nothing
        else:
            job = page.line
            state = f"; it is {job.state}" + (f" ({job.reason})" if job.reason else "")
            state += f": {job.error}" if job.error else ""
        raise JobError(f"the attempt at job {job_id} ended {verdict}{state}")
    page, facts = _look(broker, job_id)
    task = page.line.task
    raise _not_run(
        job_id, _obstacles(page, facts) or [f"this worker does not run its task {task!r}"]
    )


def _look(broker: Broker, job_id: int) -> tuple[JobPage, Obstacles]:
    from pgtask.broker import inspect

    page = broker.run(inspect.job(job_id))
    obstacles = broker.run(inspect.obstacles(job_id))
    if page is None or obstacles is None:
        raise JobNotFound(
            f"there is no job {job_id}: never committed, or gone after its retention "
            "→ see: pgtask ls"
        )
    return page, obstacles


def _not_run(job_id: int, reasons: list[str]) -> JobError:
    return JobError(f"job {job_id} was not run: {'; '.join(reasons)}")


def _obstacles(page: JobPage, facts: Obstacles) -> list[str]:
    return list(_each_obstacle(page, facts))


def _each_obstacle(page: JobPage, facts: Obstacles) -> Iterator[str]:
    job = page.line
    if job.state in FINISHED:
        yield f"it has ended {job.state} → pgtask retry {job.id}"
    elif job.state == "running":
        yield f"worker {page.worker_name or job.worker} has it"
    elif job.state != "scheduled" or facts.due_in is None or facts.due_in > 0 or facts.paused:
        # The one worker that matters is this one, and it takes jobs of every queue, out of turn.
        yield from why_not_running(
            page,
            replace(
                facts, workers=1, workers_of_queue=1, workers_of_task=1, workers_of_both=1,
                workers_with_room=1, ahead=0,
            ),
        )  # fmt: skip
