"""The command line itself: help, global options, exit codes, and what it does not import."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pgtask import errors
from pgtask.cli import COMMANDS, cli, failure
from pgtask.cli.progress import Progress
from pgtask.cli.session import Session
from pgtask.config import release
from tests.cli.conftest import Call

WATCHED = ("psycopg", "psycopg_pool", "rich", "asyncio")


def imported_by(*words: str, **environ: str) -> list[str]:
    """Those of WATCHED that a command imports, in a process of its own."""
    program = (
        "import sys\n"
        "from pgtask.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('IMPORTED', *(name for name in {WATCHED!r} if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environ},
    )
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "IMPORTED", done
    return last[1:]


def test_help_version_and_completion_import_neither_driver_nor_rich_nor_asyncio() -> None:
    assert imported_by("--help") == []
    assert imported_by() == []
    assert imported_by("--version") == []
    assert imported_by("ls", "--help") == []
    assert imported_by("completion", "bash") == []
    completing = {"_PGTASK_COMPLETE": "bash_complete", "COMP_WORDS": "pgtask q", "COMP_CWORD": "1"}
    assert imported_by(**completing) == []


def test_bare_it_prints_help_and_is_content(call: Call) -> None:
    answer = call()

    assert (answer.code, answer.err) == (0, "")
    assert answer.out == call("--help").out == call("-h").out
    for name in COMMANDS:
        assert f"\n  {name} " in answer.out


def test_the_list_of_commands_says_what_each_commands_own_help_says(call: Call) -> None:
    for name, (target, line) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        if importlib.util.find_spec(module) is None:
            continue
        command = getattr(importlib.import_module(module), attribute)
        assert command.get_short_help_str(200) == line
        assert call(name, "--help").code == 0


def test_the_version_is_the_release(call: Call) -> None:
    assert call("--version").out == f"pgtask {release()}\n"
    assert call("ls", "--version").out == f"pgtask {release()}\n"


def test_it_runs_as_a_module(spawn: Call) -> None:
    answer = spawn("--version")

    assert (answer.code, answer.out) == (0, f"pgtask {release()}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("--json", "--dsn", "dbname=x", "config"),
        ("config", "--json", "--dsn", "dbname=x"),
        ("--dsn", "dbname=other", "config", "--json", "--dsn", "dbname=x"),
        ("--json", "config", "--dsn=dbname=x"),
    ],
)
def test_global_options_stand_before_or_after_the_command(
    call: Call, words: tuple[str, ...]
) -> None:
    answer = call(*words)

    assert answer.json["dsn"] == {"value": "dbname=x", "source": "--dsn"}


def test_global_options_reach_the_commands_of_a_group() -> None:
    with cli.make_context("pgtask", ["-v", "queue", "--json", "-vv", "pause", "-y", "x"]) as ctx:
        ctx.obj = Session()
        group = cli.get_command(ctx, "queue")
        assert isinstance(group, click.Group)
        with group.make_context("queue", ["--json", "pause", "-y", "x"], parent=ctx) as inner:
            pause = group.get_command(inner, "pause")
            assert pause is not None
            pause.make_context("pause", ["-y", "-vv", "x"], parent=inner).close()
        session = ctx.obj

    assert (session.json, session.yes, session.verbose) == (True, True, 2)


def test_options_for_another_program_are_left_alone() -> None:
    with cli.make_context("pgtask", ["db"]) as ctx:
        database = cli.get_command(ctx, "db")
        assert isinstance(database, click.Group)
        psql = database.commands["psql"]

        assert all(isinstance(param, click.Argument) for param in psql.params)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("lss",), "pgtask: no such command 'lss', did you mean 'ls'? → see: pgtask --help\n"),
        (
            ("ls", "--foo"),
            "pgtask: no such option '--foo', did you mean '--before'? → see:",
        ),
        (("show",), "pgtask: missing argument 'ID' → see: pgtask show --help\n"),
        (("ls", "-s", "lost"), "pgtask: invalid value for '-s' / '--state': 'lost' is not one of"),
        (("ls", "--since", "soon"), "'soon' is not a duration → write 90s, 5m, 2h, 7d"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(call: Call, words: tuple[str, ...], line: str) -> None:
    answer = call(*words)

    assert (answer.code, answer.out) == (2, "")
    assert line in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.ArgumentMismatch("x"), 2),
        (errors.BadOption("x"), 2),
        (errors.BadCall("x"), 2),
        (errors.AppNotFound("x"), 3),
        (errors.Unavailable("x"), 4),
        (errors.EmbeddedError("x"), 4),
        (errors.SchemaMissing("x"), 5),
        (errors.SchemaTooOld("x"), 5),
        (errors.SchemaTooNew("x"), 5),
        (errors.MigrationChanged("x"), 5),
        (errors.TaskNotFound("x"), 6),
        (errors.JobNotFound("x"), 6),
        (errors.QueueNotFound("x"), 6),
        (errors.ResultTimeout("x"), 124),
        (errors.DuplicateJob("x"), 1),
        (errors.PgTaskError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr("pgtask.cli.beat.beat", failing)
    answer = call("beat", "--json")

    assert (answer.code, answer.out, answer.err) == (code, "", "pgtask: x\n")


def test_every_error_that_people_can_meet_has_a_code() -> None:
    def below(kind: type[BaseException]) -> set[type[BaseException]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    for kind in below(errors.PgTaskError) - {errors.JobFailed}:
        assert failure.exit_code(kind("x")) in (1, 2, 3, 4, 5, 6, 124)
    assert failure.exit_code(ZeroDivisionError("a bug")) is None


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    @click.command()
    def failing() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("pgtask.cli.beat.beat", failing)

    with pytest.raises(ZeroDivisionError):
        call("beat")


def test_v_adds_the_traceback(call: Call, bare: Path) -> None:
    (bare / "pgtask.toml").write_text("pol = 1\n")

    plain, told = call("config"), call("config", "-v")

    assert plain.err.count("\n") == 1
    assert "Traceback" in told.err
    assert told.err.endswith(plain.err)


def test_ctrl_c_is_exit_130(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pgtask.cli.beat.beat", interrupted)

    assert call("beat").code == 130


def test_an_unreachable_database_is_exit_4_and_shows_no_password(call: Call) -> None:
    answer = call("ls", "--dsn", "postgresql://ada:geheim@127.0.0.1:1/shop")

    assert (answer.code, answer.out) == (4, "")
    assert "cannot be reached" in answer.err
    verbose = call("ls", "-v", "--dsn", "postgresql://ada:geheim@127.0.0.1:1/shop")
    assert "Traceback" in verbose.err
    assert "geheim" not in answer.err + verbose.err


@pytest.mark.parametrize("words", [("ls",), ("migrate",), ("queues", "-v")])
def test_a_dsn_that_libpq_cannot_read_is_a_wrong_setting(
    call: Call, words: tuple[str, ...]
) -> None:
    answer = call(*words, "--dsn", "postgresql://ada:geheim@h/shop?foo=1")

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines()[-1] == (
        "pgtask: dsn = 'postgresql://ada:***@h/shop?foo=1' (--dsn): invalid URI query parameter: "
        "\"foo\" → correct it: postgresql://user@host/database or 'host=… dbname=…', "
        "with libpq's parameters only"
    )
    assert "geheim" not in answer.err


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ada:gar geheim@h/shop",
        "postgresql://ada:geheim%zz@h/shop",
        "postgresql://ada:geheim@[h/shop",
        "host=h password='gar geheim",
    ],
)
def test_what_libpq_says_of_a_dsn_does_not_tell_the_password(call: Call, dsn: str) -> None:
    answer = call("ls", "-v", "--dsn", dsn)

    assert answer.code == 2
    assert "(--dsn): " in answer.err
    assert "heim" not in answer.err


def test_a_worker_refuses_a_listen_dsn_that_libpq_cannot_read(spawn: Call, bare: Path) -> None:
    (bare / "app.py").write_text("from pgtask import App\napp = App('a')\n")
    (bare / "pgtask.toml").write_text("listen_dsn = 'host=h foo=1'\n")

    answer = spawn("worker", "--dsn", "postgresql://ada@127.0.0.1:1/shop")

    assert answer.code == 2
    assert "listen_dsn = 'host=h foo=1' (pgtask.toml): invalid connection option" in answer.err


def test_the_remedy_is_not_taken_for_a_password(call: Call) -> None:
    plain = call("ls", "--dsn", "mysql://x/y")
    secret = call("ls", "--dsn", "mysql://x:gar geheim@y/z")

    remedy = "mysql:// is not PostgreSQL → use postgresql://user@host/database\n"
    assert (plain.code, secret.code) == (2, 2)
    assert plain.err == f"pgtask: dsn = 'mysql://x/y' (--dsn): {remedy}"
    assert secret.err == f"pgtask: dsn = 'mysql://x:***@y/z' (--dsn): {remedy}"


def test_a_database_without_the_schema_is_exit_5(call: Call, fresh_database: str) -> None:
    answer = call("queues", "--dsn", fresh_database)

    assert (answer.code, answer.out) == (5, "")
    assert answer.err.endswith("→ run: pgtask migrate\n")


def test_an_id_that_no_job_can_have_is_misspelt(call: Call) -> None:
    answer = call("show", 2**80)
    assert answer.code == 2
    assert "not in the range" in answer.err


def test_words_that_are_not_utf_8_are_named(
    call: Call, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTASK_DSN", dsn)
    for words in (["ls", "--task", "\udcff"], ["schedule", "show", "a\udcff"]):
        answer = call(*words)
        assert answer.code == 2
        assert "is not valid Unicode → write it in UTF-8" in answer.err
        assert answer.err.count("\n") == 1
    answer = call("--dsn", "host=/nowhere password='it\\'s sekret\udcff'" + " " * 900, "ls")
    assert answer.code == 2
    assert "sekret" not in answer.err
    assert len(answer.err) < 200


def test_what_postgresql_itself_refuses_is_one_line(
    call: Call, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTASK_DSN", dsn)

    answer = call("ls", "--older-than", "99999999999d")

    assert answer.code == 1
    assert "out of range" in answer.err
    assert answer.err.startswith("pgtask: ")
    assert answer.err.count("\n") == 1


def test_a_reader_that_leaves_is_no_failure_to_report(bare: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m pgtask completion bash | true",
        shell=True,  # a pipe that closes early is what is tested
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""


def test_colours_are_off_when_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, color in (("NO_COLOR", "1", False), ("TERM", "dumb", False),
                               ("FORCE_COLOR", "1", True)):  # fmt: skip
        with monkeypatch.context() as patch:
            for other in ("NO_COLOR", "TERM", "FORCE_COLOR"):
                patch.delenv(other, raising=False)
            assert Session().color is None
            patch.setenv(name, value)
            assert Session().color is color


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(call: Call, shell: str) -> None:
    answer = call("completion", shell)

    assert answer.code == 0
    assert "_PGTASK_COMPLETE" in answer.out


def test_completion_knows_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pgtask"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "_PGTASK_COMPLETE": "bash_complete",
            "COMP_WORDS": "pgtask que",
            "COMP_CWORD": "1",
        },
    )

    assert done.stdout.split() == ["plain,queues", "plain,queue"]


def test_progress_in_a_pipe_speaks_up_when_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    def cut_off() -> None:
        with Progress("removed", 10) as progress:
            progress.add(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    with Progress("removed", 10) as quick:
        quick.add(4)

    assert capsys.readouterr().err == "removed 4 of 10\n"
