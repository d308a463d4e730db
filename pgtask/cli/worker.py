"""`pgtask worker`: the process that runs jobs."""

from __future__ import annotations

import click

from pgtask.cli.session import Session, pass_session
from pgtask.cli.times import DURATION


@click.command()
@click.option("-Q", "--queues", metavar="A,B", help="Take jobs of these queues only.")
@click.option("-c", "--concurrency", type=click.IntRange(1), help="Children (one a CPU).")
@click.option("--async-concurrency", type=click.IntRange(1), help="Jobs in an async child (100).")
@click.option("--poll", type=DURATION, help="Look for jobs at least so often (1s).")
@click.option("--grace", type=DURATION, help="After TERM, let jobs go on for so long (25s).")
@click.option(
    "--cancel-grace", type=DURATION, help="Kill after it what cancel --terminate asks (5s)."
)
@click.option("--max-jobs-per-child", type=click.IntRange(1), help="Replace a child after so many.")
@click.option("--max-memory-per-child", metavar="SIZE", help="Replace a child beyond it, as 300MB.")
@click.option("--reload", is_flag=True, default=None, help="Load the app anew when a file changes.")
@click.option(
    "--reload-dir", multiple=True, metavar="DIR", help="Watch this (the app's directory)."
)
@click.option("--health", metavar="HOST:PORT", help="Answer /livez and /readyz there, by HTTP.")
@click.option("--beat", "beat_too", is_flag=True, help="Fire schedules, too.")
@click.option("--drain", is_flag=True, help="End when nothing is left to run now.")
@click.option("-n", "--name", default="", metavar="NAME", help="Its name in lists (the host's).")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How to log (text).")
@click.option("--log-level", metavar="LEVEL", help="What to log (INFO).")
@pass_session
def worker(
    session: Session, /, *, drain: bool, beat_too: bool, name: str, **settings: object
) -> int:
    """Run jobs.

    Until TERM or Ctrl-C: the first lets running jobs finish, the second does not. HUP loads the
    app anew.
    """
    from pgtask.discover import find_spec, no_app
    from pgtask.worker.supervisor import run_worker
    from pgtask.worker.zygote import settings_of

    if drain and beat_too:
        raise click.UsageError("--drain ends when nothing is left, --beat never → give one")
    settings["reload_dir"] = settings["reload_dir"] or None
    session.told(**settings)
    # The app is not imported here: user code never runs in the process that holds the lease.
    config = session.config_without_app
    app = find_spec(config.app, session.directory)
    if app is None:
        raise no_app(session.directory)
    if config.sources["dsn"] in ("default", "DATABASE_URL", "libpq environment"):
        # App(dsn=...) outranks these.
        config = session.load(code=settings_of(app))
    companion = None
    if beat_too:
        from pgtask.beat.beat import Beat
        from pgtask.database import database_url

        companion = Beat(config, database_url(config), app)
    return run_worker(config, app_spec=app, drain=drain, name=name, companion=companion)
