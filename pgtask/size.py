"""Sizes of memory as people write them: 300MB, 1.5GB, or a number of bytes."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_size(value: object) -> int:
    """Bytes in 300MB, 1.5GiB, 512k or a number; a kB is 1024 bytes, as in PostgreSQL.

    Raises ValueError for what is no size, and for less than one byte.

    >>> parse_size("300MB")
    314572800
    """
    size = 0
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", value, re.IGNORECASE)
        if found:
            size = int(float(found[1]) * _UNITS[found[2].lower()])
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    if not 1 <= size < 2**63:
        raise ValueError("must be a size of at least one byte → write 300MB, 1.5GB or bytes")
    return size


def show_size(size: int) -> str:
    """The size in the largest unit in which it is at least one: 300MB, 1.5GB."""
    for unit in ("TB", "GB", "MB", "kB"):
        in_unit = size / _UNITS[unit[0].lower()]
        if in_unit >= 1:
            return f"{in_unit:.1f}".removesuffix(".0") + unit
    return f"{size} bytes"
