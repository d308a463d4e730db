"""The count at the end of a scenario: it passes what is whole, and finds each thing that is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.faults import conservation
from tests.faults.conservation import Allowed, Count
from tests.faults.stand import BUSINESS
from tests.standing import Connection

_DONE = (
    "insert into pgtask.done (id, task, queue, epoch, attempt, state, reason)"
    " values (%s, 'tests.faults.app.' || %s, 'default', 1, 1, %s, %s)"
)


class Books:
    """Five jobs that ended well, and one that failed as it was meant to."""

    def __init__(self, connection: Connection, log: Path) -> None:
        self.connection = connection
        self.log = log
        for job, task in enumerate(("effect", "effect", "transfer", "in_lane", "in_lane"), 1):
            connection.execute("insert into public.intent values (%s, %s)", [job, task])
            connection.execute(_DONE, [job, task, "s", None])
            lane = " lane:1" if task == "in_lane" else " -"
            self.write(f"{job} 1 {job} begin {job}.0{lane}", f"{job} 1 {job} end {job}.5{lane}")
        connection.execute("insert into public.intent values (6, 'fail')")
        connection.execute(_DONE, [6, "fail", "f", "error"])
        connection.execute("insert into public.effect values (3, 1)")
        connection.execute("update public.counter set n = 1 where lane = 3")

    def write(self, *lines: str) -> None:
        with self.log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def count(self, *, failures: tuple[int, ...] = (6,), **allowed: bool) -> Count:
        return conservation.count(
            self.connection, self.log, [1, 2, 3], Allowed(failures=failures, **allowed)
        )


@pytest.fixture
def books(connection: Connection, tmp_path: Path) -> Iterator[Books]:
    connection.execute(BUSINESS.encode())
    yield Books(connection, tmp_path / "effects")
    connection.execute("drop table public.intent, public.effect, public.counter")


def test_what_is_whole_passes(books: Books) -> None:
    assert books.count() == Count(jobs=6)


@pytest.mark.parametrize(
    ("harm", "invariant", "lost"),
    [
        ("delete from pgtask.done where id = 1", "I1: 1 jobs are gone: [1]", 1),
        ("delete from public.intent where job = 2", "transaction does not", 1),
        ("delete from public.intent where job = 2", "were acknowledged and forgotten", 1),
        ("insert into pgtask.ready (id, task, queue) values (1, 'x', 'y')", "in two tables", 1),
        (
            "with gone as (delete from pgtask.done where id = 1 returning *)"
            " insert into pgtask.waiting (id, task, queue) select id, task, queue from gone",
            "have not ended",
            1,
        ),
        ("update pgtask.done set state = 'f' where id = 1", "no reason of their own", 0),
        ("update pgtask.done set reason = null where id = 6", "without a reason", 0),
        ("update pgtask.done set epoch = 2 where id = 1", "that had not done its work", 0),
        ("update pgtask.done set epoch = 0 where id = 1", "does not know", 0),
        ("delete from public.effect", "exactly one effect", 0),
        ("insert into public.effect values (3, 2)", "exactly one effect", 0),
        ("insert into public.effect values (6, 1)", "exactly one effect", 0),
        ("update public.counter set n = 2 where lane = 3", "the counter says 2, not 1", 0),
        ("update pgtask.done set attempt = 2 where id = 1", "had an attempt counted", 0),
        ("update pgtask.done set attempt = 4 where id = 6", "more attempts or crashes", 0),
        ("insert into pgtask.slot values ('k', 1, 4)", "have left a row of slot", 0),
        ("insert into pgtask.job_key values ('k', 4)", "have left a row of job_key", 0),
    ],
)
def test_harm_to_the_database_is_found(harm: str, invariant: str, lost: int, books: Books) -> None:
    books.connection.execute(harm.encode())

    found = books.count()

    assert any(invariant in problem for problem in found.problems), found.problems
    assert found.lost == lost


@pytest.mark.parametrize(
    ("lines", "invariant"),
    [
        (["1 1 9 end 9.0 -"], "did their work twice"),
        (["1 1 9 begin 9.0 -"], "began twice under one epoch"),
        (["1 2 9 begin 9.0 -"], "does not know"),
        (["4 1 9 begin 4.4 lane:1", "4 1 9 end 4.8 lane:1"], "side by side under one serial key"),
    ],
)
def test_harm_to_the_effects_is_found(lines: list[str], invariant: str, books: Books) -> None:
    books.write(*lines)

    problems = books.count().problems

    assert any(invariant in problem for problem in problems), problems


def test_a_success_without_an_effect_is_lost(books: Books) -> None:
    books.log.write_text("".join(
        f"{line}\n" for line in books.log.read_text().splitlines() if not line.startswith("2 ")
    ))  # fmt: skip

    found = books.count()

    assert found.lost == 1
    assert "I2: 1 jobs succeeded without their effect: [2]" in found.problems


def test_doubles_are_counted_and_are_beyond_the_contract_unless_a_process_died(
    books: Books,
) -> None:
    books.write("1 1 9 end 9.0 -")

    assert (books.count().doubled, books.count().beyond) == (1, 1)
    assert books.count(doubles=True) == Count(jobs=6, doubled=1)


def test_a_transactional_effect_is_never_allowed_twice(books: Books) -> None:
    books.connection.execute("insert into public.effect values (3, 2)")

    assert books.count(doubles=True, lost_claims=True).beyond == 1


def test_the_history_of_an_offender_tells_all_there_is(books: Books) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        books.connection.execute("insert into public.intent values (1, 'effect')")

    text = "\n".join(conservation.history(books.connection, books.log, 1))

    assert "intent: (1, 'effect')" in text
    assert "job: succeeded" in text
    assert "effect: epoch 1 pid 1 end at 1.500" in text
