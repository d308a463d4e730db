"""Rule: wall-clock fields of which each must match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from pgtask.errors import ScheduleInvalid
from pgtask.field import DATE, HOUR, MINUTE, MONTH, SECOND, WEEKDAY, YEAR, Field, Unreadable
from pgtask.slots import Slots

Numbers: TypeAlias = "int | str | Sequence[int | str] | None"

LAST = "last"
_FIELDS = {
    "second": SECOND,
    "minute": MINUTE,
    "hour": HOUR,
    "date": DATE,
    "month": MONTH,
    "year": YEAR,
    "day_of_week": WEEKDAY,
}
KEYS = {field.key: name for name, field in _FIELDS.items()}
# What people write who come from elsewhere.
_GUESSES = {
    "weekday": "dayOfWeek",
    "weekdays": "dayOfWeek",
    "day_of_week": "dayOfWeek",
    "dow": "dayOfWeek",
    "day": "date",
    "days": "date",
    "dom": "date",
    "dates": "date",
    "monthday": "date",
    "monthdays": "date",
    "day_of_month": "date",
    "dayOfMonth": "date",
    "month_of_year": "month",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """Each field is a number, "9-17", "*/15", a list of these, or None for any; all must match.

    `date` may also be or hold "last". Months are 1 to 12, weekdays 0 to 7, both 0 and 7 for Sunday.
    Numbers are sorted, and a list of one is that one, so that equal rules are equal.
    """

    second: Numbers = 0
    minute: Numbers = None
    hour: Numbers = None
    date: Numbers = None
    month: Numbers = None
    year: Numbers = None
    day_of_week: Numbers = None

    def __post_init__(self) -> None:
        for name, field in _FIELDS.items():
            value = _canonical(field, getattr(self, name))
            object.__setattr__(self, name, 0 if name == "second" and value is None else value)
        if self == _EMPTY:
            raise ScheduleInvalid.of(
                "rule",
                {},
                "says nothing",
                'say every minute, if that is meant: {"minute": "*"}, or {"cron": "* * * * *"}',
            )
        if not self.slots().possible():
            raise ScheduleInvalid.of(
                "date", self.date, f"no such day exists in {self._where()}", "it would never fire"
            )

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Rule:
        """The rule of JSON, whose keys are those of `KEYS`; raises ScheduleInvalid."""
        for key in mapping:
            if key not in KEYS:
                raise unknown_key(key, KEYS)
        return cls(**{KEYS[key]: value for key, value in mapping.items()})

    @property
    def real_time(self) -> bool:
        """Whether minute or hour is unrestricted: absent, or with a star."""
        return _starred(self.minute) or _starred(self.hour)

    def spec(self) -> dict[str, Any]:
        """As JSON has it; what says nothing is left out."""
        values = {field.key: getattr(self, name) for name, field in _FIELDS.items()}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in sorted(values.items())
            if value is not None and not (key == "second" and value == 0)
        }

    def slots(self) -> Slots:
        masks = {name: _mask(field, getattr(self, name)) for name, field in _FIELDS.items()}
        return Slots(
            seconds=masks["second"],
            minutes=masks["minute"],
            hours=masks["hour"],
            dates=masks["date"],
            months=masks["month"],
            years=0 if self.year is None or "*" in _items(self.year) else masks["year"],
            weekdays=masks["day_of_week"],
            last_day=LAST in _items(self.date),
        )

    def _where(self) -> str:
        said = {key: value for key, value in self.spec().items() if key in ("month", "year")}
        return ", ".join(f"{key} {value}" for key, value in said.items()) or "any month"


_EMPTY = object.__new__(Rule)
for _field in fields(Rule):
    object.__setattr__(_EMPTY, _field.name, 0 if _field.name == "second" else None)


def unknown_key(key: Any, known: Iterable[str]) -> ScheduleInvalid:
    """The error for a key that is none, with the nearest one that is."""
    known = sorted(known)
    guess = _GUESSES.get(key) if isinstance(key, str) else None
    near = [guess] if guess in known else difflib.get_close_matches(str(key), known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return ScheduleInvalid.of("key", key, "unknown key", remedy)


def _items(value: Numbers) -> tuple[int | str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, (int, str)) else tuple(value)


def _starred(value: Numbers) -> bool:
    return value is None or any(
        isinstance(item, str) and item.startswith("*") for item in _items(value)
    )


def _mask(field: Field, value: Numbers) -> int:
    if value is None:
        return field.every
    mask = 0
    for item in _items(value):
        if item != LAST:
            mask |= field.mask(str(item))
    return mask


def _canonical(field: Field, value: Any) -> Numbers:
    if value is None:
        return None
    if isinstance(value, (list, tuple, set, frozenset, range)):
        if not value:
            raise ScheduleInvalid.of(field.key, value, "lists nothing", "leave it out for any")
        if len(value) > 1000:
            raise ScheduleInvalid.of(field.key, f"{len(value)} items", "are more than 1000")
        items = {_item(field, item, value) for item in value}
    else:
        items = {_item(field, value, value)}
    ordered = sorted(item for item in items if isinstance(item, int))
    words = sorted(item for item in items if isinstance(item, str))
    both: tuple[int | str, ...] = (*ordered, *words)
    return both[0] if len(both) == 1 else both


def _item(field: Field, item: Any, whole: Any) -> int | str:
    if isinstance(item, bool) or not isinstance(item, (int, str)):
        raise ScheduleInvalid.of(field.key, whole, f"{item!r} is not a number", _forms(field))
    text = str(item).strip()
    if field is DATE and text.lower() == LAST:
        return LAST
    try:
        field.mask(text)
        if not text.isalnum():
            return text.upper()
        number = field.number(text)
        return number % 7 if field is WEEKDAY else number
    except Unreadable as error:
        raise ScheduleInvalid.of(field.key, whole, error.reason, error.remedy) from None


def _forms(field: Field) -> str:
    low, high = field.low, field.high
    last = ', "last"' if field is DATE else ""
    return f'write a number from {low} to {high}, "{low}-{high}"{last}, or a list of these'
