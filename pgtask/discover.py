"""Finding the user's App: by -A, by the settings, or in app.py or tasks.py."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from pgtask.app import App, default_app
from pgtask.errors import AppNotFound

USUAL = ("app", "tasks")


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
        app.load()
    except (Exception, SystemExit) as error:
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
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise AppNotFound(
                f"there is no module {error.name!r}: tried {spec!r}, with {directory} first on "
                "sys.path → check -A and the directory"
            ) from error
        raise _broken(repr(name), error) from error
    except (Exception, SystemExit) as error:
        raise _broken(repr(name), error) from error


def _broken(what: str, error: BaseException) -> AppNotFound:
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    broken = AppNotFound(f"importing {what} failed: {summary} → correct the module")
    broken.add_note(_trimmed(error))
    return broken


def _trimmed(error: BaseException) -> str:
    """The traceback without this file's frames and the import system's."""
    told = traceback.TracebackException.from_exception(error)
    told.stack = traceback.StackSummary.from_list(
        [
            frame
            for frame in told.stack
            if frame.filename not in (__file__, importlib.__file__)
            and not frame.filename.startswith("<frozen importlib")
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
