"""How commands are told which jobs are meant: ids, and filters that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgtask.cli.times import DURATION
from pgtask.job import STATES

if TYPE_CHECKING:
    from pgtask.broker.inspect import Filter

F = TypeVar("F", bound=Callable[..., Any])

JOB_ID = click.IntRange(1, 2**63 - 1)
_OPTIONS = (
    click.option("-Q", "--queue", multiple=True, metavar="QUEUE", help="Of this queue."),
    click.option("-t", "--task", metavar="TASK", help="Of this task; * stands for anything."),
    click.option("-s", "--state", multiple=True, type=click.Choice(STATES), help="In this state."),
    click.option("--since", type=DURATION, help="Made, begun or ended within, as 1h."),
    click.option("--older-than", type=DURATION, help="Untouched for longer than that, as 1d."),
    click.option("--key", metavar="KEY", help="With this job key."),
    click.option("--serial", metavar="KEY", help="With this serial key."),
    click.option("--tag", metavar="TAG", help="With this tag."),
    click.option("--tenant", metavar="TENANT", help="Of this tenant."),
    click.option("--reason", metavar="REASON", help="Ended for this reason, as timeout."),
)


def filtered(function: F) -> F:
    """Give a command the filter options."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def filter_of(
    *,
    queue: tuple[str, ...],
    task: str | None,
    state: tuple[str, ...],
    since: float | None,
    key: str | None,
    tag: str | None,
    older_than: float | None = None,
    serial: str | None = None,
    tenant: str | None = None,
    reason: str | None = None,
    before: int | None = None,
) -> Filter:
    """The Filter that the options mean; queues may be given as a,b."""
    from pgtask.broker.inspect import Filter

    queues = tuple(name for given in queue for name in given.split(",") if name)
    return Filter(queues, task, state, since, key, tag, before, older_than, serial, tenant, reason)
