"""One run: every product by turns, round after round, and the document of what was found."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench import contention, measures, postgres, redis
from bench.catalog import FLOOR, FLOOR_DELETE, FLOORS, GRAPHILE, PEERS, PGTASK, Product
from bench.environments import Environments, NotAvailable
from bench.goals import GOALS, RATIOS, judge
from bench.measures import Measured, Scale
from bench.spread import distribution, summary
from bench.subject import Failed, Stand
from bench.words import say

Measure = Callable[[Stand, Product, Scale], Measured]


def _kept(stand: Stand, product: Product, scale: Scale) -> Measured:
    return measures.drain(stand, product, scale, keep=True)


class Row(NamedTuple):
    """A measurement, and whom it can be taken of."""

    measure: Measure
    of: Callable[[Product], bool]
    # What is measured with it, for the ratio that its goal is.
    needs: tuple[str, ...] = ()


def _everybody(product: Product) -> bool:
    return True


def _all_but_delete(product: Product) -> bool:
    return product is not FLOOR_DELETE


_PINNED = ("pgtask", "graphile-worker")

ROWS = {
    "drain": Row(measures.drain, _everybody),
    "kept": Row(_kept, lambda product: product.keeps, ("drain",)),
    "bulk": Row(measures.bulk, lambda product: bool(product.many) and _all_but_delete(product)),
    "single": Row(measures.single, _all_but_delete),
    "concurrent": Row(
        lambda stand, product, scale: contention.concurrent(stand, scale),
        lambda product: product is PGTASK,
    ),
    "pickup": Row(measures.pickup, _all_but_delete),
    "steady": Row(measures.steady, _all_but_delete),
    "trip": Row(measures.trip, lambda product: product.trips),
    # A minute each, so only those that did best in it.
    "pinned": Row(measures.pinned, lambda product: product.name in _PINNED),
    "lane": Row(
        lambda stand, product, scale: contention.lane(stand, scale),
        lambda product: product is PGTASK,
    ),
    "idle": Row(measures.idle, _all_but_delete),
}
# Several rows by one word; the last two are read off the drains.
GROUPS = {
    "latency": ("pickup", "steady", "trip"),
    "enqueue": ("bulk", "single", "concurrent", "lane"),
    "wal": ("drain", "kept"),
    "cpu": ("drain",),
}


def chosen(words: Sequence[str]) -> list[str]:
    """Row names for the words of --only, in the order of ROWS; ValueError for an unknown word."""
    wanted: set[str] = set()
    for word in words:
        if word not in ROWS and word not in GROUPS:
            known = ", ".join([*ROWS, *GROUPS])
            raise ValueError(f"no such row: {word}; there are {known}")
        wanted.update(GROUPS.get(word, (word,)))
    wanted.update(*(ROWS[name].needs for name in wanted))
    return [name for name in ROWS if not wanted or name in wanted]


class Run:
    """What is being measured, and what was found so far."""

    def __init__(
        self,
        products: Sequence[Product],
        scale: Scale,
        rounds: int,
        alone: Iterable[str] = (),
    ) -> None:
        self.products = list(products)
        self.scale = scale
        self.rounds = rounds
        self._alone = frozenset(alone)  # rows that only pgtask goes through
        self.missing: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.settings: dict[str, str] = {}
        self._figures: dict[str, dict[str, list[dict[str, float]]]] = {}
        self._samples: dict[str, dict[str, dict[str, list[float]]]] = {}
        self.failures: list[str] = []
        self._begun = time.monotonic()

    @contextmanager
    def stand(self, cache: Path) -> Iterator[Stand]:
        """Start the servers and find the products; who cannot be had is noted in `missing`."""
        with ExitStack() as servers:
            database = servers.enter_context(postgres.running(cache))
            self.settings = database.settings()
            broker, no_broker = None, ""
            if any(product.broker == "redis" for product in self.products):
                try:
                    broker = servers.enter_context(redis.running())
                    self.versions["redis"] = {"redis": redis.version()}
                except NotAvailable as reason:
                    no_broker = str(reason)
            stand = Stand(database, broker)
            environments = Environments(cache)
            for product in list(self.products):
                if product.broker == "redis" and broker is None:
                    self._drop(product, no_broker)
                    continue
                try:
                    command = environments.command(product)
                    self.versions[product.name] = environments.versions(product)
                    stand.add(product, command, environments.home(product))
                except NotAvailable as reason:
                    self._drop(product, str(reason))
            yield stand

    def measure(self, stand: Stand, rows: Iterable[str]) -> None:
        """Each row in turn; within it the products by turns, as often as there are rounds."""
        for name in rows:
            begun = time.monotonic()
            for number in range(self.rounds):
                for product in self._of(name):
                    self._once(stand, name, product, number)
            say(f"{name}: {time.monotonic() - begun:.0f} s")

    def figure(self, row: str, product: str, figure: str) -> float | None:
        """The median over the rounds, if there were any."""
        found = self._summary(row, product).get(figure)
        return None if found is None else found["median"]  # type: ignore[return-value]  # a float

    def conditions(self) -> dict[str, Any]:
        """What the figures of this run mean: where, with what, how often."""
        return {
            "taken": datetime.now(UTC).strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - self._begun),
            "rounds": self.rounds,
            "machine": machine(),
            "settings": self.settings,
            "versions": self.versions,
            "products": {product.name: product.settings for product in self.products},
            "missing": self.missing,
            "failures": self.failures,
        }

    def document(self) -> dict[str, Any]:
        """Everything, for a file."""
        return self.conditions() | {
            "ratios": {name: ratio(self.figure) for name, ratio in RATIOS.items()},
            "goals": [verdict.document() for verdict in judge(self.figure, self._goals())],
            "figures": {
                row: {product: self._summary(row, product) for product in found}
                for row, found in self._figures.items()
            },
            "distributions": {
                row: {
                    product: {name: distribution(values) for name, values in samples.items()}
                    for product, samples in found.items()
                }
                for row, found in self._samples.items()
            },
        }

    def _goals(self) -> tuple[Any, ...]:
        read_off = {"wal": "drain", "cpu": "drain"}
        return tuple(goal for goal in GOALS if read_off.get(goal.row, goal.row) in self._figures)

    def _of(self, name: str) -> list[Product]:
        products = [PGTASK] if name in self._alone else self.products
        return [product for product in products if ROWS[name].of(product)]

    def _once(self, stand: Stand, name: str, product: Product, number: int) -> None:
        try:
            measured = ROWS[name].measure(stand, product, self.scale)
        except (Failed, NotAvailable) as failure:
            self.failures.append(f"{name}, {product.name}, round {number + 1}: {failure}")
            say(f"  {self.failures[-1]}")
            return
        self._figures.setdefault(name, {}).setdefault(product.name, []).append(measured.figures)
        samples = self._samples.setdefault(name, {}).setdefault(product.name, {})
        for figure, values in measured.samples.items():
            samples.setdefault(figure, []).extend(values)
        shown = ", ".join(f"{key} {value:,.4g}" for key, value in measured.figures.items())
        say(f"  {name} {number + 1}/{self.rounds} {product.name}: {shown}")

    def _summary(self, row: str, product: str) -> dict[str, dict[str, object]]:
        return summary(self._figures.get(row, {}).get(product, []))

    def _drop(self, product: Product, reason: str) -> None:
        self.missing[product.name] = reason
        self.products.remove(product)
        say(f"{product.name} is not measured: {reason}")


def machine() -> dict[str, str]:
    """The machine in words that name nobody."""
    names: dict[str, str] = {
        "cores": str(os.cpu_count()),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }
    with suppress(ValueError, OSError):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        names["memory"] = f"{size / 2**30:.0f} GiB"
    return names


def peers_of(words: Sequence[str], *, quick: bool) -> list[Product]:
    """The products of --peers: names, `none`, or nothing for the usual; raises ValueError."""
    if list(words) == ["none"]:
        return [PGTASK]
    if not words:
        return [PGTASK, GRAPHILE, FLOOR] if quick else [PGTASK, *PEERS, *FLOORS]
    known = {product.name: product for product in (*PEERS, *FLOORS)}
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"no such peer: {', '.join(unknown)}; there are {', '.join(known)}, none")
    return [PGTASK, *(known[word] for word in known if word in words)]
