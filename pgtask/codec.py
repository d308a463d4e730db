"""Python values ↔ JSON, by msgspec and the annotations of the task."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import astuple

from pgtask.errors import (
    ArgumentInvalid,
    ArgumentMismatch,
    CodecError,
    DecodeError,
    DefinitionError,
    PayloadTooLarge,
)
from pgtask.lossless import MAX_DEPTH, Fault, difference, shown, unfit
from pgtask.parameters import Parameters, UnresolvedAnnotation

MAX_PAYLOAD = 1_048_576
_TOO_LARGE = '["pgtask: this result was too large to be kept",'

_encoder = msgspec.json.Encoder()
_array = msgspec.json.Decoder(list[Raw])
_object = msgspec.json.Decoder(dict[str, Raw])
_unencodable = (TypeError, ValueError, OverflowError, RecursionError)
_place = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$\.?(?P<path>.*)`)?$", re.DOTALL)


class CallCodec:
    """Encodes and decodes the calls of one function; made once per task.

    A call is an array of the positional values and an object of the others, None when there are
    none. Parameters that may be given either way go to the array; defaults are not sent, so a
    worker with newer defaults uses its own.
    """

    def __init__(self, function: Callable[..., Any], *, task: str, bind: bool = False) -> None:
        self.task = task
        self.parameters = Parameters(function, task=task, bind=bind)
        self._signature = self.parameters.signature
        kinds = [p.kind for p in self.parameters.taken]
        required = [p for p in self.parameters.taken if p.default is inspect.Parameter.empty]
        if inspect.Parameter.VAR_POSITIONAL in kinds or any(
            p.kind is inspect.Parameter.KEYWORD_ONLY for p in required
        ):
            # No call of this function can skip binding.
            self._fewest, self._most = 1, 0
        else:
            self._fewest = sum(p.kind in _positional for p in required)
            self._most = sum(kind in _positional for kind in kinds)
        self._array: msgspec.json.Decoder[Any] | None = None
        self._named: msgspec.json.Decoder[Any] | None = None
        self._result: msgspec.json.Decoder[Any] | None = None
        # The names that a decorator runs before may come later: then the first use decides.
        try:
            self._build()
            self._build_result()
        except UnresolvedAnnotation:
            pass

    def encode(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        max_payload: int = MAX_PAYLOAD,
    ) -> tuple[str, str | None]:
        """The call as JSON, checked as the child will check it.

        Raises ArgumentMismatch, ArgumentInvalid or PayloadTooLarge, before any SQL.
        """
        if kwargs or not self._fewest <= len(args) <= self._most:
            bound = self.bind(args, kwargs)
            args, kwargs = bound.args, bound.kwargs
        try:
            args_json = _encoder.encode(args)
            kwargs_json = _encoder.encode(kwargs) if kwargs else b""
        except _unencodable as error:
            raise self._invalid(self._unfit(args, kwargs), error) from error
        size = len(args_json) + len(kwargs_json)
        if size > max_payload:
            raise self._too_large(args, kwargs, size, max_payload)
        if _doubtful(args_json) or (kwargs_json and _doubtful(kwargs_json)):
            fault = self._unfit(args, kwargs)
            if fault is not None:
                raise self._invalid(fault)
        text = args_json.decode()
        named = kwargs_json.decode() if kwargs_json else None
        try:
            args_back, kwargs_back = self.decode(text, named)
        except ArgumentInvalid as error:
            fault = self._unfit(args, kwargs)
            if fault is not None:
                raise self._invalid(fault) from error
            raise
        if args_back != tuple(args) or kwargs_back != kwargs:
            self._refuse_differences(args, kwargs, args_back, kwargs_back)
        return text, named

    def decode(
        self, args_json: str | bytes, kwargs_json: str | bytes | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call as the function takes it, with the types of its annotations.

        Raises ArgumentMismatch or ArgumentInvalid for a call that does not fit, as one from
        another language or from an older program may.
        """
        if self._array is None or self._named is None:
            self._build_now()
        if (not kwargs_json or kwargs_json in ("{}", b"{}")) and self._most >= self._fewest:
            try:
                values = astuple(self._array.decode(args_json))  # type: ignore[union-attr]  # built above
            except (msgspec.DecodeError, RecursionError):
                pass  # the general way says which parameter and why
            else:
                while values and values[-1] is UNSET:
                    values = values[:-1]
                return values, {}
        return self._decode_named(args_json, kwargs_json)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentMismatch(f"{self.task}(): {error}") from None

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter with the value the function would see, defaults included."""
        bound = self.bind(args, kwargs)
        bound.apply_defaults()
        return bound.arguments

    def decode_result(self, text: str | bytes | None) -> Any:
        """What the task returned, in the type of its return annotation."""
        if text is None:
            return None
        if self._result is None:
            try:
                self._build_result()
            except UnresolvedAnnotation as error:
                raise DefinitionError(str(error)) from error
        assert self._result is not None
        try:
            return self._result.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise DecodeError(
                f"the result of {self.task} does not fit its return annotation: {error}"
            ) from error

    def _build(self) -> None:
        taken = self.parameters.taken
        types = self.parameters.types()
        fields: list[tuple[str, Any, Any]] = []
        for index, parameter in enumerate(taken):
            kind: Any = types[parameter.name]
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                kind = tuple[kind, ...]
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kind = dict[str, kind]
            # UNSET tells "not given" from every value; msgspec does not check defaults.
            fields.append((f"p{index}", kind, UNSET))
        rename = {f"p{index}": parameter.name for index, parameter in enumerate(taken)}
        positional = [
            (name, kind) if index < self._fewest else (name, kind, default)
            for index, (name, kind, default) in enumerate(fields)
            if taken[index].kind in _positional
        ]
        try:
            self._named = msgspec.json.Decoder(msgspec.defstruct("Named", fields, rename=rename))
            self._array = msgspec.json.Decoder(
                msgspec.defstruct(
                    "Positional",
                    positional if self._most else [],
                    array_like=True,
                    forbid_unknown_fields=True,
                )
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise DefinitionError(f"task {self.task!r}: {error}") from error

    def _build_now(self) -> None:
        try:
            self._build()
        except UnresolvedAnnotation as error:
            raise DefinitionError(str(error)) from error

    def _build_result(self) -> None:
        self._result = msgspec.json.Decoder(self.parameters.result_type())

    def _decode_named(
        self, args_json: str | bytes, kwargs_json: str | bytes | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            given = _array.decode(args_json)
            named = _object.decode(kwargs_json) if kwargs_json else {}
        except (msgspec.DecodeError, RecursionError) as error:
            raise ArgumentInvalid(
                f"{self.task}(): the arguments are an array and an object of JSON: {error}"
            ) from error
        bound = self.bind(given, named)
        text = _encoder.encode(bound.arguments)
        try:
            values = self._named.decode(text)  # type: ignore[union-attr]  # built by decode()
        except msgspec.ValidationError as error:
            match = _place.match(str(error))
            assert match is not None
            what = match["what"].replace("Expected", "expected", 1)
            if match["key"]:
                what += " (a key)"
            else:
                what += _culprit(what, match["path"], text)
            raise ArgumentInvalid(f"{self.task}(): argument {match['path']!r}: {what}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ArgumentInvalid(f"{self.task}(): {error}") from error
        return self._spread(astuple(values))

    def _spread(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        gap = False
        for parameter, value in zip(self.parameters.taken, values, strict=True):
            if value is UNSET:
                # Past a default, positions no longer say which parameter is meant.
                gap = True
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY or gap:
                kwargs[parameter.name] = value
            else:
                args.append(value)
        return tuple(args), kwargs

    def _places(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """The values sent, each with the name of its parameter."""
        names = [p.name for p in self.parameters.taken if p.kind in _positional]
        rest = next(
            (p.name for p in self.parameters.taken if p.kind is inspect.Parameter.VAR_POSITIONAL),
            "",
        )
        names += [f"{rest}[{index}]" for index in range(len(args) - len(names))]
        return [*zip(names, args, strict=False), *kwargs.items()]

    def _unfit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Fault | None:
        for name, value in self._places(args, kwargs):
            fault = unfit(value, name)
            if fault is not None:
                return fault
        return None

    def _refuse_differences(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        args_back: Sequence[Any],
        kwargs_back: Mapping[str, Any],
    ) -> None:
        given = dict(self._places(args, kwargs))
        back = dict(self._places(args_back, kwargs_back))
        for name, value in given.items():
            fault = difference(value, back[name], name)
            if fault is not None:
                raise self._invalid(fault)

    def _invalid(self, fault: Fault | None, error: Exception | None = None) -> ArgumentInvalid:
        if fault is None:
            return ArgumentInvalid(f"{self.task}(): the arguments cannot be encoded: {error}")
        path = fault.path if len(fault.path) <= 120 else f"{fault.path[:80]}…{fault.path[-30:]}"
        return ArgumentInvalid(f"{self.task}(): argument {path!r}: {fault.message}")

    def _too_large(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], size: int, max_payload: int
    ) -> PayloadTooLarge:
        sizes = {n: len(_encoder.encode(value)) for n, value in self._places(args, kwargs)}
        largest = max(sizes, key=sizes.__getitem__)
        return PayloadTooLarge(
            f"{self.task}(): the arguments take {size} bytes as JSON, more than the limit of "
            f"{max_payload}; the largest is {largest!r} with {sizes[largest]}. Store it and send "
            "its id, or raise max_payload"
        )


def _culprit(what: str, path: str, text: bytes) -> str:
    """The value at the path in the JSON, in brackets, where its type is what was wrong."""
    got = re.search(r"got `(\w+)`$", what)
    kinds = _KINDS.get(got[1]) if got else None
    if kinds is None:
        return ""
    steps = re.findall(r"\[(\d+|\.\.\.)\]|([^.\[\]]+)", path)
    # A path does not say which key of a dict it was: all of the wrong type there are wrong.
    found = (v for v in _reached(msgspec.json.decode(text), steps) if type(v) in kinds)
    return next((f" ({shown(value)})" for value in found), "")


def _reached(value: Any, steps: Sequence[tuple[str, str]]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    (index, name), *rest = steps
    inside: Iterable[Any] = ()
    if name:
        inside = (value[name],) if isinstance(value, dict) and name in value else ()
    elif index == "...":
        inside = value.values() if isinstance(value, dict) else ()
    elif isinstance(value, list) and int(index) < len(value):
        inside = (value[int(index)],)
    for item in inside:
        yield from _reached(item, rest)


# What msgspec calls a JSON value, and what it is in Python.
_KINDS: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (float,),
    "str": (str,),
    "array": (list,),
    "object": (dict,),
}
_positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def encode_untyped(
    args: Sequence[Any], kwargs: Mapping[str, Any], *, task: str, max_payload: int = MAX_PAYLOAD
) -> tuple[str, str | None]:
    """The call of a task that is not registered here: any arguments, but plain JSON only."""
    if not isinstance(args, (tuple, list)):
        raise ArgumentMismatch(f"{task}(): args must be a tuple or list of arguments, got {args!r}")
    return _untyped(task).encode(args, kwargs, max_payload)


@lru_cache(maxsize=256)
def _untyped(task: str) -> CallCodec:
    def anything(*args, **kwargs): ...  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN003, ANN202 - unannotated means plain JSON

    return CallCodec(anything, task=task)


def encode_result(value: Any) -> str:
    """The JSON of what a task returned; raises CodecError for what JSON cannot carry."""
    return _encode(value, "result")


def placeholder_of(size: int, limit: int) -> str:
    """What is stored in place of a result that takes more bytes than it may."""
    return f"{_TOO_LARGE}{size},{limit}]"


def refused_size(result: str | None) -> tuple[int, int] | None:
    """(size, limit) where the result was too large to be kept; None for any other."""
    if result is None or not result.startswith(_TOO_LARGE):
        return None
    size, limit = result.removeprefix(_TOO_LARGE).rstrip("]").split(",")
    return int(size), int(limit)


def encode_exact(value: Any, name: str) -> str:
    """The JSON of a value that must come back as it is; raises CodecError with the place."""
    text = _encode(value, name)
    fault = difference(value, msgspec.json.decode(text), name)
    if fault is not None:
        raise CodecError(f"{fault.path}: {fault.message}")
    return text


def _encode(value: Any, name: str) -> str:
    try:
        encoded = _encoder.encode(value)
    except _unencodable as error:
        fault = unfit(value, name)
        raise CodecError(f"{fault.path}: {fault.message}" if fault else str(error)) from error
    if _doubtful(encoded):
        fault = unfit(value, name)
        if fault is not None:
            raise CodecError(f"{fault.path}: {fault.message}")
    return encoded.decode()


def decode_result(text: str | bytes | None, type: Any = Any) -> Any:
    """A stored result as `type`; raises DecodeError when it does not fit."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DecodeError(f"the stored result does not fit {type!r}: {error}") from error


def _doubtful(encoded: bytes) -> bool:
    """Whether the values must be looked at: these bytes may hide NaN, NUL or too many levels."""
    return (
        b"null" in encoded
        or b"\\u0000" in encoded
        or (len(encoded) > 2 * MAX_DEPTH and encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH)
    )
