"""Statement: one operation as a value: what to send, and how to read what returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Statement(Generic[T]):
    """One round trip: the text, with %(name)s placeholders, its parameters, and the reader.

    Sync and async brokers run the same statement; they differ only in who awaits it.
    """

    text: LiteralString
    params: Mapping[str, Any]
    parse: Callable[[Sequence[Row]], T]


def nothing(rows: Sequence[Row]) -> None:
    """Read a statement that answers nothing."""


def scalar(rows: Sequence[Row]) -> Any:
    """Read the first column of the only row."""
    return rows[0][0]


# Array literals: building one here is several times cheaper than adapting each element.
def array_of_numbers(values: Iterable[int]) -> str:
    """Return them as PostgreSQL writes an array."""
    return "{" + ",".join(map(str, values)) + "}"


def array_of_texts(values: Iterable[str | None]) -> str:
    """Return them as PostgreSQL writes an array."""
    return (
        "{"
        + ",".join(
            [
                "NULL"
                if value is None
                else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
                for value in values
            ]
        )
        + "}"
    )
