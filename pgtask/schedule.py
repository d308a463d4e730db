"""Schedule: a recurrence in a time zone, with its bounds and exceptions: pure, knows no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from itertools import islice
from typing import Any, NoReturn

from pgtask import words
from pgtask.cron import parse_cron
from pgtask.errors import ScheduleInvalid
from pgtask.instants import (
    instant,
    interval,
    jitter_seconds,
    rounded_down,
    rounded_up,
    second_of,
    text_of,
    told,
    utc,
)
from pgtask.omissions import NOTHING, Omissions, parse_exceptions, written
from pgtask.rrule import parse_rrule, zone_of
from pgtask.rule import KEYS, Rule, unknown_key
from pgtask.ticks import Every, InRealTime, Never, Once, OnTheWall, Ticks
from pgtask.zones import DAY, FIRST_INSTANT, LAST_INSTANT, Zone, zone

# A tick further away than this from the one before is not looked for. 29 February comes on the same
# weekday after 40 years at most, where a century without it lies between.
HORIZON = 41 * 366 * DAY
_FORMS = ("cron", "rule", "every", "at", "rrule")
_BESIDE = ("tz", "start", "end", "exceptions", "jitter")
_KEYS = frozenset((*_FORMS, *_BESIDE))


class Schedule:
    """Exactly one of `cron`, `rule`, `every`, `at` and `rrule`, and when and where it holds.

    `start` and `end` are included. `exceptions` are dates, times and both of the schedule's wall
    clock at which it does not fire. `jitter` spreads the jobs of a tick, never the tick. Ticks are
    whole seconds: `at` and `start` are rounded up to one, `end` down.
    """

    __slots__ = (
        "_first", "_json", "_last", "_named", "_omissions", "_ticks", "_zone", "at", "cron", "end",
        "every", "exceptions", "jitter", "rrule", "rule", "start", "tz",
    )  # fmt: skip

    cron: str | None
    rule: Rule | None
    every: int | None
    at: datetime | None
    rrule: str | None
    tz: str
    start: datetime | None
    end: datetime | None
    exceptions: tuple[date | time | datetime, ...]
    jitter: float
    _first: int
    _json: str
    _last: int
    _named: bool
    _omissions: Omissions
    _ticks: Ticks
    _zone: Zone

    def __init__(
        self,
        *,
        cron: str | None = None,
        rule: Rule | Mapping[str, Any] | str | None = None,
        every: float | timedelta | str | None = None,
        at: datetime | str | None = None,
        rrule: str | None = None,
        tz: str | None = None,
        start: datetime | str | None = None,
        end: datetime | str | None = None,
        exceptions: Sequence[date | time | datetime | str] = (),
        jitter: float | timedelta | str = 0,
    ) -> None:
        if isinstance(rule, str):
            if cron is not None:
                raise ScheduleInvalid.of(
                    "rule", rule, "cron is given, too", "leave one of them out"
                )
            cron, rule = rule, None
        forms = {"cron": cron, "rule": rule, "every": every, "at": at, "rrule": rrule}
        said = {name: value for name, value in forms.items() if value is not None}
        if len(said) != 1:
            reason = f"{' and '.join(said)} are given" if said else "says nothing"
            raise ScheduleInvalid.of("schedule", said, reason, f"give one of {', '.join(_FORMS)}")
        if rrule is not None and tz is None:
            tz = zone_of(rrule)
        place = zone("UTC" if tz is None else tz)
        first = None if start is None else rounded_up(instant("start", start))
        last = None if end is None else rounded_down(instant("end", end))
        if first is not None and last is not None and last < first:
            raise ScheduleInvalid.of("end", told(end), "is before start", "it would never fire")
        omitted = parse_exceptions(exceptions)
        omissions = Omissions.of(omitted) if omitted else NOTHING
        moment: int | None = None
        ticks: Ticks
        if cron is not None:
            cron, slots, real_time = parse_cron(cron)
            ticks = (InRealTime if real_time else OnTheWall)(slots, place)
        elif rule is not None:
            rule = rule if isinstance(rule, Rule) else _rule(rule)
            slots = rule.slots()
            ticks = (InRealTime if rule.real_time else OnTheWall)(slots, place)
        elif every is not None:
            every = interval(every)
            ticks = Every(every, first or 0, first is not None, place)
        elif at is not None:
            moment = rounded_up(instant("at", at))
            if (first is not None and moment < first) or (last is not None and moment > last):
                raise ScheduleInvalid.of(
                    "at", told(at), "is not between start and end", "it would never fire"
                )
            ticks = Once(moment, place)
        else:
            assert rrule is not None
            rrule, ticks = parse_rrule(rrule, place, first)
        if isinstance(ticks, (InRealTime, OnTheWall)) and not slots.outlasts(omissions):
            ticks = Never()
        values = {
            "cron": cron,
            "rule": rule,
            "every": every,
            "at": None if moment is None else utc(moment),
            "rrule": rrule,
            "tz": place.name,
            "start": None if first is None else utc(first),
            "end": None if last is None else utc(last),
            "exceptions": omitted,
            "jitter": jitter_seconds(jitter),
            "_named": tz is not None,
            "_ticks": ticks,
            "_zone": place,
            "_omissions": omissions,
            "_first": FIRST_INSTANT if first is None else first,
            "_last": LAST_INSTANT if last is None else last,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_json", json.dumps(self.spec(), sort_keys=True))

    # --- ticks ---------------------------------------------------------------------------------

    def next(self, after: datetime) -> datetime | None:
        """The first tick later than `after`; None if there is none within 41 years."""
        tick = self._next(second_of("after", after), self._last)
        return None if tick is None else utc(tick)

    def upcoming(self, after: datetime) -> Iterator[datetime]:
        """The ticks later than `after`, in UTC, each later than the one before."""
        return map(utc, self._walk(second_of("after", after), self._last))

    def latest(self, after: datetime, until: datetime, most: int) -> tuple[list[datetime], bool]:
        """The last `most` ticks later than `after` and not than `until`, and if there were more."""
        last = min(second_of("until", until), self._last)
        whole = last - max(second_of("after", after), self._first - 1)
        # Widths before `last`: `few` holds too few ticks, `many` more than are worth walking.
        few, width, many = 0, min(64, whole), whole + 1
        bound = 4 * max(most, 0) + 64
        while width > 0:
            ticks = list(islice(self._walk(last - width, last), bound))
            if len(ticks) == bound:
                many = width
            elif len(ticks) > most or width == whole:
                return [utc(tick) for tick in ticks[max(0, len(ticks) - most) :]], len(ticks) > most
            else:
                few = width
            width = min(2 * width, whole) if many > whole else (few + many) // 2
        return [], False

    def notes(self, tick: datetime) -> str:
        """What a clock change does to this tick, "" if nothing."""
        instant = second_of("tick", tick)
        moved = self._ticks.moved(instant, self._omissions)
        if moved is not None:
            clock = time(moved // 3600 % 24, moved // 60 % 60, moved % 60)
            missing = clock.isoformat("seconds" if clock.second else "minutes")
            return f"moved out of a gap ({missing} does not exist)"
        before, after = self._zone.passes(instant)
        if before:
            return "second pass of a repeated hour"
        return "first pass of a repeated hour" if after else ""

    def _walk(self, after: int, last: int) -> Iterator[int]:
        tick = self._next(after, last)
        while tick is not None:
            yield tick
            tick = self._next(tick, last)

    def _next(self, after: int, last: int) -> int | None:
        after = max(after, self._first - 1)
        if self.every is not None:
            horizon = after + max(HORIZON, self.every)
        elif self.at is not None:
            horizon = LAST_INSTANT
        else:
            # A rule that lists years has nothing after them, and may begin at any distance.
            listed = self.rule is not None and self.rule.year is not None
            horizon = LAST_INSTANT if listed else after + HORIZON
        return self._ticks.next(after, min(last, horizon, LAST_INSTANT), self._omissions)

    # --- as data -------------------------------------------------------------------------------

    def spec(self) -> dict[str, Any]:
        """What from_spec reads: only what was said, so `tz` only if it was named."""
        spec: dict[str, Any] = {
            "cron": self.cron,
            "rule": None if self.rule is None else self.rule.spec(),
            "every": self.every,
            "at": text_of(self.at),
            "rrule": self.rrule,
            "tz": self.tz if self._named else None,
            "start": text_of(self.start),
            "end": text_of(self.end),
            "exceptions": [written(value) for value in self.exceptions] or None,
            "jitter": self.jitter or None,
        }
        return {key: value for key, value in sorted(spec.items()) if value is not None}

    def to_json(self) -> str:
        """The same text for every schedule that says the same."""
        return self._json

    def in_zone(self, tz: str | None) -> Schedule:
        """The same schedule in this zone, unless it names one itself."""
        return self if tz is None else Schedule.from_json(self._json, tz=tz)

    @classmethod
    def from_json(cls, text: str | bytes, *, tz: str | None = None) -> Schedule:
        """The schedule of a stored spec; `tz` is its zone if it names none."""
        try:
            return cls.from_spec(_decoded(text), tz=tz)
        except RecursionError:
            raise ScheduleInvalid.of(
                "spec", text, "is nested too deeply", 'write {"cron": "30 2 * * *"}'
            ) from None

    @classmethod
    def from_spec(cls, value: Any, *, tz: str | None = None) -> Schedule:
        """The schedule of decoded JSON: a text is cron text, an object of rule keys a rule."""
        if isinstance(value, str):
            return cls(cron=value, tz=tz)
        if not isinstance(value, Mapping):
            raise ScheduleInvalid.of(
                "spec", value, "is neither an object nor a text", 'write {"cron": "30 2 * * *"}'
            )
        if not value:
            raise ScheduleInvalid.of(
                "spec",
                value,
                "an empty schedule says nothing",
                'every minute is {"cron": "* * * * *"}, once is {"at": "…"}',
            )
        given = dict(value)
        forms = [key for key in _FORMS if key in given]
        if not forms:
            rule = {key: given.pop(key) for key in KEYS if key in given}
            if rule:
                given["rule"] = rule
        for key in given:
            if key not in _KEYS:
                raise unknown_key(key, {*_KEYS, *(() if forms else KEYS)})
            if given[key] is None:
                raise ScheduleInvalid.of(key, None, "is null", "leave it out")
        if not any(key in given for key in _FORMS):
            raise ScheduleInvalid.of(
                "spec", value, "says not when", f"give one of {', '.join(_FORMS)}"
            )
        named = "tz" in given or zone_of(given.get("rrule")) is not None
        return cls(**given if named else {"tz": tz, **given})

    def explain(self) -> str:
        """One English sentence, such as "at 02:30 on Monday through Friday, in Europe/Berlin"."""
        parts = [self._what(), f"in {self.tz}"]
        if self.start is not None:
            parts.append(f"from {words.of_instant(self.start, self._zone)}")
        if self.end is not None:
            parts.append(f"until {words.of_instant(self.end, self._zone)}")
        if self.exceptions:
            parts.append(words.of_exceptions(self.exceptions))
        if self.jitter:
            parts.append(f"up to {words.of_interval(self.jitter)} later")
        return ", ".join(parts)

    def _what(self) -> str:
        if self.every is not None:
            return words.of_every(self.every)
        if self.at is not None:
            return f"once, at {words.of_instant(self.at, self._zone)}"
        if self.rrule is not None:
            return f"by the rule {self.rrule.splitlines()[-1].removeprefix('RRULE:')}"
        slots = self.rule.slots() if self.rule is not None else parse_cron(self.cron or "").slots
        return words.of_slots(slots)

    def __repr__(self) -> str:
        return f"Schedule({self._json})"

    def __eq__(self, other: object) -> bool:
        return self._json == other._json if isinstance(other, Schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._json)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._json,)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Schedule is never changed: make another one with this {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Schedule is never changed: {name} stays")


def _restored(text: str) -> Schedule:
    return Schedule.from_json(text)


def _rule(value: Any) -> Rule:
    if not isinstance(value, Mapping):
        raise ScheduleInvalid.of(
            "rule", value, "is neither an object nor cron text", 'write {"hour": [8, 20]}'
        )
    for key in value:
        if key in _BESIDE:
            raise ScheduleInvalid.of("key", key, "stands beside rule, not in it")
    return Rule.of(value)


def _decoded(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ScheduleInvalid.of("spec", text, f"is not JSON: {error}") from None
