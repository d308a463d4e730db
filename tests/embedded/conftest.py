"""A place for a server that any user can reach: pytest's own directories are closed to others."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgtask import embedded
from pgtask.embedded_place import SYSTEM_STATE, settle


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pgtask-test-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def home(place: Path) -> Iterator[Path]:
    home = place / ".pgtask"
    yield home
    for durable in (True, False):
        embedded.stop(home, durable=durable, force=True)


@pytest.fixture
def closed_home(place: Path) -> Iterator[Path]:
    """A home below a directory that only its owner may enter."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    home = closed / ".pgtask"
    yield home
    embedded.stop(home, durable=False, force=True)
    stand_in = settle(home)
    if stand_in.parent == SYSTEM_STATE:
        shutil.rmtree(stand_in, ignore_errors=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
