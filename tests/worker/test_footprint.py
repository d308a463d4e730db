"""What a worker costs: connections, statements, memory."""

from __future__ import annotations

from pathlib import Path

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, unfinished
from tests.workers import Start


def connections(connection: Connection) -> list[str]:
    return [
        name
        for (name,) in connection.execute(
            "select application_name from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and application_name <> 'pgtask:client' and application_name <> 'pgtask:results'"
            " and backend_type = 'client backend' order by 1"
        )
    ]


def test_three_connections_whatever_the_concurrency_until_a_task_asks(
    start_worker: Start, connection: Connection
) -> None:
    connection.execute("create table if not exists public.effect (value integer not null)")
    start_worker("-c", "6")
    for job in [shop.add.delay(n, n) for n in range(30)]:
        job.get(timeout=10)
    assert shop.async_add.delay(1, 2).get(timeout=10) == 3

    assert connections(connection) == ["pgtask:claim", "pgtask:control", "pgtask:listen"]

    shop.write_once.delay(1).get(timeout=10)
    assert connections(connection) == [
        "pgtask:claim",
        "pgtask:control",
        "pgtask:listen",
        "pgtask:task",
    ]


def test_a_hundred_jobs_cost_three_round_trips_at_most(
    start_worker: Start, connection: Connection
) -> None:
    # given 5,000 jobs and no worker
    shop.noop.delay_many([(number,) for number in range(5000)])
    before = transactions(connection)

    # when a worker has done them, and has closed its connections, which is when all is counted
    assert start_worker("-c", "2", "--drain", wait=False).wait(60) == 0
    eventually(lambda: not connections(connection))

    # then all its statements together, start, beats and end included, are few
    assert unfinished(connection) == 0
    assert transactions(connection) - before <= 5000 / 100 * 3


def transactions(connection: Connection) -> int:
    connection.execute("select pg_stat_force_next_flush()")
    row = connection.execute(
        "select xact_commit from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_worker_with_two_children_fits_into_120_megabytes(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    worker = start_worker("-c", "2")
    for job in [shop.add.delay(n, n) for n in range(50)]:
        job.get(timeout=10)
    assert shop.async_add.delay(1, 2).get(timeout=10) == 3

    # the async child comes on top of the two
    sizes = {pid: proportional_size(pid) for pid in [worker.pid, *worker.descendants()]}

    assert len(sizes) == 5
    assert sum(sizes.values()) <= 120 * 1024 * 1024


def proportional_size(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")
    )
