"""Which jobs a worker takes: queues, tasks it knows, kinds of children, claims nobody answered."""

from __future__ import annotations

import signal
from pathlib import Path

from tests import shop
from tests.conditions import eventually
from tests.standing import Connection, counted, end_of, lines, standing, unfinished
from tests.workers import Start


def test_a_worker_takes_jobs_of_its_queues_only(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given jobs in several queues
    log = tmp_path / "log"
    for queue in ("mail", "mail.bulk", "video-1", "video-2", "default"):
        shop.note.options(queue=queue).delay(str(log), queue)

    # when a worker has taken those of one name and one pattern
    drain = start_worker("-Q", "mail,video-*", "--drain", wait=False)
    assert drain.wait() == 0

    # then the others are left
    assert sorted(lines(log)) == ["mail", "video-1", "video-2"]
    left = connection.execute("select queue from pgtask.ready order by queue").fetchall()
    assert left == [("default",), ("mail.bulk",)]


def test_a_queue_that_appears_later_is_met(start_worker: Start, connection: Connection) -> None:
    start_worker("-c", "1", "-Q", "new-*")

    assert shop.add.options(queue="new-1").delay(1, 2).get(timeout=5) == 3
    assert shop.add.options(queue="new-2").delay(1, 2).get(timeout=5) == 3


def test_a_paused_queue_is_left_alone(start_worker: Start, connection: Connection) -> None:
    connection.execute("select pgtask.pause_queue('default')")
    start_worker("-c", "1")
    paused = shop.add.delay(1, 2)
    assert shop.add.options(queue="other").delay(3, 4).get(timeout=10) == 7
    now = standing(connection, paused.id)
    assert now is not None
    assert now.state == "ready"

    connection.execute("select pgtask.resume_queue('default')")

    assert paused.get(timeout=10) == 3


def test_an_unknown_task_stays_queued_for_a_worker_that_knows_it(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given a job of a task that only another app has
    module = tmp_path / "newer.py"
    module.write_text(
        "from pgtask import App\n"
        "app = App('newer')\n"
        "@app.task(name='new.task')\n"
        "def new(x: int) -> int:\n"
        "    return x + 1\n"
    )
    row = connection.execute("select pgtask.enqueue('new.task', '[1]')").fetchone()
    assert row is not None

    # when a worker that does not know it has done all it can
    assert start_worker("--drain", wait=False).wait() == 0

    # then the job is as it was, until one comes that does
    now = standing(connection, row[0])
    assert now is not None
    assert now[:4] == ("ready", None, 0, 0)
    start_worker("-c", "1", app="newer:app", PYTHONPATH=str(tmp_path))
    assert end_of(connection, row[0]).state == "succeeded"


def test_a_drain_of_an_app_without_tasks_ends(start_worker: Start, tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("from pgtask import App\napp = App('none')\n")

    drain = start_worker("--drain", app="none:app", wait=False, PYTHONPATH=str(tmp_path))

    assert drain.wait() == 0
    assert "no task is registered" in drain.log


def test_sync_and_async_jobs_run_side_by_side(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    start_worker("-c", "1")
    sync, other = tmp_path / "sync", tmp_path / "async"

    # given one child of each kind that is busy
    shop.hold.delay(str(sync))
    shop.async_hold.delay(str(other))
    eventually(lambda: lines(sync) and lines(other))

    # then the event loop has room, and the other kind has not
    waiting = shop.add.delay(1, 2)
    assert shop.async_add.delay(1, 2).get(timeout=10) == 3
    sync.with_name("sync.go").touch()
    assert waiting.get(timeout=10) == 3
    other.with_name("async.go").touch()
    eventually(lambda: unfinished(connection) == 0)


def test_a_child_that_is_free_again_does_not_wait_for_the_next_poll(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    # given an app with both kinds of tasks, and sync jobs too long to be taken in batches
    for _ in range(8):
        shop.nap.delay(0.1, "/dev/null")

    # when one child runs them, one by one
    start_worker("-c", "1", "--poll", "30s")
    eventually(lambda: unfinished(connection) == 0, timeout=20)

    # then it had one after the other at once
    row = connection.execute(
        "select extract(epoch from max(finished_at) - min(claimed_at)) from pgtask.done"
    ).fetchone()
    assert row is not None
    assert row[0] < 8 * 0.1 + 1.0


def test_many_coroutines_run_at_once_and_no_more_than_asked_for(
    start_worker: Start, connection: Connection, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    start_worker("-c", "1", "--async-concurrency", "40")

    jobs = [shop.async_hold.delay(str(log)) for _ in range(50)]
    eventually(lambda: len(lines(log)) == 40)

    assert connection.execute("select count(*) from pgtask.running").fetchone() == (40,)
    log.with_name("log.go").touch()
    assert [job.get(timeout=10) for job in jobs] == ["held"] * 50


def claim_unseen(connection: Connection, job_id: int) -> None:
    """A claim under the living worker's id, whose answer it has not seen."""
    moved = connection.execute(
        "with gone as (delete from pgtask.ready where id = %s returning *)"
        " insert into pgtask.running"
        "   (id, created_at, epoch, attempt, max_attempts, task, queue, args, kwargs, worker)"
        " select g.id, g.created_at, g.epoch + 1, g.attempt + 1, g.max_attempts, g.task, g.queue,"
        "        g.args, g.kwargs, (select id from pgtask.worker where alive) from gone g",
        [job_id],
    )
    assert moved.rowcount == 1


def test_what_a_claim_took_whose_answer_never_came_is_given_back(
    start_worker: Start, connection: Connection
) -> None:
    # given a claim under the worker's id that it has not seen
    connection.execute("select pgtask.pause_queue('default')")
    worker = start_worker("-c", "1")
    job = shop.add.delay(1, 2)
    claim_unseen(connection, job.id)
    connection.execute("select pgtask.resume_queue('default')")

    # when its work connection breaks
    cut = connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'pgtask:claim' and datname = current_database()"
    )
    assert cut.fetchall() == [(True,)]

    # then it gives the job back, uncounted, and runs it
    assert job.get(timeout=10) == 3
    assert "claim was never answered" in worker.log
    now = standing(connection, job.id)
    assert now is not None
    assert (now.attempt, now.epoch) == (1, 2)


def test_a_worker_that_ends_gives_back_what_it_never_knew_it_had(
    start_worker: Start, connection: Connection
) -> None:
    # given a job that a lost claim has put under the worker's name
    worker = start_worker("-c", "1", "-Q", "none")
    job = shop.add.delay(1, 2)
    claim_unseen(connection, job.id)

    # when the worker ends
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0

    # then the job is as it was
    now = standing(connection, job.id)
    assert now is not None
    assert now[:3] == ("ready", None, 0)
    assert counted(connection, "tests.shop.add", "lost") == 0
