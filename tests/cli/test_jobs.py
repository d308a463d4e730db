"""ls, show, wait, retry, cancel and purge on jobs in every state."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgtask.broker import inspect
from pgtask.broker.inspect import JobLine, JobPage, Obstacles
from pgtask.cli import bulk
from pgtask.cli.show import why_not_running
from tests.cli.conftest import Answer, Call, World


def ids(answer: Answer) -> list[int]:
    return [int(job["id"]) for job in answer.json]


def state(world: World, job: int) -> Any:
    return world.one("select state from pgtask.jobs where id = %s", job)


@pytest.fixture
def worker(world: World) -> str:
    return world.worker()


# --- ls ------------------------------------------------------------------------------------------


def test_ls_lists_the_newest_first_with_what_matters_about_each(
    call: Call, world: World, worker: str
) -> None:
    done, bad, running = world.job(), world.job(), world.job()
    first, second, _ = world.claim(worker, 3)
    world.finish(worker, first)
    world.fail(worker, second)
    later = world.job(delay="1 hour")

    answer = call("ls")

    assert answer.code == 0
    assert answer.lines[0] == ["ID", "TASK", "QUEUE", "STATE", "TRY", "CREATED", "NOTE"]
    assert [(line[0], line[3]) for line in answer.lines[1:]] == [
        (str(later), "scheduled"),
        (str(running), "running"),
        (str(bad), "failed"),
        (str(done), "succeeded"),
    ]
    assert "due 20" in answer.out
    assert "error: ValueError: no such box" in answer.out
    assert not answer.err


def test_times_are_local_with_their_offset(call: Call, world: World) -> None:
    world.job()

    answer = call("ls")

    here = datetime.now(UTC).astimezone().isoformat()[-6:]
    assert re.search(rf"\d\d:\d\d:\d\d{re.escape(here)}", answer.out)


def test_ls_filters_by_everything_it_offers(call: Call, world: World, worker: str) -> None:
    plain = world.job()
    mail = world.job(queue="mail")
    other = world.job(task="mail.count")
    tagged = world.job(tags=["vip", "eu"])
    keyed = world.job(key="order-7")
    later = world.job(delay="1 hour")

    assert ids(call("ls", "--json")) == [later, keyed, tagged, other, mail, plain]
    assert ids(call("ls", "--json", "-Q", "mail")) == [mail]
    assert ids(call("ls", "--json", "-Q", "mail,none", "-Q", "default", "-n", 2)) == [later, keyed]
    assert ids(call("ls", "--json", "-t", "mail.count")) == [other]
    assert ids(call("ls", "--json", "-t", "*.count")) == [other]
    assert ids(call("ls", "--json", "-t", "mail_count")) == []
    assert ids(call("ls", "--json", "-s", "scheduled")) == [later]
    assert ids(call("ls", "--json", "--tag", "vip")) == [tagged]
    assert ids(call("ls", "--json", "--key", "order-7")) == [keyed]
    assert ids(call("ls", "--json", "--before", mail)) == [plain]
    assert ids(call("ls", "--json", "--since", "1h")) == [later, keyed, tagged, other, mail, plain]
    world.connection.execute("update pgtask.ready set created_at = now() - interval '2 hours'")
    assert ids(call("ls", "--json", "--since", "1h")) == [later]


def test_a_cut_list_says_how_to_go_on(call: Call, world: World) -> None:
    older, newer = world.job(), world.job()

    answer = call("ls", "-n", 1)

    assert [line[0] for line in answer.lines[1:]] == [str(newer)]
    assert f"pgtask ls --before {newer}" in answer.err
    assert call("ls", "-n", 1, "--quiet").err == ""
    assert ids(call("ls", "--json", "--before", newer)) == [older]


def test_an_empty_list_is_no_error(call: Call, world: World) -> None:
    assert call("ls").lines == [["ID", "TASK", "QUEUE", "STATE", "TRY", "CREATED", "NOTE"]]
    assert call("ls", "--json").json == []


def test_control_characters_of_a_job_do_not_reach_the_terminal(
    call: Call, world: World, worker: str
) -> None:
    job = world.job(key="a\x1b[31mb\nc")

    assert "\x1b" not in call("show", job).out
    assert call("show", job, "--json").json["key"] == "a\x1b[31mb\nc"


# --- show ----------------------------------------------------------------------------------------


def test_show_tells_the_story_of_a_job(call: Call, world: World, worker: str) -> None:
    job = world.job(kwargs='{"n": 1}', tags=["vip"], priority=5)
    world.fail(worker, world.claim(worker)[0], verdict="retried")
    world.connection.execute("update pgtask.waiting set run_at = now()")
    world.one("select promoted from pgtask.promote()")
    second = world.claim(worker)[0]
    world.finish(worker, second, '{"sent": true}')

    answer = call("show", job)
    document = call("show", job, "--json").json

    told = [line.strip() for line in answer.out.splitlines()]
    for line in (
        "task      mail.send",
        "state     succeeded",
        "priority  5",
        'args      ["ada"]',
        'result    {"sent": true}',
        "tags      vip",
        "worker    host:7",
    ):
        assert line in told
    events = [line.split("  ")[-1] for line in told if re.match(r"\d{4}-", line)]
    assert events == [
        "created",
        "attempt 1 began",
        "attempt 1 retried: ValueError: no such box",
        "attempt 2 began",
        "succeeded",
    ]
    assert "traceback of attempt 1" in told
    assert "Traceback: line 1" in told
    assert "why it is not running" not in told
    assert document["id"] == str(job)
    assert document["result"] == {"sent": True}
    assert document["kwargs"] == {"n": 1}
    assert [attempt["outcome"] for attempt in document["attempts"]] == ["retried"]
    assert document["why_not_running"] == []


def test_show_reads_arguments_and_results_of_any_size(
    call: Call, world: World, worker: str
) -> None:
    long = "x" * 5000
    job = world.job(args=f'["{long}"]')
    world.finish(worker, world.claim(worker)[0], f'"{long}"')

    document = call("show", job, "--json").json

    assert document["args"] == [long]
    assert document["result"] == long


def test_a_job_that_is_not_there_is_exit_6(call: Call, world: World) -> None:
    answer = call("show", 999)

    assert (answer.code, answer.out) == (6, "")
    assert "there is no job 999" in answer.err


def reasons(call: Call, job: int) -> list[str]:
    found: list[str] = call("show", job, "--json").json["why_not_running"]
    text = call("show", job).out
    assert all(reason in text for reason in found)
    return found


def test_it_says_that_no_worker_is_alive(call: Call, world: World) -> None:
    assert reasons(call, world.job()) == ["no worker is alive → pgtask worker"]


def test_it_says_that_no_worker_takes_the_queue(call: Call, world: World, worker: str) -> None:
    assert reasons(call, world.job(queue="mail")) == [
        "no live worker takes queue 'mail' → pgtask worker -Q mail"
    ]


def test_it_says_that_no_worker_knows_the_task(call: Call, world: World, worker: str) -> None:
    assert reasons(call, world.job(task="mail.count")) == [
        "no live worker knows task 'mail.count' → see: pgtask tasks"
    ]


def test_it_says_that_no_one_worker_fits(call: Call, world: World, worker: str) -> None:
    world.worker(queues=("mail",), tasks=("mail.count",))

    assert reasons(call, world.job(queue="mail")) == [
        "the live workers that know task 'mail.send' do not take queue 'mail'"
    ]


def test_a_worker_of_all_queues_takes_any(call: Call, world: World) -> None:
    world.worker(queues=("*",))

    assert reasons(call, world.job(queue="mail")) == []


def test_it_says_that_a_job_is_not_due(call: Call, world: World, worker: str) -> None:
    (found,) = reasons(call, world.job(delay="1 hour"))

    assert re.fullmatch(r"it is due in (59m5\ds|1h|60m), at 20.*", found)


def test_it_says_when_the_next_try_is(call: Call, world: World, worker: str) -> None:
    job = world.job()
    world.fail(worker, world.claim(worker)[0], verdict="retried")

    (found,) = reasons(call, job)

    assert found.startswith("its next try is due in ")


def test_it_says_who_paused_the_queue_and_why(call: Call, world: World, worker: str) -> None:
    job = world.job()
    world.one("select pgtask.pause_queue('default', 'smtp is down')")
    by = world.one("select session_user")

    assert reasons(call, job) == [
        f"queue 'default' was paused by {by} (smtp is down) → pgtask queue resume default"
    ]


def test_it_says_which_job_has_the_serial_key(call: Call, world: World, worker: str) -> None:
    first, second = world.job(serial="box-1"), world.job(serial="box-1")
    assert [job for job, _ in world.claim(worker, 2)] == [first]

    assert reasons(call, second) == [f"its serial key 'box-1' is busy: job {first} has it"]


def test_it_says_that_workers_are_busy_and_how_many_jobs_go_before(
    call: Call, world: World
) -> None:
    worker = world.worker(children=1)
    world.job()
    world.claim(worker)
    world.job(priority=-5)
    world.job(priority=5)
    job = world.job()

    assert reasons(call, job) == [
        "the workers that could take it (1) are busy → pgtask workers",
        "1 ready jobs of queue 'default' go before it",
    ]


def test_it_says_who_has_the_key_of_a_finished_job(call: Call, world: World, worker: str) -> None:
    old = world.job(key="order-7")
    world.fail(worker, world.claim(worker)[0])
    new = world.job(key="order-7")

    assert f"order-7 (job {new} has it now)" in call("show", old).out
    assert call("show", old, "--json").json["key_owner"] == str(new)


def page(state: str, **fields: Any) -> JobPage:
    at = datetime.now(UTC)
    line = JobLine(
        1, "t", "q", 0, state, None, 0, 3, None, fields.get("serial"), None, at, at, None, None,
        None, None,
    )  # fmt: skip
    return JobPage(line, 0, 0, "all", "[]", None, None, None, None, None, None)


def facts(**fields: Any) -> Obstacles:
    usual: dict[str, Any] = {
        "due_in": None, "expires_in": None, "paused": False, "paused_by": None,
        "paused_reason": None, "workers": 1, "workers_of_queue": 1, "workers_of_task": 1,
        "workers_of_both": 1, "workers_with_room": 1, "serial_owner": None, "key_owner": None,
        "ahead": 0,
    }  # fmt: skip
    return Obstacles(**{**usual, **fields})


@pytest.mark.parametrize(
    ("job", "found", "said"),
    [
        (page("ready"), facts(), []),
        (page("running"), facts(workers=0), []),
        (page("failed"), facts(workers=0), []),
        (page("blocked"), facts(), ["it waits for other jobs to finish"]),
        (page("blocked", serial="s"), facts(), []),
        (
            page("ready"),
            facts(expires_in=-5.0),
            ["it expired 5.0s ago: it will be cancelled, not run"],
        ),
        (
            page("scheduled"),
            facts(due_in=-90.0),
            ["it has been due for 1m30s and waits for a live worker"],
        ),
        (page("ready"), facts(paused=True), ["queue 'q' was paused → pgtask queue resume q"]),
    ],
)
def test_each_obstacle_has_its_sentence(job: JobPage, found: Obstacles, said: list[str]) -> None:
    assert list(why_not_running(job, found)) == said


# --- wait ----------------------------------------------------------------------------------------


def test_wait_prints_the_result(call: Call, world: World, worker: str) -> None:
    job = world.job()
    world.finish(worker, world.claim(worker)[0], '{"a": [1, 2]}')

    answer = call("wait", job)

    assert (answer.code, answer.out, answer.err) == (0, '{"a": [1, 2]}\n', "")


def test_wait_for_several_is_0_only_if_all_succeeded(call: Call, world: World, worker: str) -> None:
    good, bad = world.job(), world.job()
    first, second = world.claim(worker, 2)
    world.finish(worker, first)
    world.fail(worker, second)

    answer = call("wait", good, bad)
    document = call("wait", good, bad, "--json")

    assert (answer.code, answer.out) == (1, f"{good} 42\n")
    assert answer.err == (
        f"pgtask: job {bad} failed (error): ValueError: no such box → see: pgtask show {bad}\n"
    )
    assert document.code == 1
    assert [(job["state"], job["result"], job["error"]) for job in document.json] == [
        ("succeeded", 42, None),
        (
            "failed",
            None,
            {
                "type": "ValueError",
                "message": "no such box",
                "traceback": "Traceback: line 1",
            },
        ),
    ]


def test_wait_gives_up_with_124(call: Call, world: World) -> None:
    job = world.job()

    answer = call("wait", job, "--timeout", "50ms")

    assert (answer.code, answer.out) == (124, "")
    assert f"job {job} is ready after 50ms" in answer.err


def test_wait_ends_when_the_job_does(spawn: Call, world: World, worker: str) -> None:
    job = world.job()
    claimed = world.claim(worker)[0]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(spawn, "wait", job, "--timeout", "30s")
        world.finish(worker, claimed)

        assert waiting.result(timeout=60).out == "42\n"


def test_wait_for_a_job_that_is_not_there_is_exit_6(call: Call, world: World) -> None:
    assert call("wait", 999).code == 6


# --- retry, cancel -------------------------------------------------------------------------------


def test_retry_and_cancel_by_id_say_what_became_of_each(
    call: Call, world: World, worker: str
) -> None:
    bad, running, ready = world.job(), world.job(), world.job(task="mail.count")
    first, _ = world.claim(worker, 2)
    world.fail(worker, first)

    retried = call("retry", bad, ready, 999)
    cancelled = call("cancel", bad, running, ready)

    assert (retried.code, retried.lines) == (
        1,
        [[str(bad), "retried"], [str(ready), "unfinished"], ["999", "missing"]],
    )
    assert (cancelled.code, cancelled.lines) == (
        0,
        [[str(bad), "cancelled"], [str(running), "cancelling"], [str(ready), "cancelled"]],
    )
    assert state(world, ready) == "cancelled"


def test_ids_that_are_all_missing_are_exit_6(call: Call, world: World) -> None:
    assert call("cancel", 998, 999).code == 6
    assert call("retry", 998, "--json").json == {
        "dry_run": False,
        "matched": 1,
        "outcomes": {"missing": 1},
        "jobs": [{"id": "998", "outcome": "missing"}],
    }


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_without_ids_or_a_filter_nothing_is_done(call: Call, world: World, verb: str) -> None:
    answer = call(verb)

    assert answer.code == 2
    assert "which jobs? → give ids, a filter" in answer.err
    assert call(verb, 1, "-Q", "mail").code == 2
    assert call(verb, 1, "--all").code == 2


def test_a_state_that_the_verb_does_nothing_to_is_refused(call: Call, world: World) -> None:
    assert call("retry", "-s", "running").code == 2
    assert call("cancel", "-s", "failed").code == 2


def test_retry_by_filter_takes_failed_jobs_unless_told_otherwise(
    call: Call, world: World, worker: str
) -> None:
    good, bad, other = world.job(), world.job(), world.job()
    first, second, third = world.claim(worker, 3)
    world.finish(worker, first)
    world.fail(worker, second)
    world.fail(worker, third)
    world.connection.execute("update pgtask.done set queue = 'mail' where id = %s", [other])

    by_queue = call("retry", "-Q", "default")
    again = call("retry", "--all", "-s", "succeeded")

    assert (by_queue.code, by_queue.out) == (0, "retried 1\n")
    assert again.out == "retried 1\n"
    assert [state(world, job) for job in (good, bad, other)] == ["ready", "ready", "failed"]


def test_cancel_all_leaves_finished_jobs_alone(call: Call, world: World, worker: str) -> None:
    done = world.job()
    world.finish(worker, world.claim(worker)[0])
    ready, later = world.job(), world.job(delay="1 hour")

    answer = call("cancel", "--all", "--json")

    assert answer.json["outcomes"] == {"cancelled": 2}
    assert [state(world, job) for job in (done, ready, later)] == [
        "succeeded",
        "cancelled",
        "cancelled",
    ]


def test_cancel_terminate_is_asked_of_the_worker(call: Call, world: World, worker: str) -> None:
    job = world.job()
    world.claim(worker)

    assert call("cancel", job, "--terminate").code == 0
    assert world.one("select terminate from pgtask._heartbeat(%s)", worker) is True


def test_a_dry_run_only_counts(call: Call, world: World) -> None:
    job = world.job()

    answer = call("cancel", "--all", "--dry-run")

    assert (answer.code, answer.out) == (0, "would cancel 1 jobs\n")
    assert call("cancel", "--all", "--dry-run", "--json").json["matched"] == 1
    assert state(world, job) == "ready"


def test_many_jobs_need_a_yes(call: Call, spawn: Call, world: World) -> None:
    for _ in range(bulk.ASK_ABOVE + 1):
        world.job()

    refused = spawn("cancel", "--all")
    done = call("cancel", "--all", "-y")

    assert refused.code == 2
    assert "Cancel 21 jobs?" in refused.err
    assert "add --yes" in refused.err
    assert (done.code, done.out) == (0, "cancelled 21\n")


@pytest.mark.parametrize(("word", "code", "left"), [("y", 0, 0), ("n", 1, 21)])
def test_on_a_terminal_it_asks(
    call: Call,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    code: int,
    left: int,
) -> None:
    for _ in range(bulk.ASK_ABOVE + 1):
        world.job()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: word)

    answer = call("cancel", "--all")

    assert answer.code == code
    assert world.one("select count(*) from pgtask.ready") == left


def test_a_bulk_goes_page_by_page_and_no_further_than_it_counted(
    call: Call, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PAGE", 2)
    counted = [world.job() for _ in range(5)]
    statement = inspect.matching_ids
    late: list[int] = []

    def one_more_comes(*given: Any) -> Any:
        late.append(world.job())
        return statement(*given)

    monkeypatch.setattr(inspect, "matching_ids", one_more_comes)

    answer = call("cancel", "--all")

    assert answer.out == "cancelled 5\n"
    assert {state(world, job) for job in counted} == {"cancelled"}
    assert {state(world, job) for job in late} == {"ready"}


# --- purge ---------------------------------------------------------------------------------------


def test_purge_removes_what_finished_long_ago(call: Call, world: World, worker: str) -> None:
    old, young = world.job(), world.job()
    first, second = world.claim(worker, 2)
    world.finish(worker, first)
    world.finish(worker, second)
    world.connection.execute(
        "update pgtask.done set finished_at = finished_at - %s where id = %s",
        [timedelta(days=8), old],
    )

    kept = call("purge", "--finished", "9d", "--json")
    answer = call("purge", "--batch", 1)

    assert kept.json == {"removed": 0}
    assert (answer.code, answer.out) == (0, "removed 1\n")
    assert (state(world, old), state(world, young)) == (None, "succeeded")
    assert call("purge", "--finished", "0").out == "removed 1\n"
