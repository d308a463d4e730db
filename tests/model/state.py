"""The state of the model: what the tables hold, what workers hold, and what only the checker knows.

Workers are numbered lives: a process that was declared dead, or started again, is a new life.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NOBODY = -1
PENDING = ("scheduled", "parked", "ready")
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    """What a job was enqueued with. Earlier jobs have the higher priority."""

    max_attempts: int = 2
    max_crashes: int = 3
    serial: bool = False  # in the one lane there is
    key: bool = False  # under the one key there is
    transaction: bool = False
    once: bool = False  # on_crash = "fail"
    later: bool = False  # does not exist until somebody enqueues it in place of the key's owner


@dataclass(frozen=True)
class Scope:
    """What is explored: these jobs, and at most so much that goes wrong."""

    jobs: tuple[Job, ...]
    faults: int
    cancels: int = 0
    orders: int = 0  # enqueues that replace the owner of the key
    server_crashes: bool = False
    workers: int = 2
    everything: bool = False  # also calls for several jobs at once, and calls that change nothing
    ends: tuple[str, ...] = ("raised",)  # how an attempt may end other than well

    @property
    def lives(self) -> range:
        return range(self.workers + 1)


@dataclass(frozen=True)
class Rules:
    """The rules of the protocol. A mutation is one of them switched off."""

    finish_is_fenced: bool = True
    claim_raises_the_epoch: bool = True
    claim_asks_for_the_lease: bool = True
    rescue_compares_the_beat: bool = True
    rescue_sweeps_the_known_dead: bool = True
    a_reconnect_means_doubt: bool = True
    reconcile_releases_the_unknown: bool = True
    reconcile_drops_what_has_no_row: bool = True
    finish_frees_the_slot: bool = True
    release_is_not_counted: bool = True
    retry_needs_the_key: bool = True
    settle_heeds_cancels: bool = True
    serial_claims_are_durable: bool = True
    once_claims_are_durable: bool = True


class Row(NamedTuple):
    """A job in a table. `scheduled` and `parked` are both `waiting`; the ended are `done`."""

    table: str
    epoch: int
    attempt: int
    crashes: int
    worker: int = NOBODY
    claim: int = 0  # not in PostgreSQL: which claim this is, counting also those that were lost


class Database(NamedTuple):
    """What is committed."""

    rows: tuple[tuple[Row, ...], ...]  # by job; more or less than one is a broken promise
    slot: int  # the job that has the lane
    key: int  # the job that has the key
    wishes: tuple[int, ...]  # by job: the worker that is asked to cancel it
    alive: tuple[bool, ...]  # by life


class Hand(NamedTuple):
    """An attempt in a worker's hands. Stage: queued, running, committed, or its verdict."""

    job: int
    epoch: int
    attempt: int
    stage: str
    claim: int


class Life(NamedTuple):
    """A worker under one id. One that is frozen is one that takes no steps for a while."""

    up: bool = False
    seen: int = 0  # 1: somebody saw its beat, which has not moved since; 2: it has moved
    doubt: int = 0  # 1: an answer was lost, reconcile before the next claim; 2: and again later
    late: tuple[int, ...] = ()  # a claim of these jobs was given up, the server may still do it
    hands: tuple[Hand, ...] = ()


class Memory(NamedTuple):
    """What the checker knows of a job, and nobody else."""

    exists: bool
    claims: int = 0
    begun: int = 0  # of jobs that must not begin twice
    cancelled: bool = False  # the wish was accepted
    effects: int = 0  # of transactional tasks: committed ones


class State(NamedTuple):
    db: Database
    lost: tuple[Database, ...]  # what a crash of the server could bring back
    lives: tuple[Life, ...]
    memory: tuple[Memory, ...]
    faults: int
    cancels: int
    orders: int


NO_LIFE = Life()


def initial(scope: Scope) -> State:
    """Every job ready (but those for later), no worker yet."""
    jobs = scope.jobs
    keyed = [j for j, job in enumerate(jobs) if job.key and not job.later]
    return State(
        Database(
            tuple(() if job.later else (Row("ready", 0, 0, 0),) for job in jobs),
            NOBODY,
            keyed[0] if keyed else NOBODY,
            (NOBODY,) * len(jobs),
            (False,) * len(scope.lives),
        ),
        (),
        (NO_LIFE,) * len(scope.lives),
        tuple(Memory(not job.later) for job in jobs),
        scope.faults,
        scope.cancels,
        scope.orders,
    )


def claims_of(state: State) -> list[int]:
    """Return how often each job was claimed."""
    return [memory.claims for memory in state.memory]
