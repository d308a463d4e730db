"""Nemesis: faults in a random order under load, for as long as asked for; then the count."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable

from tests.faults import server
from tests.faults.conservation import Allowed
from tests.faults.scenario import SCENARIOS, Scenario, Told
from tests.faults.stand import Stand
from tests.proxy import Proxy
from tests.workers import Worker


class _Nemesis:
    """What it does, and when, is decided by the seed alone; whom it hits, by who is there, too."""

    def __init__(self, stand: Stand, seed: int) -> None:
        self._stand = stand
        self._plan = random.Random(seed)
        self._aim = random.Random(seed + 1)
        self._proxy = stand.beside.enter_context(Proxy.before(stand.dsn))
        self._workers: list[Worker] = []
        for _ in range(3):
            self._hire()
        self.actions: dict[str, Callable[[], None]] = {
            "kill a child": self._kill_a_child,
            "kill a worker": self._kill_a_worker,
            "stop a worker, start another": self._replace_a_worker,
            "freeze a worker for 4 s": self._freeze_a_worker,
            "terminate a backend": self._terminate,
            "kill a backend": self._kill_a_backend,
            "restart PostgreSQL in immediate mode": stand.server.crash,
            "PostgreSQL is away for 6 s": self._away,
            "read-only for 3 s": self._read_only,
            "the network is silent for 4 s": self._silence,
            "the network breaks": self._proxy.cut,
        }

    def rage(self, seconds: float) -> int:
        """Return how many faults there were."""
        until = time.monotonic() + seconds
        done = 0
        while time.monotonic() < until:
            name, pause = self._plan.choice(list(self.actions)), self._plan.uniform(0.3, 3.0)
            print(f"nemesis: {name}, then {pause:.1f} s", file=sys.stderr, flush=True)  # noqa: T201
            self.actions[name]()
            done += 1
            time.sleep(pause)
        return done

    def _hire(self) -> None:
        # Every second one goes by way of the network that breaks.
        far = len(self._stand.workers) % 2
        dsn = self._proxy.dsn(self._stand.dsn) if far else self._stand.dsn
        self._workers.append(self._stand.worker(wait=False, dsn=dsn))

    def _one(self) -> Worker:
        # One that was starting while the database was away may have given up.
        for worker in [each for each in self._workers if each.process.poll() is not None]:
            self._workers.remove(worker)
            self._hire()
        return self._aim.choice(self._workers)

    def _kill_a_child(self) -> None:
        if children := self._one().children():
            os.kill(self._aim.choice(children), signal.SIGKILL)

    def _kill_a_worker(self) -> None:
        worker = self._one()
        self._stand.kill(worker)
        self._workers.remove(worker)
        self._hire()

    def _replace_a_worker(self) -> None:
        worker = self._one()
        worker.signal(signal.SIGTERM)
        self._workers.remove(worker)
        self._hire()

    def _freeze_a_worker(self) -> None:
        worker = self._one()
        family = [worker.pid, *worker.descendants()]
        for number, pause in ((signal.SIGSTOP, 4.0), (signal.SIGCONT, 0.0)):
            for pid in family:
                if _is_there(pid):
                    os.kill(pid, number)
            time.sleep(pause)

    def _terminate(self) -> None:
        self._stand.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname ="
            " current_database() and application_name like 'pgtask%%' limit 1"
        )

    def _kill_a_backend(self) -> None:
        if self._stand.server.kill_a_backend("pgtask%"):
            time.sleep(0.5)
        self._stand.server.wait_until_ready()

    def _away(self) -> None:
        self._stand.server.stop()
        time.sleep(6.0)
        self._stand.server.start()

    def _read_only(self) -> None:
        self._stand.server.set("default_transaction_read_only", "on")
        time.sleep(3.0)
        self._stand.server.set("default_transaction_read_only", None)

    def _silence(self) -> None:
        self._proxy.freeze()
        time.sleep(4.0)
        self._proxy.thaw()


def enlist(seconds: float, seed: int) -> Scenario:
    """Register a run of so many seconds as a scenario, so that it is played as they are."""

    def play(stand: Stand) -> Told:
        nemesis = _Nemesis(stand, seed)
        with stand.load(100, seed=seed):
            faults = nemesis.rage(seconds)
            stand.worker()
            recovery = stand.canary()
        allowed = Allowed(doubles=True, lost_claims=True, counted=True)
        return Told(recovery, None, f"{faults} faults, seed {seed}", allowed)

    name = "nemesis"
    SCENARIOS[name] = Scenario(
        name, f"random faults for {seconds:g} s", play, False, server.running, seconds
    )
    return SCENARIOS[name]


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
