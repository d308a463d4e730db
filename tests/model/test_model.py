"""The model: the protocol keeps its promises in every state, and would not without its rules."""

from __future__ import annotations

import dataclasses

import pytest

from tests.model.__main__ import main
from tests.model.scopes import MUTATIONS, SCOPES, Mutation
from tests.model.search import explore

STATES = {"server crash": 20_000, "serial": 15_000, "plain": 10_000}  # not to become trivial


@pytest.mark.parametrize("name", SCOPES)
def test_every_reachable_state_keeps_the_promises(name: str) -> None:
    found = explore(SCOPES[name])

    assert not found.promise, "\n".join([found.promise, *found.trace])
    assert found.states > STATES.get(name, 3_000)
    assert found.transitions > 3 * found.states


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SCOPES)
def test_one_more_fault_breaks_no_promise_either(name: str) -> None:
    scope = SCOPES[name]
    found = explore(dataclasses.replace(scope, faults=scope.faults + 1))

    assert not found.promise, "\n".join([found.promise, *found.trace])


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=list(MUTATIONS))
def test_without_one_of_its_rules_a_promise_breaks(mutation: Mutation) -> None:
    found = explore(SCOPES[mutation.scope], mutation.rules)

    assert found.promise.startswith(mutation.breaks + ": ")
    assert 3 <= len(found.trace) <= 12


def test_a_counterexample_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fence removed"]) == 0
    told = capsys.readouterr().out

    assert "I3: an outcome was applied to an attempt that it is not of" in told
    assert "A: claim job 1   [job 1 running (epoch 1, attempt 1, A)]" in told
    assert "! A: finish, unanswered job 1" in told


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fence"]) == 2
    assert "'fence' is neither a scope nor a mutation" in capsys.readouterr().out
