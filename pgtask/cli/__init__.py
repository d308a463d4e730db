"""The pgtask command: its global options, and where each command's code is."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from pgtask.cli import failure
from pgtask.cli.session import Session

# Name → where, and the line for --help: listing the commands must not import them.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "pgtask.cli.demo:demo",
        "Read the standard library with jobs: one a file, its row written in the job's "
        "transaction.",
    ),
    "init": ("pgtask.cli.init:init", "Write pgtask.toml, tasks.py and .env.example here."),
    "migrate": ("pgtask.cli.migrate:migrate", "Bring the database's schema up to date."),
    "worker": ("pgtask.cli.worker:worker", "Run jobs."),
    "beat": ("pgtask.cli.beat:beat", "Fire schedules."),
    "dev": ("pgtask.cli.dev:dev", "Migrate, and run a worker and a beat in one terminal."),
    "enqueue": ("pgtask.cli.enqueue:enqueue", "Enqueue one job and print its id."),
    "ls": ("pgtask.cli.jobs:ls", "List jobs, the newest first."),
    "show": ("pgtask.cli.show:show", "Show everything about a job, and why it is not running."),
    "wait": ("pgtask.cli.wait:wait", "Wait until jobs have finished and print their results."),
    "retry": ("pgtask.cli.bulk:retry", "Run finished jobs again: these, or what a filter finds."),
    "cancel": ("pgtask.cli.bulk:cancel", "Cancel jobs: these, or what a filter finds."),
    "reschedule": (
        "pgtask.cli.bulk:reschedule",
        "Change when jobs run that have not begun, or how: these, or what a filter finds.",
    ),
    "discard": (
        "pgtask.cli.bulk:discard",
        "Give up jobs that have not begun: these, or what a filter finds.",
    ),
    "purge": (
        "pgtask.cli.purge:purge",
        "Remove finished jobs: those that are old, these, or what a filter finds.",
    ),
    "queues": ("pgtask.cli.queues:queues", "List queues and what they hold."),
    "queue": ("pgtask.cli.queues:queue", "Add, pause or resume a queue, or switch its events."),
    "tail": ("pgtask.cli.tail:tail", "Show what happens to jobs, as it happens."),
    "workers": (
        "pgtask.cli.workers:workers",
        "List workers and consumers, the living first.",
    ),
    "tasks": ("pgtask.cli.tasks:tasks", "List tasks, and whether a live worker knows them."),
    "schedule": ("pgtask.cli.schedule:schedule", "Make, list, pause and fire schedules."),
    "config": ("pgtask.cli.settings:config", "Show every setting and where it came from."),
    "db": ("pgtask.cli.db:db", "The private PostgreSQL of this project."),
    "completion": ("pgtask.cli.completion:completion", "Print the shell's completion script."),
}


class Commands(click.Group):
    """A group that imports a command when it is called, and lets it take the global options."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _let_take_globals(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from pgtask.config import near

            hint = near(args[0], tuple(COMMANDS))
            raise click.UsageError(f"no such command {args[0]!r}{hint} → see: pgtask --help", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    ctx.find_root().ensure_object(Session).remember(str(param.name), value)


def _global_options() -> list[click.Option]:
    def option(*names: str, **how: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_remember, **how)

    return [
        option("-A", "--app", metavar="MODULE:APP", help="The App, or the module that has it."),
        option("--dsn", metavar="DSN", help="The database: a URL or libpq's key=value words."),
        option("--config", metavar="FILE", help="Settings, instead of pgtask.toml."),
        option(
            "--embedded/--no-embedded", default=None, help="Use the private PostgreSQL, or never."
        ),
        option("--json", is_flag=True, default=None, help="Answer with one JSON document."),
        option("--quiet", is_flag=True, default=None, help="Say only what was asked for."),
        option("-v", "--verbose", count=True, help="Say more; errors come with a traceback."),
        option("--no-color", is_flag=True, default=None, help="No colours, as NO_COLOR does."),
        option("-y", "--yes", is_flag=True, default=None, help="Do not ask."),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version.",
        ),
    ]


def _let_take_globals(command: click.Command) -> None:
    """Let the options of `pgtask` stand after the command, too; its own of that name go first."""
    if command.context_settings.get("ignore_unknown_options"):
        return  # its words are for another program, as psql's are
    taken = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for option in _global_options():
        if taken.isdisjoint((*option.opts, *option.secondary_opts)):
            option.hidden = True
            command.params.append(option)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _let_take_globals(inner)


def _print_version(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value and not ctx.resilient_parsing:
        from pgtask.config import release

        click.echo(f"pgtask {release()}")
        ctx.exit()


@click.command(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The options may stand before or after the command.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Background jobs for Python that commit with your data."""
    ctx.ensure_object(Session)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli.params[:0] = _global_options()


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    session = Session()
    sys.exit(_run(session, args))


def _run(session: Session, args: Sequence[str] | None) -> int:
    try:
        answer = cli.main(
            args, prog_name="pgtask", standalone_mode=False, obj=session, color=session.color
        )
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("pgtask: interrupted\n")
        return failure.INTERRUPTED
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        # `pgtask ls | head`: what is left in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failure.FAILED
    except Exception as error:
        code = failure.exit_code(error)
        if code is None:
            raise
        failure.show(error, traceback_too=session.verbose > 0)
        return code
    return answer if isinstance(answer, int) else failure.OK
