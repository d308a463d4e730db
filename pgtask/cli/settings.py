"""`pgtask config`: every setting in force, and where it came from."""

from __future__ import annotations

import click

from pgtask.cli.session import Session, pass_session
from pgtask.cli.table import table
from pgtask.errors import AppNotFound


@click.command()
@pass_session
def config(session: Session) -> None:
    """Show every setting and where it came from.

    Passwords are hidden.
    """
    from pgtask.config import SETTINGS, redact

    try:
        found = session.config
    except AppNotFound as error:
        found = session.config_without_app
        session.note(f"pgtask: the app's own settings are missing: {error}")
    values = {name: getattr(found, name) for name in SETTINGS}
    for name in ("dsn", "listen_dsn"):
        if values[name] is not None:
            values[name] = redact(values[name])
    if session.json:
        session.document(
            {
                name: {"value": value, "source": found.sources[name]}
                for name, value in values.items()
            }
        )
        return
    session.data(
        table(
            ("SETTING", "VALUE", "SOURCE"),
            [(name, _shown(value), found.sources[name]) for name, value in values.items()],
        )
    )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "-" if value is None else str(value)
