"""`pgtask db`: the private PostgreSQL of this project, for laptops and the demo."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

import click

from pgtask import embedded
from pgtask.cli.session import Session
from pgtask.errors import EmbeddedError


@click.group()
def db() -> None:
    """The private PostgreSQL of this project.

    It starts when a command needs it and stops some seconds after its last user. `start` keeps it
    until `stop`.
    """


@db.command()
def start() -> None:
    """Start it and keep it running until `pgtask db stop`."""
    status = embedded.start_detached(_home(), quiet=_asked("quiet"))
    if _asked("json"):
        click.echo(json.dumps(_document(status)))
    elif not _asked("quiet"):
        click.echo(f"PostgreSQL {status.version} runs in {status.directory} until: pgtask db stop")


@db.command()
@click.option("--force", is_flag=True, help="Stop it although other processes use it.")
def stop(*, force: bool) -> None:
    """Stop it, also one that was kept by `start`."""
    stopped = embedded.stop(_home(), force=force)
    if _asked("json"):
        click.echo(json.dumps({"stopped": stopped}))
    elif not _asked("quiet"):
        click.echo("stopped" if stopped else "it was not running")


@db.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def status(*, as_json: bool) -> None:
    """Whether it runs, for whom, and where its files are; starts nothing."""
    found = embedded.status(_home())
    if as_json or _asked("json"):
        click.echo(json.dumps(_document(found)))
        return
    if not found.running:
        click.echo(f"not running; it would live in {found.directory}")
        return
    kept = "until: pgtask db stop" if found.detached else "while somebody uses it"
    click.echo(f"PostgreSQL {found.version} (process {found.server_pid}) runs {kept}")
    click.echo(f"files: {found.directory}")
    click.echo(f"log:   {found.log_path}")
    for holder in found.holders:
        click.echo(f"used by process {holder.pid}: {holder.command}")


@db.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> NoReturn:
    """Open psql as role pgtask; further arguments go to psql.

    As the superuser: pgtask db psql -U postgres postgres
    """
    server = embedded.Server(_home(), quiet=_asked("quiet"))
    program = server.binaries.bindir / "psql"
    if not program.exists():
        found = shutil.which("psql")
        if found is None:
            raise EmbeddedError(
                f"there is no psql in {server.binaries.bindir}, nor on PATH; install a PostgreSQL "
                "client"
            )
        program = Path(found)
    held = server.lease()
    # psql replaces this process and inherits the open file, so it holds the lease until it ends.
    os.set_inheritable(held.fileno(), True)  # noqa: FBT003 - its only signature
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= held.libpq_environment()
    os.execve(program, [str(program), *arguments], environment)


@db.command()
def path() -> None:
    """Print the directory of its files."""
    click.echo(embedded.data_home(Path.cwd()))


@db.command()
def url() -> None:
    """Print its URL, password included; starts nothing.

    For programs that take one: psql "$(pgtask db url)"
    """
    found = embedded.url(_home())
    if found is None:
        raise click.ClickException("the private PostgreSQL is not running → run: pgtask db start")
    click.echo(json.dumps({"url": found}) if _asked("json") else found)


@db.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def reset(*, yes: bool) -> None:
    """Stop it and delete its data."""
    home = _home()
    session = click.get_current_context().find_object(Session) or Session()
    session.yes = session.yes or yes
    session.confirm(f"Delete all data in {embedded.status(home).directory}?")
    deleted = embedded.reset(home)
    if _asked("json"):
        click.echo(json.dumps({"deleted": deleted}))
    elif not _asked("quiet"):
        click.echo("deleted" if deleted else "there was nothing to delete")


def _home() -> Path:
    return embedded.data_home(Path.cwd())


def _asked(flag: str) -> bool:
    """A global flag: the root command keeps them on its context."""
    return bool(getattr(click.get_current_context().find_root().obj, flag, False))


def _document(status: embedded.Status) -> dict[str, object]:
    return {
        "running": status.running,
        "detached": status.detached,
        "version": status.version,
        "home": str(status.home),
        "directory": str(status.directory),
        "log_path": str(status.log_path),
        "server_pid": status.server_pid,
        "keeper_pid": status.keeper_pid,
        "holders": [{"pid": pid, "command": command} for pid, command in status.holders],
    }
