"""Finding the user's App: by -A, by the settings, or in app.py or tasks.py."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

from pgtask.app import App, default_app
from pgtask.errors import AppNotFound

USUAL = ("app", "tasks")
_OURS = f"{Path(__file__).parent}/"


def find_spec(spec: str | None, directory: Path) -> str | None:
    """The spec to load: the one given, else the usual module in `directory`; None without any."""
    if spec:
        return spec
    for name in USUAL:
        if (directory / f"{name}.py").is_file() or (directory / name / "__init__.py").is_file():
            return name
    return None


def load_app(spec: str | None, directory: Path) -> App:
    """Import the App that `spec` ("module:attribute" or "module") means, `directory` first.

    A module without an App, whose tasks were made by the module-level @task, gives the default
    app. Raises AppNotFound, with the user's own traceback as a note when their code failed.
    """
    found = find_spec(spec, directory)
    if found is None:
        raise no_app(directory)
    name, colon, attribute = found.partition(":")
    module = _import(name, found, directory)
    app = _attribute(module, attribute, found) if colon else _only(module, found)
    try:
        with _ctrl_c_apart():
            app.load()
    except _Pressed:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise _broken(f"one of {list(app.imports)}", error) from error
    return app


def no_app(directory: Path) -> AppNotFound:
    """The error for a directory where nothing says which app is meant."""
    return AppNotFound(
        "no app: there is no -A, no PGTASK_APP, no app in pgtask.toml, and neither app.py nor "
        f"tasks.py in {directory} → give -A module:app"
    )


def _import(name: str, spec: str, directory: Path) -> ModuleType:
    if name.endswith(".py") or "/" in name or not name:
        guess = name.removeprefix("./").removesuffix(".py").strip("/").replace("/", ".")
        raise AppNotFound(
            f"-A takes a module, not a file, got {spec!r} → write -A {guess or 'app'}"
        )
    if sys.path[:1] != [str(directory)]:
        sys.path.insert(0, str(directory))
    try:
        with _ctrl_c_apart():
            return importlib.import_module(name)
    except _Pressed:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise AppNotFound(
                f"there is no module {error.name!r}: tried {spec!r}, with {directory} first on "
                "sys.path → check -A and the directory"
            ) from error
        raise _broken(repr(name), error) from error
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise _broken(repr(name), error) from error


class _Pressed(KeyboardInterrupt):
    """Somebody pressed Ctrl-C; a module that raises KeyboardInterrupt itself is broken."""


@contextmanager
def _ctrl_c_apart() -> Iterator[None]:
    """Have Ctrl-C raise _Pressed, where it would have raised KeyboardInterrupt."""

    def press(number: int, frame: FrameType | None) -> NoReturn:
        raise _Pressed

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        # The user's module may have set a handler of its own.
        if signal.getsignal(signal.SIGINT) is press:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _broken(what: str, error: BaseException) -> AppNotFound:
    summary = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
    broken = AppNotFound(f"importing {what} failed: {summary} → correct the module")
    broken.add_note(_trimmed(error))
    return broken


def _trimmed(error: BaseException) -> str:
    """The user's own frames: without those of pgtask and of the import system."""
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(
        [
            frame
            for frame in told.stack
            if not frame.filename.startswith((_OURS, "<frozen importlib"))
            and frame.filename != importlib.__file__
        ]
    )
    return "".join(told.format(chain=False))


def _attribute(module: ModuleType, path: str, spec: str) -> App:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part, None)
    if isinstance(value, App):
        return value
    what = "is not there" if value is None else f"is of type {type(value).__name__}, not an App"
    names = ", ".join(f"{module.__name__}:{name}" for name in _apps(module))
    raise AppNotFound(
        f"{spec!r} {what} → "
        + (f"give -A {names}" if names else f"make one: {path} = App({path!r})")
    )


def _only(module: ModuleType, spec: str) -> App:
    apps = _apps(module)
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if "app" in apps:
        return apps["app"]
    if apps:
        names = ", ".join(f"{spec}:{name}" for name in apps)
        raise AppNotFound(f"module {spec!r} has several apps → give one with -A: {names}")
    if default_app().tasks:
        return default_app()
    raise AppNotFound(
        f"module {spec!r} was imported, but has neither an App nor a @task → "
        "make one: app = App(...), or give another module with -A"
    )


def _apps(module: ModuleType) -> dict[str, App]:
    return {name: value for name, value in vars(module).items() if isinstance(value, App)}
