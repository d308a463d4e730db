"""Failpoints: how one is written, and what happens at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pgtask import failpoint
from pgtask.errors import ConfigError
from pgtask.failpoint import Failpoint, parse
from tests.workers import ROOT


def run(source: str, points: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from pgtask import failpoint\n{source}"],
        env={**os.environ, "PGTASK_FAILPOINT": points},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_several_points_may_be_named_and_kill_is_the_default() -> None:
    assert parse("after-claim:3:cut, report:10") == [
        Failpoint("after-claim", 3, "cut"),
        Failpoint("report", 10, "kill"),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("report", "POINT:N"),
        ("report:0", "POINT:N"),
        ("report:1:explode", "POINT:N"),
        ("after-clam:1", "there is no point 'after-clam'"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(text)


def test_without_the_variable_nothing_is_armed() -> None:
    assert not failpoint.ARMED


def test_the_nth_passage_kills() -> None:
    source = "for n in range(5): print(n, flush=True); failpoint.pass_point('report')"

    done = run(source, "report:3")

    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]


def test_a_cut_is_an_answer_that_does_not_come_once() -> None:
    source = """
for n in range(3):
    assert not failpoint.cuts('before', 'select pgtask._claim(1)')
    print('cut' if failpoint.cuts('after', 'select * from pgtask._claim(1)') else 'answered')
"""

    assert run(source, "after-claim:2:cut").stdout.split() == ["answered", "cut", "answered"]
