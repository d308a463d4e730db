"""`python -m tests.model`: explore every scope; with a mutation's name, print its counterexample."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tests.model.promises import NAMES
from tests.model.scopes import MUTATIONS, SCOPES
from tests.model.search import Found, explore


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in MUTATIONS and name not in SCOPES]
    if unknown:
        known = ", ".join(repr(name) for name in (*SCOPES, *MUTATIONS))
        print(f"{unknown[0]!r} is neither a scope nor a mutation; there are {known}")
        return 2
    for name, meaning in () if names else NAMES.items():
        print(f"{name:7} {meaning}")
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
    verdict = found.promise or "holds"
    print(f"{name}: {found.states:,} states, {found.transitions:,} transitions, {seconds:.1f} s")
    print(f"  {verdict}")
    for line in found.trace:
        print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
