"""What the command line says about when a schedule fires."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgtask.cli.times import DURATION

if TYPE_CHECKING:
    from pgtask.schedule import Schedule

F = TypeVar("F", bound=Callable[..., Any])

_FORMS = ("cron", "every", "at", "rule", "rrule", "spec")
_BOUNDS = ("tz", "start", "end", "exceptions", "jitter")

_OPTIONS = (
    click.option("--cron", metavar="TEXT", help="Five fields, or six with seconds first."),
    click.option("--every", type=DURATION, help="An interval, as 90s or 5m."),
    click.option("--at", metavar="TIME", help="Once, at this instant (ISO 8601 with an offset)."),
    click.option("--rule", metavar="JSON", help='A rule, as {"hour": [8, 20], "minute": 15}.'),
    click.option("--rrule", metavar="TEXT", help="A recurrence rule of RFC 5545."),
    click.option("--spec", metavar="JSON", help="All of it in one document."),
)
_BESIDE = (
    click.option("--tz", metavar="ZONE", help="The zone of the times, as Europe/Berlin (UTC)."),
    click.option("--start", metavar="TIME", help="Not before this instant."),
    click.option("--end", metavar="TIME", help="Not after this instant."),
    click.option(
        "--except",
        "exceptions",
        multiple=True,
        metavar="WHEN",
        help="Not on this date, at this time, or both.",
    ),
    click.option("--jitter", type=DURATION, help="Spread the jobs of each tick over so long."),
)


def spec_options(command: F) -> F:
    """Give a command the options that say when."""
    for option in reversed((*_OPTIONS, *_BESIDE)):
        command = option(command)
    return command


def beside_options(command: F) -> F:
    """Give a command the options that narrow what an argument says."""
    for option in reversed(_BESIDE):
        command = option(command)
    return command


def spec_of(given: dict[str, Any]) -> Schedule:
    """The recurrence that the options mean, which are taken out of `given`.

    Raises ScheduleInvalid.
    """
    from pgtask.schedule import Schedule

    said = {name: value for name in _FORMS if (value := given.pop(name)) is not None}
    bounds = {name: value for name in _BOUNDS if (value := given.pop(name))}
    if len(said) != 1:
        what = " and ".join(f"--{name}" for name in said) or "none"
        raise click.UsageError(
            f"{what} of them says when → give one of {', '.join('--' + name for name in _FORMS)}"
        )
    ((form, value),) = said.items()
    if form in ("rule", "spec"):
        return read(str(value), bounds)
    return Schedule(**{form: value}, **bounds)


def read(text: str, bounds: dict[str, Any]) -> Schedule:
    """The recurrence that a text means: cron text, or a document in JSON."""
    from pgtask.schedule import Schedule

    if text.lstrip()[:1] not in ("{", '"'):
        return Schedule(cron=text, **bounds)
    try:
        document = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not JSON: {error} → quote it for the shell") from error
    tz = bounds.pop("tz", None)
    if bounds and isinstance(document, dict):
        # A bare rule has no room for bounds.
        inner = document if _has_form(document) else {"rule": document}
        document = {**inner, **{k: [*v] if k == "exceptions" else v for k, v in bounds.items()}}
    elif bounds:
        document = {"cron": document, **bounds}
    return Schedule.from_json(json.dumps(document), tz=tz)


def _has_form(document: dict[str, Any]) -> bool:
    return any(form in document for form in _FORMS)
