"""Flaws: what is wrong with a row that nobody could run, brought in past pgtask's functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pgtask.broker.attempts import Claimed, Ended
from pgtask.worker.runner import read_policy

_read_headers = msgspec.json.Decoder(dict[str, Any]).decode


def found(jobs: Sequence[Claimed]) -> list[tuple[Claimed, str]]:
    """Those that no child can read, each with what is wrong with it.

    A child that cannot read a frame ends, and the other jobs in it with it; so that job is to end
    here, where nothing else depends on it. Arguments are not looked at: who decodes them can tell.
    """
    return [
        (job, why)
        for job in jobs
        if (job.policy or job.headers or job.tags or job.args is None) and (why := _flaw(job))
    ]


def failed(job: Claimed, why: str) -> Ended:
    """The end of such a job: no other attempt could read it."""
    message = f"{why} → the row was not made by pgtask; enqueue it with pgtask.enqueue"
    return Ended(job.id, job.epoch, "failed", None, None, None, "UnreadableJob", message)


def _flaw(job: Claimed) -> str | None:
    if job.args is None:
        return "its arguments are gone: pgtask.payload has no row of it"
    if job.tags is not None and not all(isinstance(tag, str) for tag in job.tags):
        return f"tags {job.tags!r}: not a list of text"
    for name, text, read in (
        ("policy", job.policy, read_policy),
        ("headers", job.headers, _read_headers),
    ):
        if text is None:
            continue
        try:
            read(text)
        except (msgspec.MsgspecError, RecursionError) as error:
            return f"{name} {text[:80]!r}: {error}"
    return None
