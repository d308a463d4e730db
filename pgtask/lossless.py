"""Finds the value that JSON cannot carry, or would change on the way, and says where it is."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

import msgspec

MAX_DEPTH = 64
MAX_SHOWN = 60  # characters of a value in a message


class Fault(NamedTuple):
    """A place in the user's terms (`items[3].sku`) and what is wrong there."""

    path: str
    message: str


def shown(value: Any) -> str:
    """The value's repr for a message, clipped; never raises, whatever the value's class does."""
    text = " ".join(_repr.repr(value).split())
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def unfit(value: Any, path: str, depth: int = 0) -> Fault | None:
    """The first thing inside that must not be sent: NaN, NUL, a lone surrogate, an object."""
    if isinstance(value, str):
        return _unfit_text(value, path)
    if isinstance(value, float):
        if math.isfinite(value):
            return None
        return Fault(path, f"JSON has no {value!r}; send None or a string")
    if value is None or isinstance(value, (int, Enum)):
        return None
    if depth == MAX_DEPTH:
        return Fault(path, f"nested deeper than {MAX_DEPTH} levels")
    inside = _inside(value, path)
    if inside is None:
        return _unencodable(value, path)
    for place, item in inside:
        fault = unfit(item, place, depth + 1)
        if fault is not None:
            return fault
    return None


def difference(given: Any, back: Any, path: str) -> Fault | None:
    """The first place where what comes back out of JSON is not what was given.

    What is written in another of its JSON forms passes (an ISO string for a datetime parameter,
    a dict for a dataclass, a tuple for a list, an int for a float): the task receives the type
    it asked for. What would reach the task as another type than it was given does not.
    """
    if given is back:
        return None
    if isinstance(back, Enum):
        return None if given == back or given == back.value else _mismatch(given, back, path)
    if back is None or isinstance(back, (bool, int, float, str)):
        whole = isinstance(back, float) and isinstance(given, int)
        return None if whole or isinstance(given, type(back)) else _mismatch(given, back, path)
    if isinstance(back, (list, tuple)):
        if not isinstance(given, (list, tuple)) or len(given) != len(back):
            return _mismatch(given, back, path)
        pairs = enumerate(zip(given, back, strict=True))
        return _first(difference(a, b, f"{path}[{index}]") for index, (a, b) in pairs)
    if isinstance(back, (set, frozenset)):
        if not isinstance(given, (list, tuple, set, frozenset)):
            return _mismatch(given, back, path)
        strangers = (item for item in given if item not in back and not isinstance(item, str))
        return _first(Fault(path, f"{item!r} would arrive as another value") for item in strangers)
    if isinstance(back, dict):
        return _difference_of_keys(given, back, path)
    names = _fields(back)
    if names is None:
        # A rich scalar: the same type, or a form it is written in.
        same = isinstance(given, (type(back), str, int, float))
        binary = isinstance(back, (bytes, bytearray)) and isinstance(given, (bytearray, memoryview))
        return None if same or binary else _mismatch(given, back, path)
    if isinstance(given, dict):
        unknown = [key for key in given if key not in names]
        if unknown:
            return Fault(path, f"{type(back).__name__} has no field {unknown[0]!r}")
        pairs_by_name = [(names[key], item) for key, item in given.items()]
    elif type(given) is type(back):
        pairs_by_name = [(name, getattr(given, name)) for name in names.values()]
    else:
        return _mismatch(given, back, path)
    return _first(
        difference(item, getattr(back, name), f"{path}.{name}") for name, item in pairs_by_name
    )


def _difference_of_keys(given: Any, back: dict[Any, Any], path: str) -> Fault | None:
    if not isinstance(given, dict):
        return _mismatch(given, back, path)
    if len(given) != len(back):
        lost = next((key for key in given if key not in back), None)
        return Fault(path, f"the key {lost!r} would be lost")
    for (key, item), (key_back, item_back) in zip(given.items(), back.items(), strict=True):
        if key != key_back and (isinstance(key_back, str) or not isinstance(key, str)):
            return Fault(
                path,
                f"the key {key!r} would arrive as {key_back!r}; JSON's keys are strings unless "
                "the annotation says otherwise, as dict[int, str] does",
            )
        fault = difference(item, item_back, f"{path}[{key!r}]")
        if fault is not None:
            return fault
    return None


def _mismatch(given: Any, back: Any, path: str) -> Fault:
    wanted, name = type(back).__name__, type(given).__name__
    if back is None:
        return Fault(path, f"`{name}` would arrive as None")
    if isinstance(given, type(back)) or wanted == name:
        got = f"got `{type(given).__qualname__}` ({shown(given)})"
        return Fault(path, f"expected `{wanted}`, {got}")
    return Fault(
        path,
        f"expected `{wanted}`, got `{name}` ({shown(given)}); annotate {name} where the task "
        "takes one",
    )


def _first(faults: Iterator[Fault | None]) -> Fault | None:
    return next((fault for fault in faults if fault is not None), None)


def _inside(value: Any, path: str) -> Iterator[tuple[str, Any]] | None:
    """The values inside with their paths; None for a leaf."""
    if isinstance(value, dict):
        return _items(value, path)
    if isinstance(value, (list, tuple, set, frozenset)):
        return ((f"{path}[{index}]", item) for index, item in enumerate(value))
    names = _fields(value)
    if names is None:
        return None
    return ((f"{path}.{n}", getattr(value, n)) for n in names.values() if hasattr(value, n))


def _items(value: dict[Any, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        yield f"the key {key!r} of {path}", key
        yield f"{path}[{key!r}]", item


def _fields(value: Any) -> dict[str, str] | None:
    """JSON name → attribute of a Struct, dataclass or attrs object; None for anything else."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return dict(zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True))
    if hasattr(kind, "__dataclass_fields__"):
        return {name: name for name in kind.__dataclass_fields__}
    if hasattr(kind, "__attrs_attrs__"):
        return {field.name: field.name for field in kind.__attrs_attrs__}
    return None


def _unfit_text(text: str, path: str) -> Fault | None:
    if "\0" in text:
        return Fault(path, "PostgreSQL cannot store the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Fault(path, f"lone surrogate {text[error.start]!r} is not valid Unicode")
    return None


def _unencodable(value: Any, path: str) -> Fault | None:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        return Fault(path, str(error))
    return None


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = MAX_SHOWN
