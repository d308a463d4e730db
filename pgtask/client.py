"""Client: an application's way to its database, on whose connection a call is enqueued."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from pgtask.errors import (
    AmbiguousTransaction,
    BadOption,
    BlockingCall,
    BrokerError,
    DuplicateJob,
    WrongDatabase,
)
from pgtask.signature import Signature

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from pgtask.broker.foreign import Foreign
    from pgtask.broker.identity import Identity
    from pgtask.broker.listener import ResultListener
    from pgtask.broker.pool import AsyncBroker, Broker
    from pgtask.broker.statement import Statement
    from pgtask.config import Config

# Nothing here imports psycopg or asyncio at the top: a worker's child defines tasks and may never
# enqueue, and its memory is paid once per child.

T = TypeVar("T")
CHUNK = 5000

_ambient: ContextVar[tuple[tuple[Client, Foreign], ...]] = ContextVar("pgtask.using", default=())
_frameworks: list[Callable[[], Iterable[Any]]] = []


def join_transactions_of(open_connections: Callable[[], Iterable[Any]]) -> None:
    """Let calls join a framework's transactions; it answers those open in this context."""
    if open_connections not in _frameworks:
        _frameworks.append(open_connections)


class Enqueued(NamedTuple):
    """What became of an enqueue: (id, created) of each call, and on whose connection."""

    jobs: list[tuple[int, bool]]
    foreign: Foreign | None


class Client:
    """Finds the connection of a call and runs it; opens its own pools at the first need.

    Safe to share between threads. A forked child makes its own pools; each event loop has one.
    """

    def __init__(self, config: Callable[[], Config], defaults: Mapping[str, Any]) -> None:
        self.config = config
        self.defaults = defaults
        self._inherited: list[_Connections] = []
        self._connections = _Connections()
        self._mine: Identity | None = None
        self._checked: dict[Hashable, Identity] = {}
        self._checked_engines: WeakKeyDictionary[Any, Identity] = WeakKeyDictionary()

    @property
    def max_payload(self) -> int:
        return self.config().max_payload

    @contextmanager
    def using(self, connection: Any) -> Iterator[None]:
        from pgtask.broker.foreign import adapter

        token = _ambient.set((*_ambient.get(), (self, adapter(connection))))
        try:
            yield
        finally:
            _ambient.reset(token)

    def enqueue(
        self, signatures: Sequence[Signature], connection: Any = None, *, chunk: int = CHUNK
    ) -> Enqueued:
        """Insert calls of one task with one set of options; all or none.

        Raises AmbiguousTransaction, WrongDatabase, DuplicateJob, and BlockingCall (a
        RuntimeError) where only aenqueue can work.
        """
        foreign = self._foreign(connection)
        statements = _statements(signatures, chunk)
        if foreign is None:
            refuse_in_loop("delay", "adelay")
            broker = self.broker
            if len(statements) == 1:
                answers = [broker.run(statements[0])]
            else:
                answers = broker.run_all(statements)
        else:
            blocking = _blocking(foreign)
            self._check_database(foreign)
            answers = [blocking.run(statement) for statement in statements]
        return _enqueued(signatures, answers, foreign)

    async def aenqueue(
        self, signatures: Sequence[Signature], connection: Any = None, *, chunk: int = CHUNK
    ) -> Enqueued:
        """As enqueue; a synchronous connection is used too, and blocks as its owner's calls do."""
        foreign = self._foreign(connection)
        statements = _statements(signatures, chunk)
        if foreign is None:
            broker = await self.abroker()
            if len(statements) == 1:
                answers = [await broker.run(statements[0])]
            else:
                answers = await broker.run_all(statements)
        else:
            await self._acheck_database(foreign)
            answers = [await _arun(foreign, statement) for statement in statements]
        return _enqueued(signatures, answers, foreign)

    def run(self, statement: Statement[T], *, twin: str) -> T:
        """Run a statement on an own connection; `twin` is what to call on an event loop."""
        refuse_in_loop(twin.removeprefix("a"), twin)
        return self.broker.run(statement)

    async def arun(self, statement: Statement[T], *, within: float | None = None) -> T:
        return await (await self.abroker()).run(statement, within=within)

    @property
    def broker(self) -> Broker:
        connections = self._of_this_process()
        if (known := connections.broker) is not None:
            return known
        from pgtask.broker.pool import Broker

        with connections.opening:
            if connections.broker is None:
                connections.broker = Broker(self._dsn(), pooler=self.config().pooler)
            return connections.broker

    async def abroker(self) -> AsyncBroker:
        import asyncio

        from pgtask.broker.pool import AsyncBroker

        brokers = self._of_this_process().async_brokers
        loop = asyncio.get_running_loop()
        if loop not in brokers:
            # asyncio.run() leaves its loop without a word; its sessions would stay until we end.
            for ended in [known for known in brokers if known.is_closed()]:
                brokers.pop(ended).abandon()
            # Finding a database may start one.
            dsn = await asyncio.to_thread(self._dsn)
            brokers.setdefault(loop, AsyncBroker(dsn, pooler=self.config().pooler))
        return brokers[loop]

    @property
    def listener(self) -> ResultListener:
        connections = self._of_this_process()
        if (known := connections.listener) is not None:
            return known
        from pgtask.broker.listener import ResultListener

        with connections.opening:
            if connections.listener is None:
                config = self.config()
                connections.listener = ResultListener(
                    config.listen_dsn or self._dsn(),
                    # The setting speaks of the other one.
                    pooler="auto" if config.listen_dsn else config.pooler,
                )
            return connections.listener

    def close(self) -> None:
        """Close what synchronous code opened; it opens again when needed."""
        connections = self._of_this_process()
        broker, connections.broker = connections.broker, None
        listener, connections.listener = connections.listener, None
        if broker is not None:
            broker.close()
        if listener is not None:
            listener.close()

    async def aclose(self) -> None:
        """Close what this event loop opened, and what synchronous code did."""
        import asyncio

        broker = self._of_this_process().async_brokers.pop(asyncio.get_running_loop(), None)
        if broker is not None:
            await broker.close()
        await asyncio.to_thread(self.close)

    def reconfigure(self) -> None:
        """Forget what was found with the settings before; whoever changes them calls this."""
        self.close()
        self._mine = None
        self._checked.clear()
        self._checked_engines.clear()

    def _dsn(self) -> str:
        from pgtask.database import database_url

        return database_url(self.config())

    def _of_this_process(self) -> _Connections:
        if self._connections.pid != os.getpid():
            # Kept, not closed: the sockets are the parent's, and closing would end its sessions.
            self._inherited.append(self._connections)
            self._connections = _Connections()
        return self._connections

    def _foreign(self, explicit: Any) -> Foreign | None:
        """explicit using > ambient using > the one open framework transaction > none."""
        from pgtask.broker.foreign import adapter

        if explicit is not None:
            return adapter(explicit)
        for client, foreign in reversed(_ambient.get()):
            if client is self:
                return foreign
        candidates = [connection for framework in _frameworks for connection in framework()]
        if len(candidates) > 1:
            names = " and ".join(repr(candidate) for candidate in candidates)
            raise AmbiguousTransaction(
                f"{len(candidates)} transactions are open here: {names}; "
                "say which one the job belongs to: .using(session).delay(...)"
            )
        return adapter(candidates[0]) if candidates else None

    def _check_database(self, foreign: Foreign) -> None:
        from pgtask.broker import identity

        blocking = _blocking(foreign)
        place = blocking.place()
        theirs = self._known(place)
        if theirs is None:
            _check_readable(foreign, readable=blocking.run(identity.is_readable()))
            theirs = blocking.run(identity.identity())
            self._remember(place, theirs)
        if self._mine is None:
            self._mine = self.broker.run(identity.identity())
        _compare(theirs, self._mine, foreign)

    async def _acheck_database(self, foreign: Foreign) -> None:
        from pgtask.broker import identity
        from pgtask.broker.foreign import AsyncAlchemy, AsyncPsycopg

        if isinstance(foreign, (AsyncPsycopg, AsyncAlchemy)):
            place = await foreign.place()
        else:
            place = foreign.place()
        theirs = self._known(place)
        if theirs is None:
            readable = await _arun(foreign, identity.is_readable())
            _check_readable(foreign, readable=readable)
            theirs = await _arun(foreign, identity.identity())
            self._remember(place, theirs)
        if self._mine is None:
            self._mine = await self.arun(identity.identity())
        _compare(theirs, self._mine, foreign)

    def _known(self, place: Hashable) -> Identity | None:
        known = self._checked if isinstance(place, tuple) else self._checked_engines
        return known.get(place)

    def _remember(self, place: Hashable, identity: Identity) -> None:
        known = self._checked if isinstance(place, tuple) else self._checked_engines
        known[place] = identity


def refuse_in_loop(call: str, twin: str) -> None:
    """Raise BlockingCall where an event loop runs: a blocking call would stop it."""
    if event_loop_runs():
        raise BlockingCall(f"{call}() would block the running event loop; use await {twin}()")


def event_loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Connections:
    """What one process has opened."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.opening = threading.Lock()  # two threads that come first must not open two pools
        self.broker: Broker | None = None
        self.async_brokers: dict[AbstractEventLoop, AsyncBroker] = {}
        self.listener: ResultListener | None = None


def _statements(
    signatures: Sequence[Signature], chunk: int
) -> list[Statement[list[tuple[int, bool]]]]:
    from pgtask.broker import jobs

    if signatures[0].options.on_conflict == "raise" and len(signatures) > 1:
        raise BadOption(
            'on_conflict="raise" speaks of one call; for many use "keep" and look at .created'
        )
    return [
        jobs.enqueue(signatures[start : start + chunk])
        for start in range(0, len(signatures), chunk)
    ]


def _enqueued(
    signatures: Sequence[Signature],
    answers: Iterable[list[tuple[int, bool]]],
    foreign: Foreign | None,
) -> Enqueued:
    rows = [row for answer in answers for row in answer]
    for signature, (job_id, created) in zip(signatures, rows, strict=True):
        if not created and signature.options.on_conflict == "raise":
            raise DuplicateJob(
                f"job {job_id} has the key {signature.key!r} and is not finished", job_id
            )
    return Enqueued(rows, foreign)


def _blocking(foreign: Foreign) -> Any:
    from pgtask.broker.foreign import AsyncAlchemy, AsyncPsycopg

    if isinstance(foreign, (AsyncPsycopg, AsyncAlchemy)):
        kind = type(foreign.connection)
        raise BlockingCall(
            f"the transaction to join belongs to an asynchronous {kind.__module__}."
            f"{kind.__qualname__}; use await adelay()"
        )
    return foreign


async def _arun(foreign: Foreign, statement: Statement[T]) -> T:
    from pgtask.broker.foreign import AsyncAlchemy, AsyncPsycopg

    if isinstance(foreign, (AsyncPsycopg, AsyncAlchemy)):
        return await foreign.run(statement)
    return foreign.run(statement)


def _check_readable(foreign: Foreign, *, readable: bool | None) -> None:
    if readable is None:
        raise WrongDatabase(
            f"the database of {foreign.connection!r} has no pgtask schema, so it is not this "
            "app's; enqueue on a connection to the app's database, or migrate this one and set dsn"
        )
    if not readable:
        raise BrokerError(
            f"the role of {foreign.connection!r} may not use the schema pgtask, or that is too old "
            "→ let its owner run: pgtask migrate --grant-producer ROLE"
        )


def _compare(theirs: Identity, mine: Identity, foreign: Foreign) -> None:
    if theirs != mine:
        raise WrongDatabase(
            f"{foreign.connection!r} leads to another database than this app's: the job would "
            "commit where no worker of this app looks; check dsn and PGTASK_DSN"
        )
