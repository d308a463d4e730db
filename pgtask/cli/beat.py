"""`pgtask beat`: the process that will fire schedules."""

from __future__ import annotations

import click

from pgtask.cli import failure


@click.command()
def beat() -> int:
    """Fire schedules."""
    click.echo("pgtask: not yet: schedules come with the beat issue", err=True)
    return failure.FAILED
