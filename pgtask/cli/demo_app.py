"""The demo's app: tasks that read the interpreter's own standard library into a table."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

from pgtask import App, current_job

app = App("demo", default_queue="demo")


@app.task(transaction=True)
def read_module(run: str, path: str, name: str) -> None:
    """Parse one file and write one row, in the transaction that completes this job."""
    source = Path(path).read_bytes()
    lines = source.count(b"\n")
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # the library ships files that are wrong on purpose
        nodes = []
    current_job().connection.execute(
        "insert into pgtask_demo.module (run, name, parsed, lines, functions, classes, imports)"
        " values (%s, %s, %s, %s, %s, %s, %s)",
        [
            run,
            name,
            bool(nodes),
            lines,
            sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes),
            sum(isinstance(node, ast.ClassDef) for node in nodes),
            sum(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes),
        ],
    )


@app.task(transaction=True)
def must_never_run(run: str) -> None:
    """Enqueued in a transaction that is rolled back."""
    current_job().connection.execute("insert into pgtask_demo.ghost (run) values (%s)", [run])


@app.task(max_attempts=3, backoff="const:0.2")
def third_time_lucky() -> int:
    """Fail twice, then succeed."""
    attempt = current_job().attempt
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt} fails on purpose")
    return attempt


@app.task
async def nap(seconds: float) -> float:
    """Sleep beside its neighbours, on one event loop."""
    await asyncio.sleep(seconds)
    return seconds


@app.task
def ping() -> None:
    """Do nothing: for measuring how soon an idle worker picks a job up."""


@app.task
def later() -> str:
    """Run when its time has come."""
    return "in time"


@app.task
def tick(run: str) -> None:
    """Say that a second has passed; a schedule of the demo's own calls it."""
