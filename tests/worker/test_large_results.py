"""What a task returns is kept, unless it is too large to be carried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgtask import ResultTooLarge
from pgtask.task import Task
from tests import shop
from tests.workers import Worker

MEBIBYTE = 1_048_576
MOST = (MEBIBYTE - 2) // 2  # characters of two bytes between two quotes


@pytest.mark.parametrize("task", [shop.swell, shop.swell_in_transaction])
def test_a_result_too_large_to_be_carried_is_not_kept_and_the_job_has_succeeded(
    task: Task[..., Any], start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker("-c", "1")

    large, kept = task.delay(MOST + 1), task.delay(MOST)

    assert len(kept.get(timeout=20)) == MOST
    with pytest.raises(ResultTooLarge, match=rf"job {large.id} succeeded.* 1048578 .* 1048576"):
        large.get(timeout=20)
    assert large.state == "succeeded"
    assert "returned 1048578 bytes as JSON, more than 1048576" in worker.log


def test_the_limit_of_a_result_is_raised_with_that_of_arguments(
    start_worker: Callable[..., Worker],
) -> None:
    start_worker("-c", "1", PGTASK_MAX_PAYLOAD=str(2 * MEBIBYTE))

    assert len(shop.swell.delay(MOST + 1).get(timeout=20)) == MOST + 1
