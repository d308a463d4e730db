"""Job, JobState and Attempt: what the rows say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from uuid import UUID

JobState: TypeAlias = Literal[
    "blocked", "scheduled", "ready", "running", "succeeded", "failed", "cancelled"
]
STATES: tuple[JobState, ...] = get_args(JobState)
FINISHED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class Attempt(NamedTuple):
    """The fence of one try at a job: a write that carries a stale one matches no row."""

    job_id: int
    epoch: int
    worker: UUID


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the view pgtask.jobs; instants are aware, None where the state has no such."""

    id: int
    task: str
    queue: str
    priority: int
    state: JobState
    reason: str | None
    attempt: int
    max_attempts: int
    epoch: int
    crashes: int
    key: str | None
    serial: str | None
    args: Any
    kwargs: Any
    policy: Mapping[str, Any] | None
    headers: Mapping[str, Any] | None
    tags: tuple[str, ...]
    created_at: datetime
    run_at: datetime | None
    expires_at: datetime | None
    worker: UUID | None
    claimed_at: datetime | None
    finished_at: datetime | None
    result: Any
    error: Any
    keep: str
