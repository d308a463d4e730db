"""Two sessions at the same schedule: one tick has one job, and a beat waits for nobody."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from tests.sql.engine import Engine
from tests.sql.races import Another, Races
from tests.sql.schedules import due, fire, fire_of, instant, plan, put, row, tick, ticks


def test_a_schedule_that_another_beat_is_firing_is_left_to_it(races: Races) -> None:
    put(races.engine, "both")
    put(races.engine, "free")
    at = instant(races.engine)
    both, free = (fire_of(plan(races.engine, name), at, next=None) for name in ("both", "free"))
    with races.first.connection.transaction():
        assert [a.reason for a in fire(races.first, both)] == [None]
        answers = {a.id: a.reason for a in fire(races.second, both, free)}
        assert answers == {both["id"]: "locked", free["id"]: None}
    assert [a.reason for a in fire(races.second, both)] == ["changed"]

    assert ticks(races.engine, "both") == ticks(races.engine, "free") == [(None, True)]
    assert races.engine.count("ready") == 2


def test_a_fire_that_is_rolled_back_leaves_the_tick_to_the_next_beat(races: Races) -> None:
    put(races.engine)
    request = fire_of(plan(races.engine), instant(races.engine), next=None)
    with races.first.connection.transaction(force_rollback=True):
        assert [a.reason for a in fire(races.first, request)] == [None]
    assert (races.engine.count("tick"), races.engine.count("ready")) == (0, 0)
    assert [a.reason for a in fire(races.second, request)] == [None]


@pytest.mark.parametrize("edit", [
    "select pgtask.put_schedule('s', 't2', '{\"every\": 5}')", "select pgtask.pause_schedule('s')",
    "select pgtask.drop_schedule('s')", "update pgtask.schedule set args = '[1]'",
])  # fmt: skip
def test_an_edit_that_has_not_committed_is_not_waited_for(races: Races, edit: str) -> None:
    put(races.engine)
    schedule = plan(races.engine)
    request = fire_of(schedule, instant(races.engine), next=None)
    with races.first.connection.transaction():
        races.first.connection.execute(edit.encode())
        assert [a.id for a in due(races.second)] == [schedule.id]
        assert [a.reason for a in fire(races.second, request)] == ["locked"]
    (answer,) = fire(races.second, request)
    assert answer.reason == ("missing" if "drop" in edit else "changed")
    assert races.engine.count("ready") == 0


@pytest.mark.parametrize("statement", [
    "select pgtask.put_schedule('s', 't', '{\"every\": 5}')", "select pgtask.pause_schedule('s')",
    "select pgtask.fire_schedule('s')", "select pgtask.reset_schedule('s')",
    "select pgtask._declare_schedules('shop', '[]')",
])  # fmt: skip
def test_people_wait_for_a_fire_and_lose_nothing_of_it(races: Races, statement: str) -> None:
    races.engine.all(
        "select pgtask._declare_schedules('shop',"
        ' \'[{"name": "s", "task": "t", "spec": {"every": 60}, "overlap": "queue"}]\')'
    )
    request = fire_of(plan(races.engine), instant(races.engine), next=instant(races.engine, 9))
    with races.first.connection.transaction():
        (fired,) = fire(races.first, request)
        done = races.waiting(
            races.second, lambda: races.second.connection.execute(statement.encode())
        )
    done.result(10)
    assert ticks(races.engine)[0] == (None, True)
    assert fired.job in row(races.engine).pending


def test_a_drop_that_waits_for_a_fire_takes_its_tick_too(races: Races) -> None:
    put(races.engine)
    request = fire_of(plan(races.engine), instant(races.engine), next=None)
    with races.first.connection.transaction():
        (fired,) = fire(races.first, request)
        done = races.waiting(
            races.second, lambda: races.second.value("select pgtask.drop_schedule('s')")
        )
    assert done.result(10) is True
    assert races.engine.count("tick") == 0
    assert races.engine.where(fired.job) == ["ready"]


def test_a_job_that_finishes_during_the_look_is_either_seen_or_not(races: Races) -> None:
    put(races.engine)
    tick(races.engine)
    worker = races.engine.worker()
    jobs = races.engine.claim(worker)
    request = fire_of(plan(races.engine), instant(races.engine, 1), next=None)
    with races.first.connection.transaction():
        races.first.finish(worker, jobs)
        assert [a.reason for a in fire(races.second, request)] == ["overlap"]
    assert tick(races.engine).reason is None


def test_a_key_held_by_a_stranger_is_not_waited_for_long(races: Races) -> None:
    for name in ("keyed", "fine"):
        put(races.engine, name, key="k" if name == "keyed" else None)
        plan(races.engine, name)
    fires = [fire_of(schedule, instant(races.engine), next=None) for schedule in due(races.engine)]
    with races.first.connection.transaction():
        races.first.enqueue(key="k")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fire(races.second, *fires)
        answers = []
        for request in fires:  # one by one, as a beat does after an error
            try:
                answers += fire(races.second, request)
            except psycopg.errors.LockNotAvailable:
                continue
        assert len(answers) == 1
    assert ticks(races.engine, "fine") == [(None, True)]
    assert ticks(races.engine, "keyed") == []


def test_a_row_of_a_beat_that_somebody_holds_is_not_waited_for(races: Races) -> None:
    beat = uuid4()
    due(races.engine, beat=beat)
    races.engine.connection.execute("update pgtask.beat set seen_at = seen_at - interval '1 min'")
    with races.first.connection.transaction():
        races.first.connection.execute("select from pgtask.beat for update")
        assert due(races.second, beat=beat) == []
        races.second.all("select pgtask.purge('0 s', 1, clock_timestamp() + interval '2 days')")
    assert races.engine.count("beat") == 1


def test_replanning_passes_over_what_somebody_holds(races: Races) -> None:
    for name in ("held", "free"):
        put(races.engine, name)
        plan(races.engine, name, ago=-60)
    with races.first.connection.transaction():
        races.first.connection.execute("select from pgtask.schedule where name = 'held' for update")
        assert races.second.value("select pgtask._replan()") == 1
    assert [found.name for found in due(races.engine)] == ["free"]


def test_two_apps_that_start_together_declare_each_schedule_once(races: Races) -> None:
    said = (
        "select * from pgtask._declare_schedules('shop', (select json_agg(json_build_object("
        "'name', 's' || n, 'task', 't', 'spec', '@daily')) from generate_series(1, 20) n))"
    )
    with races.first.connection.transaction():
        assert {what for _, what in races.first.all(said)} == {"inserted"}
        done = races.waiting(races.second, lambda: races.second.all(said))
    assert {what for _, what in done.result(10)} == {"unchanged"}


def test_however_many_beats_a_tick_has_one_job(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    for n in range(10):
        put(engine, f"s{n}", overlap="queue")
        plan(engine, f"s{n}")
    start = instant(engine).replace(microsecond=0)
    beats = [another() for _ in range(4)]

    def beat(session: Engine, seed: int) -> int:
        chance = random.Random(seed)
        fired = 0
        for _ in range(60):
            found = due(session, limit=chance.choice([3, 100]))
            chance.shuffle(found)
            fires = []
            for schedule in found:
                # Each tick makes the next one due at once, for a hundred ticks.
                number = round((schedule.next_at - start).total_seconds()) + 1000
                fires.append(
                    fire_of(
                        schedule, schedule.next_at,
                        next=schedule.next_at + timedelta(seconds=1) if number < 1000 else None,
                    )
                )  # fmt: skip
            fired += sum(answer.job is not None for answer in fire(session, *fires))
        return fired

    for n in range(10):
        engine.all(
            "update pgtask.schedule set next_at = %s where name = %s returning id",
            start - timedelta(seconds=20), f"s{n}",
        )  # fmt: skip
    fired = sum(f.result(60) for f in [aside.submit(beat, b, n) for n, b in enumerate(beats)])

    jobs = engine.values("select job from pgtask.tick")
    assert fired == len(jobs) == len(set(jobs)) == engine.count("ready") > 100
    assert engine.value("select count(*) from pgtask.tick where job is null") == 0
    # Nothing between the first and the last is missing.
    gaps = engine.all(
        "select schedule from pgtask.tick group by schedule"
        " having count(*) <> extract(epoch from max(tick_at) - min(tick_at)) + 1"
    )
    assert gaps == []


def test_whatever_people_do_meanwhile_every_answered_job_is_there_and_no_other(
    engine: Engine, another: Another, aside: ThreadPoolExecutor
) -> None:
    names = [f"s{n}" for n in range(6)]
    overlaps = ("skip", "queue", "skip")

    def beat(session: Engine, seed: int) -> list[int]:
        chance = random.Random(seed)
        jobs = []
        for _ in range(150):
            fires = []
            for schedule in due(session, limit=chance.choice([2, 100])):
                at = schedule.next_at if schedule.planned else None
                fires.append(
                    fire_of(
                        schedule, *([] if at is None else [at]),
                        next=(at or schedule.now) + timedelta(seconds=-1 if at is None else 1),
                    )
                )  # fmt: skip
            jobs += [answer.job for answer in fire(session, *fires) if answer.job is not None]
        return jobs

    def person(session: Engine, seed: int) -> list[int]:
        chance = random.Random(seed)
        jobs = []
        for _ in range(200):
            name = chance.choice(names)
            match chance.randrange(6):
                case 0:
                    session.all("select pgtask.drop_schedule(%s)", name)
                case 1:
                    session.all("select pgtask.pause_schedule(%s)", name)
                case 2:
                    session.all("select pgtask.resume_schedule(%s)", name)
                case 3:
                    fired = session.value("select pgtask.fire_schedule(%s)", name)
                    jobs += [] if fired is None else [fired]
                case 4:
                    session.all("select pgtask._replan(), pgtask.purge()")
                case _:
                    put(session, name, args=[chance.random()], overlap=chance.choice(overlaps))
        return jobs

    def work(session: Engine) -> list[int]:
        worker = session.worker()
        for _ in range(150):
            session.finish(worker, session.claim(worker, 5))
        return []

    calls = [aside.submit(beat, another(), n) for n in (1, 2)]
    calls += [aside.submit(person, another(), 3), aside.submit(work, another())]
    told = [job for call in calls for job in call.result(60)]

    assert len(told) == len(set(told)) > 10  # how many, the machine decides
    assert sorted(told) == sorted(engine.values("select id from pgtask.jobs"))
    in_ticks = engine.values("select job from pgtask.tick where job is not null")
    assert len(in_ticks) == len(set(in_ticks))
    assert set(in_ticks) <= set(told)
    orphans = "select 1 from pgtask.tick where schedule not in (select id from pgtask.schedule)"
    assert engine.values(orphans) == []
