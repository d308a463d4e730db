"""Page and Block: what a page of documentation shows in its fences, and what is said about them.

The convention, for whoever writes a page:

- A fence has one of these words: `python` is run, `console` is typed into a shell, `sql` is sent
  in a transaction that is rolled back, `toml` is read as settings, `text` is only shown. Any other
  word, or none, fails the test; so does a fence that is indented or made of tildes.
- A comment on the line above a fence may say `<!-- file: NAME -->`: the block is written to that
  file, and a python file is imported. `exit()` leaves Python; the next block begins a new one.
  `<!-- output -->` above a `text` block: it is what the python
  block before it prints.
- `<!-- database: embedded -->` anywhere: the page starts from nothing, with the private server.
  Otherwise DATABASE_URL names a database that has been migrated and is empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = ("python", "console", "sql", "toml", "text")

_ABOVE = re.compile(r"<!-- (?:file: (?P<file>[\w./-]+)|(?P<output>output)) -->")
_OF_THE_PAGE = re.compile(r"<!-- (database|generated): \w+ -->")
_DATABASE = re.compile(r"^<!-- database: (\w+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block: its word, its text, the line it begins at, and what stands above it."""

    word: str
    text: str
    line: int
    file: str | None = None
    is_output: bool = False

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Of a console block: each command with the lines that it is to print."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and found[-1][0].endswith("\\"):
                found[-1] = (f"{found[-1][0][:-1]}{line.strip()}", [])
            elif not found:
                raise SyntaxError(f"line {self.line}: a console block begins with a command")
            else:
                found[-1][1].append(line)
        return found


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def is_embedded(self) -> bool:
        """Whether the page brings up its own server; it says so itself."""
        said = _DATABASE.findall(self.path.read_text("utf-8"))
        if said not in ([], ["embedded"]):
            raise SyntaxError(f"{self.name}: <!-- database: {said} --> is not known")
        return bool(said)

    def blocks(self) -> list[Block]:
        """Every fenced block, in order; SyntaxError for a fence that nobody would look at."""
        return blocks_of(self.path.read_text("utf-8"))


def pages() -> list[Page]:
    """README.md and every page under docs/."""
    return [Page(ROOT / "README.md"), *map(Page, sorted((ROOT / "docs").rglob("*.md")))]


def blocks_of(text: str) -> list[Block]:
    """The blocks of one page's text."""
    found: list[Block] = []
    above = ""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if re.match(r"\s+(```|~~~)|~~~|````|\t| {4}", line):
            raise SyntaxError(f"line {number}: code stands between three backticks, unindented")
        if not line.startswith("```"):
            above = line.strip() or above
            continue
        word = line[3:]
        if word not in WORDS:
            raise SyntaxError(f"line {number}: the word {word!r} is none of {', '.join(WORDS)}")
        inside: list[str] = []
        for _, content in lines:
            if content == "```":
                break
            inside.append(content)
        else:
            raise SyntaxError(f"line {number}: the fence is never closed")
        said = _ABOVE.fullmatch(above)
        if said is None and above.startswith("<!--") and not _OF_THE_PAGE.fullmatch(above):
            raise SyntaxError(f"line {number}: the comment {above} is not known")
        is_output = bool(said and said["output"])
        if is_output and word != "text":
            raise SyntaxError(f"line {number}: only a text block is the output of another")
        found.append(
            Block(word, "\n".join(inside) + "\n", number, said["file"] if said else None, is_output)
        )
        above = ""
    return found
