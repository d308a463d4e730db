"""An environment for each peer, made at the first need in a folder that outlives the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from bench.catalog import Product
from bench.words import say
from pgtask.config import release

_VERSIONS = """
from importlib.metadata import distributions
for found in distributions():
    print(found.name.lower(), found.version)
"""


class NotAvailable(Exception):
    """This peer cannot be measured here; the text says why."""


class Environments:
    """Where the peers are installed; asks a registry only for what is not there yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def command(self, product: Product) -> list[str]:
        """The words that start its program, after installing what it needs.

        Raises NotAvailable.
        """
        if product.language == "this":
            return [sys.executable, "-m", f"bench.peers.{product.program}"]
        if product.language == "node":
            self._node(product)
            node = _found("node")
            return [node, str(Path(__file__).parent / "peers" / product.program)]
        return [str(self._python(product)), "-m", f"bench.peers.{product.program}"]

    def home(self, product: Product) -> Path:
        """The folder of its environment."""
        name = product.program if product.language == "python" else product.language
        return self._folder / name

    def versions(self, product: Product) -> dict[str, str]:
        """The versions of what runs: the product, its driver, the interpreter."""
        if product.language == "this":
            found = {name: metadata.version(name) for name in ("psycopg", "msgspec")}
            return {"pgtask": release(), **found, "python": _version(None)}
        if product.language == "node":
            told = _run(["npm", "ls", "--prefix", str(self.home(product)), "--depth=0"]).stdout
            named = [word.rpartition("@") for word in told.split() if word.rpartition("@")[0]]
            node = _run([_found("node"), "--version"]).stdout.strip().lstrip("v")
            return {name: version for name, _, version in named} | {"node": node}
        python = self._python(product)
        wanted = {_bare(each) for each in product.requirements} | {"psycopg", "redis", "asyncpg"}
        pairs = (line.split() for line in _run([str(python), "-c", _VERSIONS]).stdout.splitlines())
        return {name: version for name, version in pairs if name in wanted} | {
            "python": _version(python)
        }

    def _python(self, product: Product) -> Path:
        home = self.home(product)
        python = home / "bin" / "python"
        with _made_once(home, product) as missing:
            if missing:
                interpreter = _interpreter(product.python)
                say(f"installing {', '.join(product.requirements)}")
                _run([interpreter, "-m", "venv", "--without-pip", "--clear", str(home)])
                _run(
                    [*_pip(interpreter), "--python", str(python), *_INSTALL, *product.requirements]
                )
        return python

    def _node(self, product: Product) -> None:
        home = self.home(product)
        npm = _found("npm")
        with _made_once(home, product) as missing:
            if missing:
                say(f"installing {', '.join(product.requirements)}")
                home.mkdir(parents=True, exist_ok=True)
                quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
                _run([npm, "install", "--prefix", str(home), *quiet, *product.requirements])


_INSTALL = ["install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]


@contextlib.contextmanager
def _made_once(home: Path, product: Product) -> Iterator[bool]:
    """Yield whether it must be made: a folder without the note of what is in it is not whole."""
    note, wanted = home / "made", "\n".join(product.requirements)
    missing = not note.is_file() or note.read_text() != wanted
    if missing:
        shutil.rmtree(home, ignore_errors=True)
    yield missing
    if missing:
        note.write_text(wanted)


def _interpreter(oldest: tuple[int, int]) -> str:
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    candidates = [base, "python3", *(f"python3.{minor}" for minor in range(11, 15))]
    # A shim of pyenv on PATH runs only the versions that are switched on.
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    candidates += [str(path) for path in sorted(root.glob("versions/3.*/bin/python3"))]
    check = f"import sys; print(sys.executable); sys.exit(sys.version_info < {oldest})"
    for name in candidates:
        with contextlib.suppress(OSError):
            told = subprocess.run([name, "-c", check], capture_output=True, text=True, check=False)
            if told.returncode == 0:
                return told.stdout.strip()
    raise NotAvailable(f"it needs Python {oldest[0]}.{oldest[1]} or later, and there is none")


def _pip(interpreter: str) -> list[str]:
    """A pip that can install into another environment: the interpreter's, ours, or our base's."""
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    for python in (interpreter, base, sys.executable):
        told = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
        if told.returncode == 0:
            return [python, "-m", "pip"]
    raise NotAvailable("there is no pip to install it with; install python3-pip")


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise NotAvailable(f"there is no {program}; install it, and run this again")
    return path


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    told = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if told.returncode != 0:
        end = " ".join((told.stderr or told.stdout).strip().splitlines()[-3:])[-400:]
        raise NotAvailable(f"{Path(command[0]).name} failed: {end}")
    return told


def _version(python: Path | None) -> str:
    if python is None:
        return ".".join(map(str, sys.version_info[:3]))
    return _run(
        [str(python), "-c", "import platform; print(platform.python_version())"]
    ).stdout.strip()


def _bare(requirement: str) -> str:
    return requirement.partition("==")[0].partition(">=")[0].partition("[")[0].lower()
