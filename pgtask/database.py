"""Which database: the one the settings name, or the private one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pgtask.config import Config, redact
from pgtask.errors import ConfigError

_told: set[str] = set()


def database_url(config: Config) -> str:
    """Return the conninfo of this app's database; "" leaves it to libpq.

    Without any setting a private PostgreSQL is started, and held for the life of this process.
    Raises EmbeddedError when that cannot be, ConfigError for a dsn or listen_dsn that libpq cannot
    read.
    """
    for name in ("dsn", "listen_dsn"):
        _check_readable(name, getattr(config, name), config.sources.get(name, "default"))
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


def _check_readable(name: str, dsn: str | None, source: str) -> None:
    if not dsn:
        return
    # Here, not where settings are read: that must not cost an import of the driver.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        shown = redact(dsn)
        reason = re.sub(
            r'"(.*?)"',
            # What libpq quotes may be a piece of the password.
            lambda quoted: quoted[0] if quoted[1] in shown else '"***"',
            " ".join(str(error).split()),
        )
        # From None: the cause, shown by -v, would tell the password after all.
        raise ConfigError(
            f"{name} = {shown!r} ({source}): {reason} → correct it: "
            "postgresql://user@host/database or 'host=… dbname=…', with libpq's parameters only"
        ) from None


def _shown(path: Path) -> str:
    try:
        return "./" + str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
