"""Sizes: written with a unit, counted in bytes."""

from __future__ import annotations

import pytest

from pgtask.size import parse_size, show_size

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("300MB", 300 * MB),
        ("300 mb", 300 * MB),
        ("300M", 300 * MB),
        ("300MiB", 300 * MB),
        ("1.5GB", 1536 * MB),
        ("512kB", MB // 2),
        ("2T", 2 * MB * MB),
        ("4096", 4096),
        (4096, 4096),
        ("1", 1),
    ],
)
def test_a_size_is_a_number_with_or_without_a_unit(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "0", "0MB", "-1", "MB", "3PB", "1e9", "0.1", 0, -1, True, 1.5]
)
def test_what_is_no_size_is_refused_with_what_to_write(text: object) -> None:
    with pytest.raises(ValueError, match="at least one byte → write 300MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(300 * MB, "300MB"), (1536 * MB, "1.5GB"), (4096, "4kB"), (1023, "1023 bytes")],
)
def test_a_size_is_shown_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert show_size(size) == text
