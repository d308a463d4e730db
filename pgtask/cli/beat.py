"""`pgtask beat`: the process that fires schedules."""

from __future__ import annotations

import click

from pgtask.cli.session import Session, pass_session


@click.command()
@click.option("--once", is_flag=True, help="Fire what is due now, and end.")
@click.option("--reload", is_flag=True, default=None, help="Read the app anew when a file changes.")
@click.option(
    "--reload-dir", multiple=True, metavar="DIR", help="Watch this (the app's directory)."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How to log (text).")
@click.option("--log-level", metavar="LEVEL", help="What to log (INFO).")
@pass_session
def beat(session: Session, /, *, once: bool, **settings: object) -> int:
    """Fire schedules.

    Until TERM or Ctrl-C. Any number may run: each tick has one job at most. Without an app, it
    fires what the database has; with one, it first writes there what the code declares. HUP reads
    the app anew.
    """
    from pgtask.beat.process import run_beat
    from pgtask.discover import find_spec
    from pgtask.worker.zygote import settings_of

    settings["reload_dir"] = settings["reload_dir"] or None
    session.told(**settings)
    # The app is not imported here: code that ends the process must cost no tick.
    config = session.config_without_app
    app = find_spec(config.app, session.directory)
    if app is not None and config.sources["dsn"] in (
        "default",
        "DATABASE_URL",
        "libpq environment",
    ):
        # App(dsn=...) outranks these.
        config = session.load(code=settings_of(app))
    return run_beat(config, app_spec=app, once=once)
