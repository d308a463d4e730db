"""What a task's function takes: its parameters, their types, and whether JSON can carry them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import msgspec.inspect

from pgtask.errors import DefinitionError

EMPTY = inspect.Parameter.empty


class Injected:
    """The default that marks a parameter the worker fills; see `injected`."""

    def __repr__(self) -> str:
        return "injected()"


_INJECTED = Injected()


def injected() -> Any:
    """The default of a parameter that gets the transaction's connection or session: no argument.

    Only tasks with transaction= can have one:

        @app.task(transaction=True)
        def settle(order_id: int, connection: psycopg.Connection = injected()) -> None: ...

        settle.delay(7)
    """
    return _INJECTED


class UnresolvedAnnotation(Exception):
    """An annotation names something that does not exist yet; try again at first use."""


class Parameters:
    """The parameters that `.delay()` fills: neither the context of bind=True nor injected ones."""

    def __init__(self, function: Callable[..., Any], *, task: str, bind: bool) -> None:
        self.task = task
        self._function = function
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise DefinitionError(
                f"task {task!r}: {function!r} has no readable signature; wrap it in a def"
            ) from error
        parameters = list(signature.parameters.values())
        if bind:
            positional = (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
            if not parameters or parameters[0].kind not in positional:
                raise DefinitionError(
                    f"task {task!r}: bind=True passes the context as the first argument, "
                    "but the function takes no positional one"
                )
            del parameters[0]
        self.injected = tuple(p.name for p in parameters if isinstance(p.default, Injected))
        self._check_injected(parameters)
        self.taken = [p for p in parameters if not isinstance(p.default, Injected)]
        self.signature = inspect.Signature([p.replace(annotation=EMPTY) for p in self.taken])
        self._returns = signature.return_annotation

    def _check_injected(self, parameters: list[inspect.Parameter]) -> None:
        by_position = False
        for parameter in parameters:
            if isinstance(parameter.default, Injected):
                by_position = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
            elif by_position and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise DefinitionError(
                    f"task {self.task!r}: parameter {parameter.name!r} follows an injected one, so "
                    "its position would mean two things; put injected() parameters last"
                )

    def types(self) -> dict[str, Any]:
        """Each parameter's type, Any without an annotation; for *args the type of one."""
        return {p.name: self._type(f"parameter {p.name!r}", p.annotation) for p in self.taken}

    def result_type(self) -> Any:
        if self._returns in (typing.NoReturn, typing.Never):
            return None
        return self._type("the result", self._returns)

    def _type(self, what: str, annotation: Any) -> Any:
        if annotation is EMPTY:
            return Any
        resolved = self._resolve(what, annotation)
        try:
            misfit = _misfit(msgspec.inspect.type_info(resolved))
        except (NameError, AttributeError) as error:
            raise UnresolvedAnnotation(f"{what} of task {self.task!r}: {error}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise DefinitionError(f"task {self.task!r}: {what}: {error}") from error
        if misfit is not None:
            raise DefinitionError(
                f"task {self.task!r}: {what} is annotated {_name(annotation)}, but JSON cannot "
                f"carry {_name(misfit)}; pass an id and load the object in the task, or use a "
                "dataclass, msgspec.Struct, TypedDict or a plain type"
            )
        return resolved

    def _resolve(self, what: str, annotation: Any) -> Any:
        # One annotation at a time: a name that only a type checker can see spoils its own only.
        holder = SimpleNamespace(__annotations__={"it": annotation})
        scope = getattr(inspect.unwrap(self._function), "__globals__", {})
        try:
            hints = typing.get_type_hints(holder, globalns=scope, include_extras=True)
        except (NameError, AttributeError) as error:
            raise UnresolvedAnnotation(
                f"task {self.task!r}: the annotation of {what}, {_name(annotation)}, cannot be "
                f"resolved: {error}; make the name importable at run time in "
                f"{self._function.__module__}, not only under TYPE_CHECKING or in a function"
            ) from error
        except (TypeError, SyntaxError) as error:
            raise DefinitionError(
                f"task {self.task!r}: the annotation of {what}, {_name(annotation)}, is no type: "
                f"{error}"
            ) from error
        return hints["it"]


def _misfit(info: msgspec.inspect.Type) -> Any:
    """The first class inside that msgspec would hand to a hook, or None."""
    seen: set[int] = set()
    pending: list[Any] = [info]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType) and node.cls is not object:
            return node.cls
        if isinstance(node, (msgspec.inspect.ExtType, msgspec.inspect.RawType)):
            return type(node)
        pending.extend(_inside(node))
    return None


def _inside(node: Any) -> Iterator[Any]:
    nested = (msgspec.inspect.Type, msgspec.inspect.Field)
    for name in node.__struct_fields__:
        value = getattr(node, name)
        if isinstance(value, nested):
            yield value
        elif isinstance(value, tuple):
            yield from (item for item in value if isinstance(item, nested))


def _name(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type):
        module = annotation.__module__
        return (
            annotation.__qualname__
            if module == "builtins"
            else f"{module}.{annotation.__qualname__}"
        )
    return str(annotation)
