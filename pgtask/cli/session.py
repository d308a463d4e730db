"""Session: what a command needs of the world: settings, app, database, and where to write."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from pgtask.cli import failure
from pgtask.errors import ConfigError

if TYPE_CHECKING:
    from pgtask.app import App
    from pgtask.broker.pool import Broker
    from pgtask.config import Config


class Session:
    """One run of the command line: nothing is read, imported or connected before it is needed."""

    def __init__(self) -> None:
        self.flags: dict[str, object] = {}
        self.json = False
        self.quiet = False
        self.yes = False
        self.verbose = 0
        self.directory = Path.cwd()
        self.color: bool | None = None
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            self.color = False
        elif os.environ.get("FORCE_COLOR"):
            self.color = True

    def remember(self, name: str, value: object) -> None:
        """Take a global option; the one after the command has the last word."""
        if value is None:
            return
        match name:
            case "json" | "quiet" | "yes":
                setattr(self, name, True)
            case "verbose":
                self.verbose += int(str(value))
            case "no_color":
                self.color = False
            case "embedded":
                self.flags["embedded"] = "always" if value else "never"
            case _:
                self.flags[name] = value

    def told(self, **flags: object) -> None:
        """Take a command's own options that are settings; None means not given."""
        self.flags.update({name: value for name, value in flags.items() if value is not None})

    # --- settings, app, database ----------------------------------------------------------------

    @cached_property
    def config(self) -> Config:
        """The settings in force.

        The app is imported only when nothing that outranks App(dsn=...) names the database.
        """
        without_app = self.config_without_app
        if without_app.sources["dsn"] not in ("default", "DATABASE_URL", "libpq environment"):
            return without_app
        from pgtask.discover import find_spec

        code = {} if find_spec(without_app.app, self.directory) is None else self.app.settings
        return self.load(code=code)

    @cached_property
    def config_without_app(self) -> Config:
        """The settings as flags, environment and files have them; a database may be missing."""
        try:
            return self.load()
        except ConfigError:
            # The app may yet name the database that embedded = "never" misses. Whatever else is
            # wrong is so here, too.
            return self.load({**self.flags, "embedded": "auto"})

    @cached_property
    def app(self) -> App:
        """The user's App, imported; AppNotFound when it cannot be."""
        from pgtask.discover import load_app

        return load_app(self.config_without_app.app, self.directory)

    @contextmanager
    def broker(self) -> Iterator[Broker]:
        """A Broker on the database in force, whose schema was checked."""
        from pgtask.broker import migrate
        from pgtask.broker.pool import Broker

        dsn = self.database_url()
        with migrate.connection(dsn) as connection:
            migrate.check(connection)
        # A person waits, and can press Ctrl-C; some of their questions read a long history.
        broker = Broker(dsn, pool_max=2, patience=3600.0, pooler=self.config.pooler)
        try:
            yield broker
        finally:
            broker.close()

    def database_url(self) -> str:
        """The DSN in force; starts the embedded server when it is that one."""
        from pgtask.database import database_url

        return database_url(self.config)

    def load(
        self,
        flags: Mapping[str, object] | None = None,
        code: Mapping[str, object] = MappingProxyType({}),
    ) -> Config:
        """The settings as `flags` (default: those of this run) and `code` make them."""
        from pgtask.config import load

        return load(self.flags if flags is None else flags, code, os.environ, self.directory)

    # --- writing: data on stdout, everything else on stderr -------------------------------------

    def data(self, text: str) -> None:
        """Write what was asked for."""
        click.echo(text)

    def document(self, value: object) -> None:
        """Write the one JSON document of this run."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))

    def note(self, text: str) -> None:
        """Say something beside the data, unless --quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    def confirm(self, question: str) -> None:
        """Return if the answer is yes, or was given as --yes; end the command otherwise."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} There is no terminal to ask on → add --yes")
        if not click.confirm(question, err=True):
            self.note("pgtask: nothing was done")
            raise click.exceptions.Exit(failure.FAILED)


pass_session = click.make_pass_decorator(Session)


def as_json(value: object, **more: object) -> dict[str, object]:
    """The fields of a dataclass for a JSON document; ids are strings there."""
    fields = {name: getattr(value, name) for name in value.__dataclass_fields__}  # type: ignore[attr-defined]  # called with dataclasses only
    if isinstance(fields.get("id"), int):
        fields["id"] = str(fields["id"])
    return {**fields, **more}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone().isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
