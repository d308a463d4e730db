"""_results and _watch: where jobs stand and what they left."""

from __future__ import annotations

import pytest

from tests.sql.engine import Engine


def test_every_state_is_told(engine: Engine) -> None:
    worker, running = engine.running()
    _, done = engine.running(worker)
    engine.finish(worker, [done], results=["null"])
    ready, waiting = engine.enqueue(), engine.enqueue(delay=60.0)
    rows = engine.all(
        "select * from pgtask._results(%s::bigint[])",
        [running.id, done.id, ready, waiting, 999999, None],
    )

    assert {row.id: (row.state, row.attempt, row.result) for row in rows} == {
        running.id: ("running", 1, None), done.id: ("succeeded", 1, "null"),
        ready: ("ready", 0, None), waiting: ("scheduled", 0, None),
    }  # fmt: skip


def test_a_success_without_a_result_has_none(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job])

    assert engine.result(job.id).result is None


def test_a_failed_job_tells_the_last_of_its_errors(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], "retried", types=["First"], messages=["1"], delays=[0.0])
    assert engine.result(job.id).error_type is None
    engine.promote(ahead=1)
    engine.finish(
        worker, engine.claim(worker), "failed", types=["Second"], messages=["2"], tracebacks=["tb"]
    )

    found = engine.result(job.id)
    assert (found.state, found.reason, found.attempt) == ("failed", "error", 2)
    assert (found.error_type, found.error_message, found.error_traceback) == ("Second", "2", "tb")


def test_a_success_after_failures_tells_no_error(engine: Engine) -> None:
    worker, job = engine.running()
    engine.finish(worker, [job], "retried", types=["E"], messages=["m"], delays=[0.0])
    engine.promote(ahead=1)
    engine.finish(worker, engine.claim(worker), results=["1"])

    found = engine.result(job.id)
    assert (found.state, found.result, found.error_type, found.error_message) == (
        "succeeded",
        "1",
        None,
        None,
    )


def test_no_ids_give_no_rows(engine: Engine) -> None:
    nothing: tuple[list[int] | None, ...] = ([], None)
    for ids in nothing:
        assert engine.all("select * from pgtask._results(%s::bigint[])", ids) == []
        assert engine.all("select * from pgtask._watch(%s::bigint[])", ids) == []


@pytest.mark.parametrize("times", [1, 2])
def test_watching_answers_as_results_does_and_registers_for_a_minute(
    engine: Engine, times: int
) -> None:
    job_id = engine.enqueue()
    for _ in range(times):
        rows = engine.all(
            "select * from pgtask._watch(%s::bigint[])", [job_id, job_id, None, 999999]
        )
    assert rows == [engine.result(job_id)]

    assert engine.values("select job from pgtask.watcher order by job") == [job_id, 999999]
    assert engine.value(
        "select min(until) > clock_timestamp() + interval '55 s' from pgtask.watcher"
    )


def test_the_view_shows_every_column_of_a_finished_job(engine: Engine) -> None:
    worker, job = engine.running(key="k", serial="s", keep="failures", expires_in=60.0)
    engine.finish(worker, [job], "failed", types=["E"], messages=["m"])

    row = engine.job(job.id)
    assert (row.key, row.serial, row.keep, row.error) == ("k", "s", "failures", "E: m")
    assert None not in (row.expires_at, row.claimed_at, row.finished_at, row.worker)
