"""The model is the SQL: steps of the model, taken by the functions, leave the same tables."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.model.mirror import Mirror, seen_by_sql
from tests.model.promises import broken
from tests.model.state import initial
from tests.model.steps import FAULTS
from tests.model.trace import lines
from tests.model.walks import WALKS, Taken, walk
from tests.sql.conftest import engine  # noqa: F401 - a fixture
from tests.sql.engine import Engine

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_walk_through_the_model_goes_the_same_way_on_postgresql(
    engine: Engine,  # noqa: F811 - the fixture
    seed: int,
) -> None:
    mirror = Mirror(engine, WALKS, random.Random(seed))
    assert mirror.database() == seen_by_sql(initial(WALKS).db)
    past: list[Taken] = []
    for taken in walk(seed):
        past.append(taken)
        mirror.take(taken.step, taken.before)

        assert mirror.database() == seen_by_sql(taken.after.db), _story(past)
        assert not list(broken(WALKS, taken.after)), _story(past)


def test_the_walks_take_every_kind_of_step() -> None:
    kinds = Counter(taken.step.kind for seed in SEEDS for taken in walk(seed))

    # A crash of the server takes back commits, which is not for a function to do.
    assert set(kinds) >= FAULTS - {"server crash"}
    assert set(kinds) >= {
        "start", "claim", "begin", "succeeded", "commit", "child tells", "finish", "beat",
        "reconcile", "late claim commits", "late claim vanishes", "rescue", "promote", "cancel",
        "replace",
    }  # fmt: skip
    assert min(kinds.values()) >= 5, kinds


def _story(past: list[Taken]) -> str:
    lives = list(WALKS.lives)
    return "\n".join(lines([(t.step, t.before, t.after, lives) for t in past]))
