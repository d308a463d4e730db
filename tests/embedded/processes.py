"""Other processes that use an embedded server, and what is left of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgtask.embedded_keeper import command_line

HOLD = """
import json, sys
from pathlib import Path
from pgtask import embedded

home = Path(sys.argv[1])
held = embedded.lease(home, durable=False, linger=float(sys.argv[2]), quiet=True)
found = embedded.status(home, durable=False)
print(json.dumps([found.server_pid, found.keeper_pid, held.dsn]), flush=True)
sys.stdin.read()
"""


class Holding:
    """A process that holds a lease until it is told to end, or is killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the holder ended before it had a server"
        server_pid, keeper_pid, self.dsn = json.loads(line)
        self.server_pid = int(server_pid)
        self.keeper_pid = int(keeper_pid)


def launch(home: Path, linger: float = 0.5) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home), str(linger)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def holder(home: Path, linger: float = 0.5) -> Iterator[Holding]:
    with launch(home, linger) as process:
        try:
            yield Holding(process)
        finally:
            process.kill()


def is_alive(pid: int) -> bool:
    return bool(command_line(pid))


def ordinary_user_python(uid: int, gid: int) -> str | None:
    """An interpreter that the user can run: pytest's own may live in a home that is closed."""
    for program in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            checked = subprocess.run(
                [program, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"],
                user=uid,
                group=gid,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if checked.returncode == 0:
            return program
    return None


def modes(directory: Path) -> dict[Path, int]:
    """The mode of a directory and of all above it."""
    return {place: place.stat().st_mode for place in (directory, *directory.parents)}
