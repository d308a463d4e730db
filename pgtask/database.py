"""Which database: the one the settings name, or the private one."""

from __future__ import annotations

import sys
from pathlib import Path

from pgtask.config import Config

_told: set[str] = set()


def database_url(config: Config) -> str:
    """Return the conninfo of this app's database; "" leaves it to libpq.

    Without any setting a private PostgreSQL is started, and held for the life of this process.
    Raises EmbeddedError when that cannot be.
    """
    if config.dsn is not None:
        return config.dsn
    from pgtask import embedded

    home = embedded.data_home(Path.cwd())
    lease = embedded.hold_for_process(home)
    if lease.dsn not in _told:
        _told.add(lease.dsn)
        print(  # noqa: T201 - once, for the person at the terminal: not where they may expect
            f"pgtask: no database configured, using a private PostgreSQL {lease.version} in"
            f" {_shown(home)} (set DATABASE_URL for a real one)",
            file=sys.stderr,
        )
    return lease.dsn


def _shown(path: Path) -> str:
    try:
        return "./" + str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
