"""Events: what happens to the jobs of queues that want them, as heard from the database."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import msgspec
import psycopg

from pgtask.broker.bounded import BoundedConnection
from pgtask.broker.faults import is_dead, translate
from pgtask.broker.session import Session
from pgtask.errors import BrokerError

CHANNEL = "pgtask_events"
FIRST_PAUSE, MAX_PAUSE = 0.1, 10.0  # s between two attempts to reconnect
PING, PONG = 10.0, 5.0  # s: a silent connection is tested so often, and must answer within


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a job: a verb, or the outcome of an attempt; `at` is UTC."""

    event: str
    job: str
    task: str
    queue: str
    attempt: int
    at: str
    worker: str | None = None
    tenant: str | None = None
    reason: str | None = None


class Connected(NamedTuple):
    """From now on everything is heard."""

    again: bool


class Lost(NamedTuple):
    """From now on nothing is heard, until it is connected again."""

    why: str
    pause: float


Heard: TypeAlias = Event | Connected | Lost


def listen(dsn: str, *, pooler: str = "auto") -> Iterator[Heard]:
    """Yield what is heard, for ever; a connection that is lost is opened again.

    Raises what the first connection does, and BrokerError past a transaction pooler, where nobody
    would hear anything.
    """
    session = Session(dsn, pooler=pooler)
    again = False
    pause = FIRST_PAUSE
    while True:
        try:
            with session.connect("pgtask:tail") as connection:
                if session.pooled:
                    raise BrokerError(
                        "nobody can listen through a connection pooler"
                        " → PGTASK_LISTEN_DSN names a direct connection"
                    )
                connection.patience = PONG
                connection.execute("listen " + CHANNEL)
                yield Connected(again)
                again = True
                pause = FIRST_PAUSE
                yield from _hear(connection)
        except psycopg.Error as error:
            ours = translate(error)
            if not again or not is_dead(error):
                raise ours or error from error
            wait = pause * random.uniform(0.5, 1.5)
            yield Lost(str(ours or error), wait)
            time.sleep(wait)
            pause = min(pause * 2, MAX_PAUSE)


def event_of(payload: str) -> Event | None:
    """The event that a notification tells; None for what somebody else sent there."""
    try:
        return msgspec.json.decode(payload, type=Event)
    except msgspec.DecodeError:
        return None


def _hear(connection: BoundedConnection) -> Iterator[Event]:
    while True:
        connection.patience = PING + PONG
        for notification in connection.notifies(timeout=PING):
            event = event_of(notification.payload)
            if event is not None:
                yield event
        # A half-open connection is noticed by a question of our own.
        connection.patience = PONG
        connection.execute("select 1")
