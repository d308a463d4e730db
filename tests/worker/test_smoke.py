"""A worker runs what it is given."""

from __future__ import annotations

from collections.abc import Callable

from tests import shop
from tests.workers import Worker


def test_a_job_runs_and_its_result_comes_back(start_worker: Callable[..., Worker]) -> None:
    start_worker("-c", "1")

    result = shop.add.delay(2, 3)

    assert result.get(timeout=10) == 5
