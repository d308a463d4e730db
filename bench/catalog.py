"""What is compared: each product, what it needs, and the best settings its documentation has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Product:
    """A product as it is run here.

    `jobs` is what a drain starts with on a 2-core machine: some seconds of work. `many` is the
    size of its bulk calls, 0 where it has none; `bulk_jobs` how many jobs measure them.
    """

    name: str
    program: str
    jobs: int
    processes: int = 2
    concurrency: int = 1
    requirements: tuple[str, ...] = ()
    language: Literal["this", "python", "node"] = "python"
    python: tuple[int, int] = (3, 11)
    broker: Literal["postgresql", "redis"] = "postgresql"
    many: int = 1000
    bulk_jobs: int = 30_000
    trips: bool = False
    keeps: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""


PGTASK = Product(
    "pgtask",
    "pgtask",
    jobs=400_000,
    processes=1,
    concurrency=2,
    language="this",
    bulk_jobs=200_000,
    trips=True,
    keeps=True,
    settings="one worker, two child processes, defaults",
)
FLOOR = Product(
    "floor",
    "floor",
    jobs=400_000,
    language="this",
    bulk_jobs=200_000,
    trips=True,
    keeps=True,
    settings="not a product: bare psycopg, two processes, batches of 500, one commit a batch",
)
FLOOR_DELETE = Product(
    "floor-delete",
    "floor",
    jobs=400_000,
    processes=1,
    language="this",
    bulk_jobs=200_000,
    variables={"BENCH_FLOOR": "delete"},
    settings="not a product: bare psycopg, one process that deletes what it takes",
)
GRAPHILE = Product(
    "graphile-worker",
    "graphile.js",
    jobs=200_000,
    processes=1,
    concurrency=24,
    language="node",
    requirements=("graphile-worker@0.17.3",),
    settings="Node, one process, 24 concurrent, local queue of 500, batched completions",
)
PEERS = (
    GRAPHILE,
    Product(
        "pgqueuer",
        "pgqueuer",
        jobs=60_000,
        concurrency=500,
        requirements=("pgqueuer==1.6.0", "asyncpg==0.32.0", "uvloop"),
        settings="two processes, asyncpg and uvloop, batch_size=500, its autovacuum settings",
    ),
    Product(
        "awa",
        "awa",
        jobs=40_000,
        concurrency=256,
        requirements=("awa-pg==0.6.9",),
        many=5000,
        settings="two processes, 256 concurrent, claims of 512, bulk by COPY in 5,000s",
    ),
    Product(
        "oban",
        "oban",
        jobs=12_000,
        concurrency=50,
        requirements=("oban==0.7.0",),
        python=(3, 12),
        bulk_jobs=5000,
        settings="two processes, 50 concurrent, open source edition, defaults",
    ),
    Product(
        "chancy",
        "chancy",
        jobs=8000,
        concurrency=50,
        requirements=("chancy==0.26.0",),
        bulk_jobs=5000,
        trips=True,
        settings="two processes, asyncio executor of 50, eager polling, polling 1 s",
    ),
    Product(
        "procrastinate",
        "procrastinate",
        jobs=4000,
        processes=4,
        concurrency=10,
        requirements=("procrastinate==3.10.0", "psycopg[binary,pool]>=3.3"),
        bulk_jobs=10_000,
        settings="four processes, 10 concurrent, LISTEN, finished jobs deleted",
    ),
    Product(
        "dramatiq",
        "dramatiq",
        jobs=12_000,
        concurrency=8,
        requirements=("dramatiq[redis]==2.2.1",),
        broker="redis",
        many=0,
        trips=True,
        settings="two processes of eight threads, late acknowledgement, Redis without persistence",
    ),
    Product(
        "celery",
        "celery",
        jobs=7000,
        requirements=("celery==5.7.0", "redis>=5", "packaging"),
        broker="redis",
        bulk_jobs=5000,
        trips=True,
        variables={"BENCH_POOL": "solo"},
        settings="two solo workers, prefetch 64, early acknowledgement, Redis without persistence",
    ),
    Product(
        "celery-prefork",
        "celery",
        jobs=4000,
        requirements=("celery==5.7.0", "redis>=5", "packaging"),
        broker="redis",
        bulk_jobs=5000,
        trips=True,
        settings="prefork pool of 2, prefetch 64, early acknowledgement, Redis without persistence",
    ),
)
FLOORS = (FLOOR, FLOOR_DELETE)
PRODUCTS = {product.name: product for product in (PGTASK, *PEERS, *FLOORS)}
