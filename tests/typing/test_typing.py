"""mypy accepts what it must, and refuses the marked lines, each with the marked code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def complaints(*files: Path) -> list[tuple[str, int, str]]:
    """(file, line, code) of every error mypy finds."""
    answer = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes"]
        + [str(file.relative_to(ROOT)) for file in files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not answer.stderr, answer.stderr
    pattern = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$")
    found = [pattern.match(line) for line in answer.stdout.splitlines() if ": error:" in line]
    assert all(found), answer.stdout
    return sorted(
        (Path(match["file"]).name, int(match["line"]), match["code"]) for match in found if match
    )


@pytest.mark.timeout(300)
def test_mypy_accepts_the_calls_users_write() -> None:
    assert complaints(HERE / "accepted.py") == []


@pytest.mark.timeout(300)
def test_mypy_refuses_the_marked_lines_and_no_other() -> None:
    files = sorted((HERE / "refused").glob("*.py"))
    marked = sorted(
        (file.name, number, code)
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if "# E: " in line
        for code in line.rpartition("# E: ")[2].split(", ")
    )

    assert len(marked) > 20
    assert complaints(*files) == marked
