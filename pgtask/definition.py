"""Definition: a schedule with its name, its call and its policies, as the database keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from pgtask.errors import ScheduleInvalid
from pgtask.retry import parse_seconds
from pgtask.schedule import Schedule
from pgtask.signature import Signature, check_schedule_name

Catchup: TypeAlias = Literal["last", "none", "all"]
Overlap: TypeAlias = Literal["skip", "queue", "replace"]

_WORDS = {"catchup": ("last", "none", "all"), "overlap": ("skip", "queue", "replace")}


@dataclass(frozen=True, slots=True)
class Definition:
    """What a schedule's row is made of; raises ScheduleInvalid for what cannot work together."""

    name: str
    signature: Signature
    schedule: Schedule
    catchup: Catchup = "last"
    overlap: Overlap = "skip"
    grace: float | timedelta | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        check_schedule_name(self.name)
        if not isinstance(self.schedule, Schedule):
            raise ScheduleInvalid.of(
                "schedule", self.schedule, "is no recurrence", "give cron text or a Schedule(...)"
            )
        for field, words in _WORDS.items():
            if (value := getattr(self, field)) not in words:
                raise ScheduleInvalid.of(
                    field, value, "is not a word for it", f"write one of {', '.join(words)}"
                )
        self._check_grace()
        self._check_call()

    def row(self) -> dict[str, Any]:
        """The columns that people say, as `schedules.put` takes them."""
        # Not at the top: a worker's child declares schedules and stores none.
        from pgtask.broker import schedules

        return schedules.definition(
            self.name,
            self.signature,
            self.schedule.to_json(),
            catchup=self.catchup,
            overlap=self.overlap,
            grace=None if self.grace is None else parse_seconds("grace", self.grace),
            enabled=self.enabled,
        )

    def _check_grace(self) -> None:
        if self.grace is not None and parse_seconds("grace", self.grace) < 1:
            raise ScheduleInvalid.of(
                "grace", self.grace, "every tick is some milliseconds late", "give 1 s or more"
            )

    def _check_call(self) -> None:
        options = self.signature.options
        for option, value in (
            ("countdown", options.delay),
            ("eta", options.run_at),
            ("expires", options.expires_at),
        ):
            if value is not None:
                raise ScheduleInvalid.of(
                    option,
                    value,
                    "is about one call, and a schedule makes many",
                    "give seconds, which count from each tick"
                    if option == "expires"
                    else "let the schedule say when",
                )
        if options.on_conflict == "raise":
            raise ScheduleInvalid.of(
                "on_conflict", "raise", "there is nobody to raise to", 'write "keep" or "replace"'
            )
