"""Words: an English sentence for what a schedule says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgtask.schedule import Schedule


def sentence(schedule: Schedule) -> str:
    return repr(schedule)
