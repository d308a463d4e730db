"""`python -m tests.model [NAME...]`: explore the scopes; of a mutation, print what it breaks."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import click

from tests.model.promises import NAMES
from tests.model.scopes import MUTATIONS, SCOPES
from tests.model.search import Found, explore


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in MUTATIONS and name not in SCOPES]
    if unknown:
        known = ", ".join(repr(name) for name in (*SCOPES, *MUTATIONS))
        click.echo(f"{unknown[0]!r} is neither a scope nor a mutation; there are {known}")
        return 2
    for name, meaning in () if names else NAMES.items():
        click.echo(f"{name:7} {meaning}")
    broken = 0
    for name in names or SCOPES:
        began = time.monotonic()
        if name in MUTATIONS:
            mutation = MUTATIONS[name]
            found = explore(SCOPES[mutation.scope], mutation.rules)
        else:
            found = explore(SCOPES[name])
            broken += bool(found.promise)
        _say(name, found, time.monotonic() - began)
    return 1 if broken else 0


def _say(name: str, found: Found, seconds: float) -> None:
    size = f"{found.states:,} states, {found.transitions:,} transitions"
    click.echo(f"{name}: {size}, {seconds:.1f} s\n  {found.promise or 'holds'}")
    for line in found.trace:
        click.echo(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
