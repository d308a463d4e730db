"""app.schedules: schedules made and changed at run time."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from pgtask.errors import ArgumentMismatch, BlockingCall, ScheduleNotFound, TaskNotFound
from pgtask.schedule import Schedule
from tests.beats import StartBeat
from tests.clockwork import column, jobs, ticks
from tests.conditions import eventually
from tests.standing import Connection


@pytest.fixture
def schedules(shop: ModuleType) -> Any:
    return shop.app.schedules


def test_upsert_makes_a_schedule_and_changes_it(
    schedules: Any, shop: ModuleType, connection: Connection
) -> None:
    made = schedules.upsert("s", shop.add.s(1, y=2), "0 8 * * 1-5", grace=timedelta(hours=1))
    changed = schedules.upsert("s", shop.add.s(3, 4), Schedule(every=60), enabled=False)

    assert changed == made
    line = schedules.get("s")
    assert (line.task, line.args, line.source) == (shop.add.name, "[3,4]", "api")
    assert (line.spec, line.grace, line.state) == ('{"every": 60}', None, "disabled")
    assert [each.name for each in schedules.list()] == ["s"]


def test_what_delay_would_refuse_is_refused(schedules: Any, shop: ModuleType) -> None:
    with pytest.raises(ArgumentMismatch):
        schedules.upsert("s", shop.add.s(1), "@daily")
    with pytest.raises(TypeError, match=r"send\.s"):
        schedules.upsert("s", shop.add, "@daily")
    with pytest.raises(TaskNotFound, match="unchecked=True"):
        schedules.upsert("s", shop.app.signature("no.such.task"), "@daily")
    assert schedules.list() == []

    schedules.upsert("s", shop.app.signature("no.such.task", [1]), "@daily", unchecked=True)

    assert schedules.get("s").args == "[1]"


def test_a_schedule_is_paused_resumed_fired_and_deleted(
    schedules: Any, shop: ModuleType, connection: Connection
) -> None:
    schedules.upsert("s", shop.add.s(1, 2), "@daily")

    assert schedules.pause("s", "busy") is True
    assert schedules.pause("s") is False
    assert schedules.get("s").paused_reason == "busy"
    assert schedules.resume("s") is True
    assert schedules.resume("s") is False
    result = schedules.fire("s")
    assert jobs(connection, "s")[0][0] == result.id
    assert schedules.reset("s") is False
    schedules.delete("s")
    assert schedules.list() == []


def test_preview_goes_on_from_the_databases_time(schedules: Any, shop: ModuleType) -> None:
    schedules.upsert("s", shop.add.s(1, 2), "*/20 * * * *")

    upcoming = schedules.preview("s", n=5)

    assert len(upcoming) == 5
    assert {b - a for a, b in pairwise(upcoming)} == {timedelta(minutes=20)}
    assert timedelta(0) < upcoming[0] - schedules.get("s").now <= timedelta(minutes=20)


def test_a_preview_of_less_than_nothing_is_refused(schedules: Any, shop: ModuleType) -> None:
    schedules.upsert("s", shop.add.s(1, 2), "* * * * *")
    with pytest.raises(ValueError, match="n=-2 is less than 0"):
        schedules.preview("s", n=-2)


@pytest.mark.parametrize("call", ["pause", "resume", "fire", "delete", "reset", "get", "preview"])
def test_an_unknown_name_is_an_error_that_names_a_near_one(
    schedules: Any, shop: ModuleType, call: str
) -> None:
    schedules.upsert("nightly", shop.add.s(1, 2), "@daily")

    with pytest.raises(ScheduleNotFound, match="did you mean 'nightly'"):
        getattr(schedules, call)("nightlly")
    assert issubclass(ScheduleNotFound, LookupError)


@pytest.mark.asyncio
async def test_every_method_has_a_twin(schedules: Any, shop: ModuleType) -> None:
    await schedules.aupsert("s", shop.add.s(1, 2), "@daily")
    assert await schedules.apause("s") is True
    assert await schedules.aresume("s") is True
    assert (await schedules.afire("s")).id
    assert await schedules.areset("s") is False
    assert [line.name for line in await schedules.alist()] == ["s"]
    assert (await schedules.aget("s")).name == "s"
    assert len(await schedules.apreview("s", 3)) == 3
    await schedules.adelete("s")
    for call in ("apause", "aresume", "afire", "adelete", "areset", "aget", "apreview"):
        with pytest.raises(ScheduleNotFound):
            await getattr(schedules, call)("s")
    with pytest.raises(BlockingCall, match=r"await alist\(\)"):
        schedules.list()
    await shop.app.aclose()


def test_a_beat_fires_with_the_last_arguments(
    schedules: Any, shop: ModuleType, start_beat: StartBeat, connection: Connection
) -> None:
    # given a schedule that is edited while it fires
    start_beat()
    schedules.upsert("s", shop.add.s(1, 1), "* * * * * *", overlap="queue")
    eventually(lambda: ticks(connection, "s"))
    planned = column(connection, "s", "next_at")

    schedules.upsert("s", shop.add.s(2, 2), "* * * * * *", overlap="queue")

    # then no tick is lost, and from some tick on all have the new ones
    eventually(lambda: len(ticks(connection, "s")) >= 4)
    said = [
        args
        for (args,) in connection.execute(
            "select args::text from pgtask.jobs where headers ->> 'schedule' = 's' order by"
            " headers ->> 'scheduled_for'"
        )
    ]
    assert said == sorted(said)
    assert said[-1] == "[2,2]"
    assert {b.at - a.at for a, b in pairwise(ticks(connection, "s"))} == {timedelta(seconds=1)}
    assert planned is not None
