"""`pgtask wait`: until jobs have finished."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from pgtask.cli import failure
from pgtask.cli.filters import JOB_ID
from pgtask.cli.session import Session, pass_session
from pgtask.cli.times import DURATION, duration
from pgtask.errors import JobNotFound, ResultTimeout
from pgtask.job import FINISHED

if TYPE_CHECKING:
    from pgtask.broker.jobs import Standing
    from pgtask.broker.pool import Broker

FIRST_LOOK, LAST_LOOK = 0.02, 0.5  # s between looks; they grow by half each time


@click.command()
@click.argument("ids", nargs=-1, required=True, type=JOB_ID, metavar="ID...")
@click.option("--timeout", type=DURATION, help="Give up after so long (exit code 124).")
@pass_session
def wait(session: Session, ids: tuple[int, ...], timeout: float | None) -> int:
    """Wait until jobs have finished and print their results.

    Exit code 0: all succeeded, 1: not all, 6: no such job, 124: timed out.
    """
    with session.broker() as broker:
        standings = finished(broker, list(dict.fromkeys(ids)), timeout)
    return tell(session, standings)


def finished(broker: Broker, ids: list[int], timeout: float | None) -> list[Standing]:
    """Where the jobs stand once all have finished; JobNotFound, ResultTimeout."""
    from pgtask.broker import jobs

    deadline = None if timeout is None else time.monotonic() + timeout
    pause = FIRST_LOOK
    seen: set[int] = set()
    while True:
        found = broker.run(jobs.results(ids))
        for job_id in ids:
            if job_id not in found:
                raise JobNotFound(_gone(job_id, seen=job_id in seen))
        seen.update(found)
        unfinished = [job_id for job_id in ids if found[job_id].state not in FINISHED]
        if not unfinished:
            return [found[job_id] for job_id in ids]
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            one = unfinished[0]
            raise ResultTimeout(
                f"job {one} is {found[one].state} after {duration(timeout)} "
                f"→ see: pgtask show {one}"
            )
        time.sleep(pause if left is None else min(pause, left))
        pause = min(pause * 1.5, LAST_LOOK)


def tell(session: Session, standings: list[Standing]) -> int:
    """Print results on stdout and failures on stderr; the exit code of it all."""
    if session.json:
        session.document([_document(standing) for standing in standings])
    for standing in standings:
        if standing.state == "succeeded":
            if not session.json:
                alone = len(standings) == 1
                result = standing.result or "null"
                session.data(result if alone else f"{standing.id} {result}")
            continue
        why = standing.reason or standing.state
        error = ": ".join(filter(None, (standing.error_type, standing.error_message)))
        click.echo(
            f"pgtask: job {standing.id} {standing.state} ({why})"
            + (f": {' '.join(error.split())}" if error else "")
            + f" → see: pgtask show {standing.id}",
            err=True,
        )
        if session.verbose and standing.error_traceback:
            click.echo(standing.error_traceback, err=True)
    every = all(standing.state == "succeeded" for standing in standings)
    return failure.OK if every else failure.FAILED


def _gone(job_id: int, *, seen: bool) -> str:
    if seen:
        return f"job {job_id} has finished and is gone: its task keeps nothing → keep='all'"
    return (
        f"there is no job {job_id}: never committed, or gone after its retention → see: pgtask ls"
    )


def _document(standing: Standing) -> dict[str, object]:
    return {
        "id": str(standing.id),
        "state": standing.state,
        "reason": standing.reason,
        "attempt": standing.attempt,
        "result": None if standing.result is None else json.loads(standing.result),
        "error": None
        if standing.error_type is None and standing.error_message is None
        else {
            "type": standing.error_type,
            "message": standing.error_message,
            "traceback": standing.error_traceback,
        },
    }
