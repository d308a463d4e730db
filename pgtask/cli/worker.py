"""`pgtask worker`: the process that runs jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pgtask.cli.filters import JOB_ID
from pgtask.cli.session import Session, pass_session
from pgtask.cli.times import DURATION

if TYPE_CHECKING:
    from pgtask.broker.pool import Broker
    from pgtask.config import Config
    from pgtask.worker.errand import Errand


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
@click.option("--tasks", multiple=True, metavar="GLOB", help="Take jobs of these tasks only.")
@click.option("--drain", is_flag=True, help="End when nothing is left to run now.")
@click.option("--max-jobs", type=click.IntRange(1), help="End after so many jobs.")
@click.option("--max-seconds", type=DURATION, help="Take jobs for so long, then end.")
@click.option(
    "--once", type=JOB_ID, metavar="ID", help="Run this job, whatever its queue, and end."
)
@click.option("-n", "--name", default="", metavar="NAME", help="Its name in lists (the host's).")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How to log (text).")
@click.option("--log-level", metavar="LEVEL", help="What to log (INFO).")
@pass_session
def worker(
    session: Session,
    /,
    *,
    tasks: tuple[str, ...],
    drain: bool,
    max_jobs: int | None,
    max_seconds: float | None,
    once: int | None,
    beat_too: bool,
    name: str,
    **settings: object,
) -> int:
    """Run jobs.

    Until TERM or Ctrl-C: the first lets running jobs finish, the second does not. HUP loads the
    app anew. In a GLOB only * is special: mail.* takes mail.send and mail.bounce.report.
    """
    from pgtask.discover import find_spec, no_app
    from pgtask.worker.errand import Errand
    from pgtask.worker.supervisor import run_worker
    from pgtask.worker.zygote import settings_of

    ends = drain or once is not None or max_jobs is not None or max_seconds is not None
    if ends and beat_too:
        raise click.UsageError("--beat never ends, a worker with --drain, --once or a --max does")
    if once is not None and (drain or max_jobs is not None or max_seconds is not None):
        raise click.UsageError("--once runs one job → without --drain, --max-jobs, --max-seconds")
    errand = Errand(drain, tasks, once, max_jobs, max_seconds)
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
    if once is not None:
        return _run_one(session, config, app, once, errand, name)
    return run_worker(config, app_spec=app, errand=errand, name=name, companion=companion)


def _run_one(
    session: Session, config: Config, app: str, job_id: int, errand: Errand, name: str
) -> int:
    from pgtask.cli import once
    from pgtask.worker.supervisor import run_worker

    with _asked(config) as broker:
        once.refuse_in_vain(broker, job_id)
    code = run_worker(config, app_spec=app, errand=errand, name=name)
    if code == 0:
        with _asked(config) as broker:
            session.note(once.outcome(broker, job_id, errand.verdict))
    return code


@contextmanager
def _asked(config: Config) -> Iterator[Broker]:
    from pgtask.broker import migrate
    from pgtask.broker.pool import Broker
    from pgtask.database import database_url

    dsn = database_url(config)
    with migrate.connection(dsn) as connection:
        migrate.check(connection)
    broker = Broker(dsn, pool_max=1, pooler=config.pooler)
    try:
        yield broker
    finally:
        broker.close()
