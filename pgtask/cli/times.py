"""Instants and durations as people write and read them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pgtask.config import parse_duration
from pgtask.errors import ConfigError

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.3 only


def instant(at: datetime | None) -> str | None:
    """Local time with its offset: 2026-11-22 14:03:09+01:00."""
    return None if at is None else at.astimezone().isoformat(" ", "seconds")


def duration(seconds: float | None) -> str | None:
    """Like 3m12s: the two greatest units that are not nothing."""
    if seconds is None:
        return None
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    rest = round(seconds)
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        parts.append((amount, unit))
    while parts[0][0] == 0:
        parts.pop(0)
    return "".join(f"{amount}{unit}" for amount, unit in parts[:2] if amount)


class Duration(_ParamType):
    """90s, 5m, 2h, 7d, or a number of seconds; a float to the command."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Instant(_ParamType):
    """ISO 8601, in local time unless it carries an offset; an aware datetime to the command."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(str(value)).astimezone()
        except ValueError:
            self.fail(
                f"{value!r} is not a time → write 2026-11-22T14:00 or …T14:00+01:00", param, ctx
            )


DURATION = Duration()
INSTANT = Instant()
