"""`pgtask migrate`: bring the schema up to date, or say what that would do."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from pgtask.cli.session import Session, as_json, pass_session
from pgtask.cli.table import table
from pgtask.cli.times import instant

if TYPE_CHECKING:
    from pgtask.broker.grants import Wishes
    from pgtask.broker.migrate import Entry, Plan
    from pgtask.broker.script import Step


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be applied.")
@click.option("--sql", is_flag=True, help="Print a script for psql; needs no database.")
@click.option("--list", "listing", is_flag=True, help="List every file and whether it is applied.")
@click.option("--grant-producer", multiple=True, metavar="ROLE", help="May enqueue.")
@click.option("--grant-worker", multiple=True, metavar="ROLE", help="May run workers and beats.")
@click.option("--grant-admin", multiple=True, metavar="ROLE", help="May manage and see all.")
@click.option("--grant-monitor", multiple=True, metavar="ROLE", help="May look, not at arguments.")
@click.option("--revoke", multiple=True, metavar="ROLE", help="May nothing any more.")
@pass_session
def migrate(
    session: Session,
    /,
    *,
    dry_run: bool,
    sql: bool,
    listing: bool,
    revoke: tuple[str, ...],
    **grants: tuple[str, ...],
) -> None:
    """Bring the database's schema up to date.

    Roles are granted functions and views, never a job's table, and keep that over later releases.
    All five options may be given several times; none of them creates a role.

    Any number of these may run at once. By hand: pgtask migrate --sql | psql -X ...
    """
    if dry_run + sql + listing > 1:
        raise click.UsageError("--dry-run, --sql and --list exclude each other → give one")
    from pgtask.broker import migrate as runner

    wishes = _wishes(grants, revoke)
    if listing and wishes:
        raise click.UsageError("--list changes nothing → leave the roles out")
    if sql:
        sys.stdout.write(runner.sql_script(wishes=wishes))
        return
    with runner.connection(session.database_url()) as connection:
        if listing:
            _list(session, runner.status(connection))
        elif dry_run:
            runner.check_roles(connection, wishes)
            _say(session, runner.plan(connection), wishes, done=False)
        else:

            def applied(step: Step) -> None:
                if session.verbose:
                    session.note(f"applied {step.path}")

            done = runner.migrate(connection, wishes=wishes, on_step=applied)
            _say(session, done, wishes, done=True)


def _wishes(grants: dict[str, tuple[str, ...]], revoke: tuple[str, ...]) -> Wishes:
    from pgtask.broker.grants import GROUPS, Wishes

    pairs = [(role, group) for group in GROUPS for role in grants[f"grant_{group}"]]
    return Wishes(tuple(dict.fromkeys(pairs)), tuple(dict.fromkeys(revoke)))


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


def _say(session: Session, plan: Plan, wishes: Wishes, *, done: bool) -> None:
    if session.json:
        session.document(
            {
                "applied": done,
                "migrations": [step.path for step in plan.migrations],
                "repeatables": [step.path for step in plan.repeatables],
                "grants": [{"role": role, "may": group} for role, group in wishes.grants],
                "revokes": list(wishes.revokes),
            }
        )
        return
    if not plan:
        session.note("the schema is up to date")
    for migration in plan.migrations:
        session.data(f"{'applied' if done else 'would apply'} {migration.path}: {migration.what}")
    if plan.repeatables:
        verb = "applied" if done else "would apply"
        session.data(f"{verb} {len(plan.repeatables)} functions and views")
    for line in _told(wishes, done=done):
        session.data(line)


def _told(wishes: Wishes, *, done: bool) -> Iterable[str]:
    from pgtask.broker.grants import described

    if not done:
        yield from described(wishes)
        return
    for role in wishes.revokes:
        yield f"{role} may nothing any more"
    for role, group in wishes.grants:
        yield f"{role} is {'an' if group == 'admin' else 'a'} {group}"
