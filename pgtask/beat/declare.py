"""Declare: what the app's code says about schedules, asked in a process of its own.

The beat never imports the app: code that hangs, or ends the process, costs no tick.
Started as `python -m pgtask.beat.declare APP`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

import msgspec

from pgtask.worker.zygote import heard, tell


class Declared(msgspec.Struct, array_like=True, tag="declared"):
    """The app's name and its schedules, each as an object with a key for each column."""

    app: str
    schedules: list[msgspec.Raw]


async def declared_by(spec: str, dsn: str) -> Declared:
    """What the code declares now. Raises AppNotFound."""
    asked = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pgtask.beat.declare",
        spec,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        # Limits of calls are settings; reading them must not depend on a database being named.
        env={**os.environ, "PGTASK_DSN": dsn},
        # Ctrl-C is for the beat, which then has no more use for an answer.
        start_new_session=True,
    )
    try:
        output, _ = await asked.communicate()
    finally:
        if asked.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                asked.kill()
            await asked.wait()
    return heard(spec, output, asked.returncode or 0, Declared)


def _declared(app: Any) -> Declared:
    definitions = app.definitions()
    return Declared(app.name, [msgspec.Raw(msgspec.json.encode(d.row())) for d in definitions])


if __name__ == "__main__":
    tell(sys.argv[1], _declared)
