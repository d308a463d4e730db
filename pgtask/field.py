"""Field: the numbers that one part of a cron text or of a rule may have, and how they are written.

A set of numbers is an int with a bit for each: `1 << 0 | 1 << 30` are the minutes 0 and 30.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache


class Unreadable(ValueError):
    """What is wrong with one item of a field; whoever knows the whole makes the error of it."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(reason)


@dataclass(frozen=True, eq=False, slots=True)
class Field:
    """`key` is its name in a rule, `title` that in a cron text; `zero` is the number of bit 0.

    `top` is where `*` and `a/n` end: 6 for weekdays, of which 7 is another name for 0.
    """

    key: str
    title: str
    low: int
    high: int
    top: int
    zero: int = 0
    names: Mapping[str, int] = field(default_factory=dict)

    @property
    def every(self) -> int:
        return bits(range(self.low - self.zero, self.top - self.zero + 1))

    def numbers(self, mask: int) -> list[int]:
        return [bit + self.zero for bit in range(mask.bit_length()) if mask >> bit & 1]

    def number(self, text: str) -> int:
        """The one number that `text` writes, by digits or by name; raises Unreadable."""
        if text.isascii() and text.isdigit() and len(text) <= 9:
            number = int(text)
            if self.low <= number <= self.high:
                return number
            raise Unreadable(f"{text} is not between {self.low} and {self.high}", self._remedy())
        named = self.names.get(text.upper())
        if named is None:
            raise Unreadable(*self.why_not(text))
        return named

    def mask(self, item: str) -> int:
        """The numbers of "5", "9-17", "*", "*/15", "8-18/5" or "10/20"; raises Unreadable."""
        return _mask(self, item)

    def why_not(self, text: str) -> tuple[str, str]:
        """Reason and remedy for what is no number."""
        upper = text.upper()
        if not text:
            return "a number is missing", "no blanks around commas, dashes and slashes"
        if "?" in text:
            return '"?" is not understood', 'write "*"'
        if re.fullmatch(r"\d+W", upper):
            return (
                f"{text!r}, the nearest working day, is not understood",
                'only "LW" is, the last one',
            )
        if upper.startswith("H"):
            return f"{text!r}, a hashed number, is not understood", "write a number, or set jitter"
        if upper.startswith("R") or "~" in text:
            return f"{text!r}, a random number, is not understood", "write a number, or set jitter"
        if upper == "L":
            return f"{text!r} is not understood here", 'the last Friday is "5L", the last day "L"'
        if re.fullmatch(r"-\d+", text):
            return f"{text} is negative", self._remedy()
        return f"{text!r} is not a number", self._remedy()

    def _remedy(self) -> str:
        return f'write a number from {self.low} to {self.high}, "{self.low}-{self.high}" or a list'


def bits(numbers: Iterable[int]) -> int:
    """The set of these numbers."""
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


@lru_cache(maxsize=4096)
def _mask(field: Field, item: str) -> int:
    body, slash, stride = item.partition("/")
    if body == "*":
        low, high = field.low, field.top
    else:
        first, dash, last = body.partition("-")
        if not first and dash:
            raise Unreadable(*field.why_not(body))
        low = field.number(first)
        high = field.number(last) if dash else max(low, field.top) if slash else low
        if low > high:
            raise _wraps(field, first, last, slash)
    step = 1
    if slash:
        if not (stride.isascii() and stride.isdigit() and 0 < len(stride) <= 9):
            raise Unreadable(f"the step {stride!r} is not a number", 'write "*/5"')
        step = int(stride)
        if not 1 <= step <= max(1, field.top - field.low):
            raise Unreadable(
                f"the step {stride} is not between 1 and {field.top - field.low}",
                "to count from one fire to the next, use every",
            )
    mask = bits(range(low - field.zero, high - field.zero + 1, step))
    # Weekday 7 is Sunday, like 0.
    return mask & 0x7F | 1 if field.high > field.top and mask >> 7 else mask


def _wraps(field: Field, first: str, last: str, slash: str) -> Unreadable:
    by_name = {number: name for name, number in field.names.items()} if first.isalpha() else {}
    top, low = by_name.get(field.top, field.top), by_name.get(field.low, field.low)
    begin, end = field.number(first), field.number(last)
    head = first if begin == field.top else f"{first}-{top}" if begin < field.top else ""
    tail = f"{low}" if end == field.low else f"{low}-{last}"
    remedy = ",".join(part for part in (head, tail) if part)
    return Unreadable(
        f"the range {first}-{last} ends before it begins",
        "list the numbers" if slash else f"write {remedy}",
    )


_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]

SECOND = Field("second", "second", 0, 59, 59)
MINUTE = Field("minute", "minute", 0, 59, 59)
HOUR = Field("hour", "hour", 0, 23, 23)
DATE = Field("date", "day of month", 1, 31, 31)
MONTH = Field("month", "month", 1, 12, 12, names={name: n for n, name in enumerate(_MONTHS, 1)})
YEAR = Field("year", "year", 1970, 2199, 2199, zero=1970)
WEEKDAY = Field(
    "dayOfWeek", "day of week", 0, 7, 6, names={name: n for n, name in enumerate(_WEEKDAYS)}
)
