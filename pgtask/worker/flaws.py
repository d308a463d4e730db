"""Flaws: what is wrong with a row that nobody could run, brought in past pgtask's functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pgtask.broker.attempts import Claimed, Ended
from pgtask.errors import BadOption
from pgtask.lossless import shown
from pgtask.retry import RetryPolicy
from pgtask.worker.runner import read_policy

NESTED = 500  # brackets in a policy, which needs four
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
    message = f"{why} → pgtask's own functions leave no such row; enqueue it with pgtask.enqueue"
    return Ended(job.id, job.epoch, "failed", None, None, None, "UnreadableJob", message)


def _flaw(job: Claimed) -> str | None:
    if job.args is None:
        return "its arguments are gone: pgtask.payload has no row of it"
    if job.tags is not None and not all(isinstance(tag, str) for tag in job.tags):
        return f"tags {shown(job.tags)}: not a list of text"
    for name, text, read in (
        ("policy", job.policy, _check_policy),
        ("headers", job.headers, _read_headers),
    ):
        if text is None:
            continue
        try:
            read(text)
        except (msgspec.MsgspecError, RecursionError, BadOption) as error:
            return f"{name} {shown(text)}: {error}"
    return None


def _check_policy(text: str) -> None:
    # Who reads it later stands deeper in calls than this, and must not meet their limit.
    if text.count("[") + text.count("{") > NESTED:
        raise BadOption("nested too deeply")
    policy = read_policy(text)
    RetryPolicy.parse(policy.backoff, policy.jitter)
