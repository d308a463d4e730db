"""How a command fails: one line on stderr that names the cause and the remedy, and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import TypeGuard

import click

from pgtask.config import redact_text
from pgtask.errors import (
    AppNotFound,
    BadArguments,
    BadCall,
    ConfigError,
    DefinitionError,
    EmbeddedError,
    JobNotFound,
    MigrationChanged,
    PgTaskError,
    QueueNotFound,
    ResultTimeout,
    ScheduleNotFound,
    SchemaMissing,
    SchemaTooNew,
    SchemaTooOld,
    TaskNotFound,
    Unavailable,
    WrongDatabase,
)
from pgtask.lossless import shown

OK = 0
FAILED = 1
USAGE = 2
NO_APP = 3
NO_DATABASE = 4
NO_SCHEMA = 5
NOT_FOUND = 6
TIMED_OUT = 124
INTERRUPTED = 130

# First match wins: what derives from another stands before it.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (click.UsageError, USAGE),
    (click.ClickException, FAILED),
    (AppNotFound, NO_APP),
    (ConfigError, USAGE),
    (WrongDatabase, USAGE),
    (TaskNotFound, NOT_FOUND),
    (JobNotFound, NOT_FOUND),
    (QueueNotFound, NOT_FOUND),
    (ScheduleNotFound, NOT_FOUND),
    (BadArguments, USAGE),
    (BadCall, USAGE),
    (DefinitionError, USAGE),
    (Unavailable, NO_DATABASE),
    (EmbeddedError, NO_DATABASE),
    (SchemaMissing, NO_SCHEMA),
    (SchemaTooOld, NO_SCHEMA),
    (SchemaTooNew, NO_SCHEMA),
    (MigrationChanged, NO_SCHEMA),
    (ResultTimeout, TIMED_OUT),
    (PgTaskError, FAILED),
)


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that a person can act on; None for a bug."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if _is_not_unicode(error):
        return USAGE
    # What PostgreSQL itself refuses. Known by its module: psycopg may not even be loaded.
    return FAILED if type(error).__module__.startswith("psycopg") else None


def show(error: BaseException, *, traceback_too: bool) -> None:
    """Write the error's one line to stderr; passwords never."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    if traceback_too:
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(redact_text(text))
    sys.stderr.write(f"pgtask: {redact_text(_line(error))}\n")
    if isinstance(error, AppNotFound):
        # The notes are the user's own traceback, trimmed to their frames.
        for note in getattr(error, "__notes__", ()):
            sys.stderr.write(redact_text(note.rstrip("\n")) + "\n")


def _is_not_unicode(error: BaseException) -> TypeGuard[UnicodeEncodeError]:
    # Bytes of the command line that are not UTF-8, as Python hands them on, meet psycopg.
    return (
        isinstance(error, UnicodeEncodeError) and "\udc80" <= error.object[error.start] <= "\udcff"
    )


def _line(error: BaseException) -> str:
    if _is_not_unicode(error):
        return f"{shown(redact_text(error.object))} is not valid Unicode → write it in UTF-8"
    if not isinstance(error, click.ClickException):
        return " ".join(str(error).split()) or type(error).__name__
    line = " ".join(error.format_message().split()).rstrip(".")
    if "→" not in line and isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "pgtask"
        line = line.replace(". Did you mean", ", did you mean")
        line = f"{line[:1].lower()}{line[1:]} → see: {path} --help"
    return line
