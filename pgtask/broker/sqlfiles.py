"""The files of sql/ as the migrator sees them: numbered migrations, and repeatable objects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path

from pgtask.errors import BrokerError

_MIGRATION = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_HEADER = ("what", "why", "previous release", "oldest release")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of sql/migrations: applied once, in order of number."""

    number: int
    name: str
    text: str
    checksum: str
    what: str
    oldest_release: str

    @property
    def path(self) -> str:
        return f"migrations/{self.number:04}_{self.name}.sql"


@dataclass(frozen=True, slots=True)
class Repeatable:
    """One file of sql/functions or sql/views: applied again whenever its text changed."""

    path: str
    text: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Tree:
    """All of sql/. Repeatables stand in the order they are applied: functions, then views."""

    migrations: tuple[Migration, ...]
    repeatables: tuple[Repeatable, ...]


def sql_root() -> Traversable:
    """The sql/ folder of the running code: the one in the wheel, else the checkout's."""
    installed = files("pgtask") / "_sql"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "sql"


def read_tree(root: Traversable | None = None) -> Tree:
    """Read and check every file under `root` (default: the running code's own)."""
    root = sql_root() if root is None else root
    if not (root / "migrations").is_dir():
        raise BrokerError(f"there are no migrations in {root} → install pgtask again")
    migrations = tuple(_migration(name, text) for name, text in _texts(root, "migrations"))
    for earlier, later in pairwise(migrations):
        if earlier.number == later.number:
            raise BrokerError(f"{earlier.path} and {later.path} have one number → renumber one")
    repeatables = tuple(
        Repeatable(f"{folder}/{name}", text, _checksum(text))
        for folder in ("functions", "views")
        for name, text in _texts(root, folder)
    )
    return Tree(migrations, repeatables)


def version(release: str) -> tuple[int, ...]:
    """The numbers of a release, to compare: "0.10.1rc1" is (0, 10, 1), "1.0" equals "1"."""
    leading = re.match(r"\d+(?:\.\d+)*", release.strip())
    numbers = [int(part) for part in leading[0].split(".")] if leading else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _texts(root: Traversable, folder: str) -> Iterator[tuple[str, str]]:
    if not (root / folder).is_dir():
        return
    for file in sorted((root / folder).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            # A checkout with CRLF line ends holds the same SQL, and must have the same checksum.
            yield file.name, file.read_text("utf-8").replace("\r\n", "\n")


def _migration(name: str, text: str) -> Migration:
    parts = _MIGRATION.fullmatch(name)
    if parts is None:
        raise BrokerError(f"migrations/{name} → name it NNNN_words.sql")
    comment = re.match(r"(?:--[^\n]*\n)*", text)
    header = dict(re.findall(r"^-- ([a-z ]+): *(.+)$", comment[0] if comment else "", re.MULTILINE))
    for key in _HEADER:
        if key not in header:
            raise BrokerError(f"migrations/{name} does not say `-- {key}: …` → add it at the top")
    if not version(header["oldest release"]):
        raise BrokerError(
            f"migrations/{name}: `-- oldest release:` must be like 0.1.0 → correct it"
        )
    return Migration(
        int(parts[1]), parts[2], text, _checksum(text), header["what"], header["oldest release"]
    )


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
