"""What the driver tells a person while it works."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line on stderr: stdout belongs to the report."""
    print(text, file=sys.stderr, flush=True)
