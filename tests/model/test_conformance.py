"""The model is the SQL: steps of the model, taken by the functions, leave the same tables."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import psycopg
import pytest

from tests.model.image import seen_by_sql
from tests.model.mirror import Mirror
from tests.model.promises import broken
from tests.model.scopes import MUTATIONS, SCOPES
from tests.model.state import Rules, Scope, State, initial
from tests.model.steps import FAULTS
from tests.model.trace import lines
from tests.model.walks import WALKS, Taken, calls, walk
from tests.sql.engine import Engine

SEEDS = range(24)
# Workers follow these rules: no function has them.
NOT_IN_SQL = {
    "reconcile omitted",
    "reconcile keeps what has no row",
    "a reconnect goes unnoticed",
}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_walk_through_the_model_goes_the_same_way_on_postgresql(
    engine: Engine,
    seed: int,
) -> None:
    story = _walk(engine, seed, Rules())
    assert not story, story


def test_the_walks_take_every_kind_of_step() -> None:
    kinds = Counter(taken.step.kind for seed in SEEDS for taken in walk(seed))

    # A crash of the server takes back commits, which is not for a function to do.
    assert set(kinds) >= FAULTS - {"server crash"}
    assert set(kinds) >= {
        "start", "claim", "begin", "succeeded", "commit", "child tells", "finish", "beat",
        "reconcile", "late claim commits", "late claim vanishes", "rescue", "promote", "cancel",
        "replace",
    }  # fmt: skip
    assert all(not list(broken(WALKS, taken.after)) for seed in SEEDS for taken in walk(seed))


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in NOT_IN_SQL])
def test_a_model_by_another_rule_goes_another_way(
    engine: Engine,
    name: str,
) -> None:
    stories = []
    for seed in range(100):
        with engine.connection.transaction(force_rollback=True):
            stories.append(_walk(engine, seed, MUTATIONS[name].rules))
        if stories[-1]:
            return
    raise AssertionError("the mirror does not see the difference")


@pytest.mark.parametrize("name", SCOPES)
def test_every_eighth_call_of_a_small_exploration_does_what_the_model_says(
    engine: Engine,
    name: str,
) -> None:
    few = dataclasses.replace(SCOPES[name], faults=1, cancels=min(SCOPES[name].cancels, 1))
    assert _call_all(engine, few, 8) > 10


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SCOPES)
def test_every_call_of_the_exploration_does_what_the_model_says(
    engine: Engine,
    name: str,
) -> None:
    assert _call_all(engine, SCOPES[name], 1) > 500


def _walk(engine: Engine, seed: int, rules: Rules) -> str:
    """Return how it came to a difference, or nothing."""
    mirror = Mirror(engine, WALKS, random.Random(seed), rules)
    mirror.enqueue()
    assert mirror.database() == seen_by_sql(initial(WALKS).db)
    past: list[Taken] = []
    for taken in walk(seed, rules):
        past.append(taken)
        try:
            mirror.take(taken.step, taken.before)
            found = mirror.database()
        except (AssertionError, psycopg.Error) as error:
            return f"{_story(past)}\n{error}"
        if found != seen_by_sql(taken.after.db):
            return f"{_story(past)}\nPostgreSQL: {found}\nthe model:  {taken.after.db}"
    return ""


def _call_all(engine: Engine, scope: Scope, nth: int) -> int:
    made = 0
    for place, (before, step, after) in enumerate(calls(scope)):
        if place % nth:
            continue
        mirror = Mirror(engine, scope, random.Random(place))
        with engine.connection.transaction(force_rollback=True):
            mirror.install(before)
            mirror.take(step, before)
            assert mirror.database() == seen_by_sql(after.db), _one(step, before)
        made += 1
    return made


def _story(past: list[Taken]) -> str:
    lives = list(WALKS.lives)
    return "\n".join(lines([(t.step, t.before, t.after, lives) for t in past]))


def _one(step: object, before: State) -> str:
    return f"{step} from {before}"
