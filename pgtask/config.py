"""The settings of a process: what each may be, where it may come from, and where it did."""

from __future__ import annotations

import difflib
import functools
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pgtask.errors import ConfigError
from pgtask.size import parse_size

DAY = 86_400.0
# A queue name, or a pattern of them.
_QUEUES = re.compile(r"[A-Za-z0-9_.:*?-]{1,128}")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_CONFIG_FILE = "pgtask.toml"
_PYPROJECT = "pyproject.toml"
_LIBPQ = ("PGSERVICE", "PGHOST", "PGDATABASE")

# Read by other parts of pgtask, by its tests, or by click: not settings, and not typing errors.
_NOT_SETTINGS = re.compile(
    r"PGTASK_(CONFIG|PG_BINDIR|FAILPOINT.*|UPDATE_SNAPSHOT|TEST_.*|WORKER_.*|COMPLETE.*)"
)
# Names that people try before they have read the reference.
_GUESSES = {
    "url": "dsn",
    "database_url": "dsn",
    "database": "dsn",
    "broker": "dsn",
    "broker_url": "dsn",
    "queue": "queues",
    "workers": "concurrency",
    "processes": "concurrency",
    "poll_interval": "poll",
    "loglevel": "log_level",
    "max_tasks_per_child": "max_jobs_per_child",
    "pgbouncer": "pooler",
    "pool_mode": "pooler",
}
# Kubernetes sets these in every pod beside a service called pgtask, or pgtask-something.
_OF_KUBERNETES = re.compile(
    r"PGTASK_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
# More than a typing slip away from a setting's name is somebody else's variable. Two letters
# swapped in a name of three (DNS) are 0.67.
_LOOKS_LIKE_OURS = 0.66


@dataclass(frozen=True, slots=True)
class Config:
    """What a process was told; `sources` says for each field who told it.

    `dsn` is None for the embedded server and "" when libpq's own variables decide. Durations are
    seconds, `max_payload` and `max_memory_per_child` are bytes.
    """

    dsn: str | None = field(default=None, repr=False)
    app: str | None = None
    embedded: Literal["auto", "always", "never"] = "auto"
    queues: tuple[str, ...] = ("*",)
    concurrency: int | None = None
    poll: float = 1.0
    grace: float = 25.0
    reload: bool = False
    reload_dir: tuple[str, ...] = ()
    health: str | None = None
    async_concurrency: int = 100
    max_jobs_per_child: int | None = None
    max_memory_per_child: int | None = None
    cancel_grace: float = 5.0
    retention: float = 7 * DAY
    max_payload: int = 1_048_576
    listen_dsn: str | None = field(default=None, repr=False)
    pooler: Literal["auto", "transaction", "none"] = "auto"
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


def load(
    flags: Mapping[str, object],
    code: Mapping[str, object],
    environ: Mapping[str, str],
    directory: Path,
) -> Config:
    """The settings in force: flags beat environment beats file beats code beats default.

    `flags` and `code` hold field names; None means "not given". `flags["config"]`, or
    PGTASK_CONFIG, names the one file to read; otherwise pgtask.toml and [tool.pgtask] of
    pyproject.toml in `directory` are read, the first winning key by key. Raises ConfigError.
    """
    layers = [
        _given(flags, lambda name: "--" + name.replace("_", "-")),
        _from_environment(environ),
        *_from_files(flags, environ, directory),
        _given(code, lambda name: "App(...)"),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in SETTINGS:
        sources[name] = "default"
        for layer in layers:
            if name in layer:
                value, sources[name] = layer[name]
                values[name] = _checked(name, value, sources[name])
                break
    _decide_database(values, sources, environ)
    return Config(**values, sources=MappingProxyType(sources))


def parse_duration(text: str) -> float:
    """Seconds in "90s", "5m", "1h30m", "7d", "250ms" or a bare number; ConfigError otherwise.

    >>> parse_duration("1h30m")
    5400.0
    """
    stripped = text.strip()
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", stripped)
    if parts and "".join(f"{n}{u}" for n, u in parts) == re.sub(r"\s+", "", stripped):
        return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        seconds = float(stripped)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(f"{text!r} is not a duration → write 90s, 5m, 2h, 7d or seconds")
    return seconds


def host_and_port(text: str) -> tuple[str, int]:
    """The two halves of "127.0.0.1:8080", "[::1]:8080" or ":8080", where no host means all of them.

    Raises ValueError.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("is no HOST:PORT → write 127.0.0.1:8080, or :8080 for every address")
    if (":" in host or not re.fullmatch(r"\S*", host)) and not bracketed:
        raise ValueError("has a host that cannot be → put an IPv6 address in brackets: [::1]:8080")
    return host.strip("[]"), int(port)


def redact(dsn: str) -> str:
    """The DSN with every password in it replaced by ***."""
    # Greedy up to the last "@": an unescaped "@" or "/" in a password must not let its rest show.
    return _without_words(re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", dsn, flags=re.DOTALL))


def redact_text(text: str) -> str:
    """The text with the passwords of the DSNs in it replaced by ***.

    A URL ends at the first blank here: what stands behind it is the text's own.
    """
    return _without_words(re.sub(r"(://[^:/@?\s]*):\S*@", r"\1:***@", text))


def _without_words(text: str) -> str:
    return re.sub(
        r"\b((?:ssl)?password|oauth_client_secret)(\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&]+)",
        r"\1\2***",
        text,
        flags=re.IGNORECASE,
    )


def near(word: str, words: list[str] | tuple[str, ...]) -> str:
    """`, did you mean "x"?` for the nearest of the words, or nothing."""
    found = difflib.get_close_matches(word, words, n=1)
    return f", did you mean {found[0]!r}?" if found else ""


@functools.cache
def release() -> str:
    """The version of the running code."""
    # Found by the console script, not by the distribution's name, which may change with the
    # publisher and stands in pyproject.toml alone.
    pyproject = Path(__file__).parents[1] / _PYPROJECT
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text("utf-8")).get("project", {})
        if project.get("scripts", {}).get("pgtask") == "pgtask.cli:main":
            return str(project["version"])
    from importlib import metadata

    for script in metadata.entry_points(group="console_scripts", name="pgtask"):
        if script.value == "pgtask.cli:main" and script.dist is not None:
            return script.dist.version
    return "0+unknown"


# ------------------------------------------------------------------------------------------------


_Layer = dict[str, tuple[object, str]]


def _given(values: Mapping[str, object], source: Callable[[str], str]) -> _Layer:
    layer: _Layer = {}
    for name, value in values.items():
        if name != "config" and value is not None:
            _known(name, source(name))
            layer[name] = (value, source(name))
    return layer


def _from_environment(environ: Mapping[str, str]) -> _Layer:
    layer: _Layer = {}
    for variable, value in environ.items():
        if not variable.startswith("PGTASK_") or _NOT_SETTINGS.fullmatch(variable):
            continue
        if _OF_KUBERNETES.fullmatch(variable):
            continue
        name = variable.removeprefix("PGTASK_").lower()
        if name not in SETTINGS:
            meant = _GUESSES.get(name) or next(
                iter(difflib.get_close_matches(name, SETTINGS, n=1, cutoff=_LOOKS_LIKE_OURS)), None
            )
            if meant is not None:
                raise ConfigError(
                    f"the environment variable {variable} is not a setting → "
                    f"did you mean PGTASK_{meant.upper()}?"
                )
        elif value != "":
            layer[name] = (value, variable)
    return layer


def _from_files(
    flags: Mapping[str, object], environ: Mapping[str, str], directory: Path
) -> list[_Layer]:
    named = flags.get("config") or environ.get("PGTASK_CONFIG")
    if named:
        path = directory / str(named)
        if not path.is_file():
            raise ConfigError(f"there is no configuration file {path} → check --config")
        return [_from_file(path, str(named))]
    found = [directory / _CONFIG_FILE, directory / _PYPROJECT]
    return [_from_file(path, path.name) for path in found if path.is_file()]


def _from_file(path: Path, source: str) -> _Layer:
    try:
        table: object = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source} cannot be read: {error} → correct the file") from error
    if path.name == _PYPROJECT:
        source = f"[tool.pgtask] in {source}"
        tool = table.get("tool", {}) if isinstance(table, dict) else {}
        table = tool.get("pgtask", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{source} is not a table → write [tool.pgtask] and keys under it")
    for name in table:
        _known(name, source)
    return {name: (value, source) for name, value in table.items()}


def _known(name: str, source: str) -> None:
    if name in SETTINGS:
        return
    hint = f", did you mean {_GUESSES[name]!r}?" if name in _GUESSES else near(name, SETTINGS)
    raise ConfigError(
        f"{source}: unknown setting {name!r}{hint} → the settings are {', '.join(SETTINGS)}"
    )


def _checked(name: str, value: object, source: str) -> object:
    try:
        return _CHECKS[name](value)
    except ValueError as error:
        shown = redact(value) if isinstance(value, str) else value
        raise ConfigError(f"{name} = {shown!r} ({source}): {error}") from error


def _decide_database(
    values: dict[str, Any], sources: dict[str, str], environ: Mapping[str, str]
) -> None:
    embedded = values.get("embedded", "auto")
    if embedded == "always":
        if sources["dsn"] == "--dsn":
            raise ConfigError(
                f"--dsn names a database, but embedded = 'always' ({sources['embedded']}) asks "
                "for the private one → drop one of them, or add --no-embedded"
            )
        values["dsn"] = None
        sources["dsn"] = f"embedded ({sources['embedded']})"
        return
    if "dsn" in values:
        return
    url = environ.get("DATABASE_URL", "")
    # A DATABASE_URL that leads to SQLite or MySQL is the application's business, not an error here.
    if re.match(r"(postgres|postgresql|postgis)(\+\w+)?://", url):
        values["dsn"], sources["dsn"] = _checked("dsn", url, "DATABASE_URL"), "DATABASE_URL"
    elif any(environ.get(variable) for variable in _LIBPQ):
        values["dsn"], sources["dsn"] = "", "libpq environment"
    elif embedded == "never":
        raise ConfigError(
            f"no database is named, and the embedded one is switched off ({sources['embedded']}) "
            "→ give --dsn, or set PGTASK_DSN"
        )


# --- what each setting may be: a function that returns the value, or raises ValueError -----------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text → put it in quotes")
    return value.strip()


def _dsn(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text → put it in quotes")
    dsn = value.strip()
    scheme, separator, rest = dsn.partition("://")
    if separator and re.fullmatch(r"\w+(\+\w+)?", scheme):
        if scheme.split("+")[0] not in ("postgres", "postgresql", "postgis"):
            raise ValueError(f"{scheme}:// is not PostgreSQL → use postgresql://user@host/database")
        # asyncpg spells sslmode "ssl"; libpq refuses the word.
        return "postgresql://" + re.sub(
            r"([?&])ssl=(disable|allow|prefer|require|verify-ca|verify-full)\b",
            r"\1sslmode=\2",
            rest,
        )
    if dsn and "=" not in dsn:
        raise ValueError(
            "is no connection string → use postgresql://user@host/database or 'host=… dbname=…'"
        )
    return dsn


def _embedded(value: object) -> str:
    word = str(value).strip().lower()
    meaning = {
        **dict.fromkeys(("always", "true", "1", "yes", "on"), "always"),
        **dict.fromkeys(("never", "false", "0", "no", "off"), "never"),
        "auto": "auto",
    }
    if word not in meaning:
        raise ValueError("is none of auto, always, never → use one of them")
    return meaning[word]


def _queues(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError('must be a list of names → write "a,b" or ["a", "b"]')
    names = tuple(dict.fromkeys(item.strip() for item in items if item.strip()))
    for name in names:
        if not _QUEUES.fullmatch(name):
            raise ValueError(
                f"{name!r} is no queue name → use 1 to 128 letters, digits, or any of _ . : -,"
                " and * or ? in a pattern"
            )
    if not names:
        raise ValueError('names no queue → write "*" for all of them')
    return names


def _switch(value: object) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("is neither true nor false → use one of them")


def _paths(value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError('must be a list of directories → write "a,b" or ["a", "b"]')
    return tuple(dict.fromkeys(item.strip() for item in items if item.strip()))


def _address(value: object) -> str:
    text = _text(value)
    host_and_port(text)
    return text


def _count(least: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"must be a whole number of at least {least} → change it")
        return value

    return check


def _seconds(least: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, str):
            seconds = parse_duration(value)
        elif isinstance(value, timedelta):
            seconds = value.total_seconds()
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        else:
            seconds = math.nan
        if not math.isfinite(seconds) or seconds < least:
            raise ValueError(f"must be a duration of at least {least:g} s → write 90s, 5m, 2h, 7d")
        return seconds

    return check


def _one_of(*words: str, upper: bool = False) -> Callable[[object], str]:
    def check(value: object) -> str:
        word = str(value).strip()
        word = word.upper() if upper else word.lower()
        if word not in words:
            raise ValueError(f"is none of {', '.join(words)}{near(word, words)} → use one of them")
        return word

    return check


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_CHECKS: dict[str, Callable[[object], object]] = {
    "dsn": _dsn,
    "app": _text,
    "embedded": _embedded,
    "queues": _queues,
    "concurrency": _count(1),
    "poll": _seconds(0.01),
    "grace": _seconds(0.0),
    "reload": _switch,
    "reload_dir": _paths,
    "health": _address,
    "async_concurrency": _count(1),
    "max_jobs_per_child": _count(1),
    "max_memory_per_child": parse_size,
    "cancel_grace": _seconds(0.0),
    "retention": _seconds(0.0),
    "max_payload": _count(1),
    "listen_dsn": _dsn,
    "pooler": _one_of("auto", "transaction", "none"),
    "log_level": _one_of(*LOG_LEVELS, upper=True),
    "log_format": _one_of("text", "json"),
}
SETTINGS = tuple(field.name for field in fields(Config) if field.name != "sources")
