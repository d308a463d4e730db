"""Columns of plain text: what lists look like without rich, in a pipe as on a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = "") -> str:
    """Rows under headings, each column as wide as its widest cell.

    `right` lists the headings, separated by spaces, whose columns hold numbers.
    """
    numbers = right.split()
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(_width(text) for text in column) for column in zip(headings, *cells, strict=True)]
    lines = []
    for row in [list(headings), *cells]:
        line = "  ".join(
            _pad(text, width, right=heading in numbers)
            for text, width, heading in zip(row, widths, headings, strict=True)
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, object]]) -> str:
    """Names and values, the values aligned; a value of None leaves its line out."""
    shown = [(name, _cell(value)) for name, value in rows if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in shown)


def clipped(text: str, width: int) -> str:
    """The text on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _cell(value: object) -> str:
    # A job's data may hold line ends and escape sequences: neither may reach a terminal from here.
    text = "" if value is None else str(value)
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
