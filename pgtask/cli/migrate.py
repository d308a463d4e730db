"""`pgtask migrate`: bring the schema up to date, or say what that would do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pgtask.cli.session import Session, as_json, pass_session
from pgtask.cli.table import table
from pgtask.cli.times import instant

if TYPE_CHECKING:
    from pgtask.broker.migrate import Entry, Plan
    from pgtask.broker.script import Step


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be applied.")
@click.option("--sql", is_flag=True, help="Print a script for psql; needs no database.")
@click.option("--list", "listing", is_flag=True, help="List every file and whether it is applied.")
@pass_session
def migrate(session: Session, *, dry_run: bool, sql: bool, listing: bool) -> None:
    """Bring the database's schema up to date.

    Any number of these may run at once. By hand: pgtask migrate --sql | psql -X ...
    """
    if dry_run + sql + listing > 1:
        raise click.UsageError("--dry-run, --sql and --list exclude each other → give one")
    from pgtask.broker import migrate as runner

    if sql:
        sys.stdout.write(runner.sql_script())
        return
    with runner.connection(session.database_url()) as connection:
        if listing:
            _list(session, runner.status(connection))
        elif dry_run:
            _say(session, runner.plan(connection), done=False)
        else:

            def applied(step: Step) -> None:
                if session.verbose:
                    session.note(f"applied {step.path}")

            _say(session, runner.migrate(connection, on_step=applied), done=True)


def _list(session: Session, entries: list[Entry]) -> None:
    if session.json:
        session.document([as_json(entry) for entry in entries])
        return
    session.data(
        table(
            ("FILE", "STATE", "APPLIED"),
            [(entry.path, entry.state, instant(entry.applied_at)) for entry in entries],
        )
    )


def _say(session: Session, plan: Plan, *, done: bool) -> None:
    if session.json:
        session.document(
            {
                "applied": done,
                "migrations": [step.path for step in plan.migrations],
                "repeatables": [step.path for step in plan.repeatables],
            }
        )
        return
    if not plan:
        session.note("the schema is up to date")
        return
    for migration in plan.migrations:
        session.data(f"{'applied' if done else 'would apply'} {migration.path}: {migration.what}")
    if plan.repeatables:
        verb = "applied" if done else "would apply"
        session.data(f"{verb} {len(plan.repeatables)} functions and views")
