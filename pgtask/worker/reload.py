"""Reload: the app anew in the children, because a file changed or a HUP came."""

from __future__ import annotations

import asyncio
import importlib.machinery
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pgtask.errors import ConfigError
from pgtask.worker.brood import StartFailed
from pgtask.worker.children import Children
from pgtask.worker.claimer import Claimer
from pgtask.worker.pulse import Pulse
from pgtask.worker.service import Service

log = logging.getLogger("pgtask.worker")


async def reload_when_told(
    wanted: asyncio.Event,
    children: Children,
    claimer: Claimer,
    pulse: Pulse,
    service: Service,
    reloaded: Callable[[], None],
) -> None:
    """Give the children new code whenever `wanted` is set, and call `reloaded`, until cancelled.

    The supervisor, its connections, its lease and its id stay.
    """
    while True:
        await wanted.wait()
        wanted.clear()
        service.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        began = time.monotonic()
        known = set(children.tasks)
        try:
            await children.reload()
        except (ConfigError, StartFailed) as error:
            notes = "".join(f"\n{note.rstrip()}" for note in getattr(error, "__notes__", ()))
            log.error("not reloaded, the code of before goes on: %s%s", error, notes)
        else:
            claimer.start_over()
            now = set(children.tasks)
            log.info(
                "reloaded in %.1f s: %d tasks%s%s",
                time.monotonic() - began,
                len(now),
                _listed(", new: ", now - known),
                _listed(", gone: ", known - now),
            )
            reloaded()
            await pulse.learn(sorted(now))
        service.tell("READY=1")


async def watch(directories: Sequence[Path], wanted: asyncio.Event) -> None:
    """Set `wanted` when Python files below these directories change, until cancelled."""
    from watchfiles import PythonFilter, awatch

    async for changes in awatch(*directories, watch_filter=PythonFilter()):
        names = sorted({Path(path).name for _, path in changes})
        log.info("%s changed", ", ".join(names[:3]) + (", …" if len(names) > 3 else ""))
        wanted.set()


def watched(spec: str, directory: Path, given: Sequence[str]) -> list[Path]:
    """Return the directories to watch: those given, else the app's and the current one.

    Raises ConfigError when one is not there, or the package that watches is not installed.
    """
    try:
        import watchfiles  # noqa: F401 - an extra
    except ImportError as error:
        raise ConfigError(
            f"reload needs the package watchfiles ({error}) → python -m pip install watchfiles"
        ) from error
    for name in given:
        if not (directory / name).is_dir():
            raise ConfigError(f"reload_dir = {name!r}: there is no such directory → correct it")
    return [directory / name for name in given] or _of_app(spec, directory)


def _of_app(spec: str, directory: Path) -> list[Path]:
    # Found as the import will find it, but not imported.
    top = spec.partition(":")[0].partition(".")[0]
    found = importlib.machinery.PathFinder.find_spec(top, [str(directory), *sys.path])
    if found is None or found.origin is None:
        return [directory]
    home = Path(found.origin).parent
    return [directory] if home.is_relative_to(directory) else [directory, home]


def _listed(before: str, names: set[str]) -> str:
    return before + ", ".join(sorted(names)) if names else ""
