"""The tasks that are measured."""

from __future__ import annotations

import time

from pgtask import App

app = App("bench")


@app.task(keep="none")
def noop(x: int) -> None:
    return None


@app.task
def kept(x: int) -> int:
    return x


@app.task
def stamp(sent: int) -> int:
    """Nanoseconds from the sender's clock to the start of this body, on the same machine."""
    return time.time_ns() - sent
