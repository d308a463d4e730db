"""`pgtask init`: the three files a project begins with."""

from __future__ import annotations

import click

from pgtask.cli.session import Session, pass_session

_FILES = {
    "pgtask.toml": """\
# Settings of pgtask. `pgtask config` shows all of them, and where each comes from.
app = "tasks"

# The database, unless PGTASK_DSN names one. Without any, a private PostgreSQL is started.
# dsn = "postgresql://user@localhost/shop"

# queues = ["*"]
# concurrency = 4
# retention = "7d"
""",
    "tasks.py": '''\
"""The tasks of this project.

    pgtask migrate
    pgtask worker
    pgtask enqueue tasks.greet name=Ada --wait     (in a second terminal)
"""

from pgtask import App

app = App("tasks")


@app.task(name="tasks.greet")
def greet(name: str) -> str:
    return f"Hello, {name}!"
''',
    ".env.example": """\
# What the environment may say. It outranks pgtask.toml; options on the command line outrank it.
PGTASK_DSN=postgresql://user:password@localhost/shop
# PGTASK_QUEUES=default,mail
# PGTASK_CONCURRENCY=4
# PGTASK_LOG_LEVEL=INFO
""",
}


@click.command()
@pass_session
def init(session: Session) -> None:
    """Write pgtask.toml, tasks.py and .env.example here.

    A file that is there is kept as it is.
    """
    written, kept = [], []
    for name, text in _FILES.items():
        try:
            with (session.directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            kept.append(name)
        else:
            written.append(name)
    if session.json:
        session.document({"written": written, "kept": kept})
        return
    for name in written:
        session.data(f"wrote {name}")
    for name in kept:
        session.note(f"kept {name}: it was there")
    session.note("next: pgtask migrate, then pgtask worker")
