"""Reader: somebody who does what a page says, in an empty directory, and looks what comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgtask import config, embedded_place
from tests.conditions import eventually
from tests.docs.pages import Block

# Each of these is a whole run of its own; CI runs both beside the tests.
EXEMPT = frozenset({"./dev demo", "./dev test"})

_DONE = "-- the shell has done it:"
_INTERPRETER = Path(__file__).with_name("interpreter.py")
_COMMAND_TIMEOUT = 60.0
_KEPT = ("PATH", "LANG", "LC_ALL", "PGTASK_PG_BINDIR", "TMPDIR")


class Reader:
    """Follows a page. `url` is the database, None for the private one."""

    def __init__(self, directory: Path, url: str | None) -> None:
        self.directory = directory
        self._url = url
        self._log = directory.parent / f"{directory.name}.log"
        self._printed = ""
        with self._log.open("wb") as log:
            self._shell = subprocess.Popen(
                ["sh"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=_environment(directory, url),
                text=True,
                start_new_session=True,
            )
        self._python: subprocess.Popen[str] | None = None

    @classmethod
    @contextmanager
    def open(cls, url: str | None) -> Iterator[Reader]:
        """Yield a reader in an empty directory; afterwards nothing of it is left."""
        # Not below pytest's directory: the private server may run as a user who cannot go there.
        directory = Path(tempfile.mkdtemp(prefix="pgtask-page-"))
        directory.chmod(0o755)
        reader = cls(directory, url)
        try:
            yield reader
        finally:
            try:
                reader._close()
            finally:
                reader._log.unlink()
                shutil.rmtree(directory)

    def follow(self, block: Block) -> None:
        """Do what one block says; AssertionError, with the line, where that does not work."""
        if block.file is not None:
            path = self.directory / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        match block.word:
            case "python":
                self._run_python(block)
            case "console":
                for command, expected in block.commands:
                    if command not in EXEMPT:
                        self._type(block, command, expected)
            case "sql":
                self._send(block)
            case "toml":
                self._configure(block)
            case "text" if block.is_output:
                missing = first_missing(block.text.splitlines(), self._printed.splitlines())
                assert missing is None, (
                    f"line {block.line}: {missing!r} was not printed, but\n{self._printed}"
                )

    def _run_python(self, block: Block) -> None:
        request = {"text": block.text, "name": f"<line {block.line}>", "file": block.file}
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, str(_INTERPRETER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self.directory,
                env=_environment(self.directory, self._url),
                text=True,
            )
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(json.dumps(request) + "\n")
        self._python.stdin.flush()
        line = self._python.stdout.readline()
        assert line, f"line {block.line}: the interpreter ended"
        answer: dict[str, Any] = json.loads(line)
        self._printed = answer["output"]
        if answer["ended"]:
            self._leave_python()
        assert answer["error"] is None, f"line {block.line}:\n{self._printed}{answer['error']}"

    def _type(self, block: Block, command: str, expected: Sequence[str]) -> None:
        seen = self._log.stat().st_size
        assert self._shell.stdin is not None
        # The mark stands on a line of its own, whatever was printed before it.
        self._shell.stdin.write(f"{command}\nprintf '\\n%s %s\\n' '{_DONE}' $?\n")
        self._shell.stdin.flush()

        def answered() -> tuple[str, str] | None:
            with self._log.open("rb") as log:
                log.seek(seen)
                text = log.read().decode("utf-8", "replace")
            found = re.search(rf"(.*)^{re.escape(_DONE)} (\d+)\n", text, re.DOTALL | re.MULTILINE)
            assert found or self._shell.poll() is None, f"{command} ended the shell:\n{text}"
            return (found[1], found[2]) if found else None

        output, code = eventually(answered, timeout=_COMMAND_TIMEOUT) or ("", "")
        assert code == "0", f"line {block.line}: $ {command}\nexit code {code}\n{output}"
        missing = first_missing(expected, output.splitlines())
        assert missing is None, (
            f"line {block.line}: $ {command}\nshould print {missing!r}, but printed\n{output}"
        )

    def _send(self, block: Block) -> None:
        assert self._url is not None, f"line {block.line}: no sql on a page with its own server"
        with psycopg.connect(self._url) as connection:
            connection.execute(block.text.encode())
            connection.rollback()

    def _configure(self, block: Block) -> None:
        name = Path(block.file or "pgtask.toml").name
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / name).write_text(block.text, "utf-8")
            found = config.load({}, {}, {}, Path(directory))
        assert any(source != "default" for source in found.sources.values()), (
            f"line {block.line}: these settings set nothing"
        )

    def _leave_python(self) -> None:
        python, self._python = self._python, None
        if python is not None:
            assert python.stdin is not None
            assert python.stdout is not None
            python.stdin.close()
            python.wait(20)
            python.stdout.close()

    def _close(self) -> None:
        self._leave_python()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGTERM)
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(20)
        eventually(lambda: not _group_lives(self._shell.pid), timeout=40)
        if self._url is None:
            subprocess.run(
                [sys.executable, "-m", "pgtask", "db", "reset", "--yes"],
                cwd=self.directory,
                env=_environment(self.directory, None),
                check=True,
                capture_output=True,
            )


def first_missing(expected: Sequence[str], printed: Sequence[str]) -> str | None:
    """The first expected line that is not printed after the ones before it; None when all are.

    `...` stands for anything in a line, or for any lines; runs of blanks are as good as one blank.
    """
    rest = iter([" ".join(line.split()) for line in printed])
    for line in expected:
        wanted = " ".join(line.split())
        if wanted in ("", "..."):
            continue
        pattern = re.compile(".*".join(map(re.escape, wanted.split("..."))))
        if not any(pattern.fullmatch(found) for found in rest):
            return line
    return None


def _environment(directory: Path, url: str | None) -> dict[str, str]:
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # psql of the server under test, where the machine has none of its own.
    psql = embedded_place.find_binaries(os.environ).bindir
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}:{psql}"
    environment |= {
        "HOME": str(directory),
        "TERM": "dumb",
        "COLUMNS": "100",
        "TZ": "UTC",
        # A file that is written twice within a second must not be taken from the cache.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if url is not None:
        environment["DATABASE_URL"] = url
    return environment


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
