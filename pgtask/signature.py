"""Signature and its options: a call that is not enqueued yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, TypedDict

import msgspec

from pgtask.codec import encode_exact
from pgtask.errors import BadOption, CodecError
from pgtask.retry import Backoff, parse_backoff, parse_jitter, parse_seconds
from pgtask.schedule import Schedule
from pgtask.size import parse_size

MAX_COUNT = 32_767
MAX_KEY = 512
MAX_TAG = 128
MAX_HEADERS = 65_536

Seconds: TypeAlias = float | timedelta
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_BRACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class PeriodicOptions(TypedDict, total=False):
    """What can be said about a call beside a recurrence, whose jitter is another."""

    queue: str | None
    priority: int | None
    max_attempts: int | None
    backoff: Backoff | None
    timeout: Seconds | None
    soft_timeout: Seconds | None
    memory_limit: int | str | None
    countdown: Seconds | None
    eta: datetime | None
    expires: Seconds | datetime | None
    key: str | None
    on_conflict: Literal["replace", "keep", "raise"] | None
    serial: str | None
    keep: Literal["all", "failures", "none"] | None
    result_ttl: Seconds | None
    on_crash: Literal["retry", "fail"] | None
    max_crashes: int | None
    tags: Sequence[str] | None
    headers: Mapping[str, Any] | None


class Options(PeriodicOptions, total=False):
    """What can be said about one call; durations in seconds or as timedelta, instants aware.

    None stands for "as by default". `key` and `serial` may hold `{parameter}` placeholders, which
    the call's arguments fill; a literal brace is written twice.
    """

    jitter: float | None


class TaskOptions(Options, total=False):
    """What can be said about a task: beside the defaults of its calls, what it is.

    (`bind` stands in the decorator's own signature, because it changes the function's type.)
    """

    name: str | None
    retry_for: type[BaseException] | tuple[type[BaseException], ...]
    give_up_on: type[BaseException] | tuple[type[BaseException], ...]
    transaction: bool | Callable[[], Any]
    schedule: Schedule | str | None


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options after validation; None is the default. `headers` is JSON text."""

    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    backoff: str | tuple[float, ...] | Callable[[int], float | timedelta] | None = None
    jitter: float | None = None
    timeout: float | None = None
    soft_timeout: float | None = None
    memory_limit: int | None = None
    delay: float | None = None
    run_at: datetime | None = None
    expires_in: float | None = None
    expires_at: datetime | None = None
    key: str | None = None
    on_conflict: str | None = None
    serial: str | None = None
    keep: str | None = None
    result_ttl: float | None = None
    on_crash: str | None = None
    max_crashes: int | None = None
    tags: tuple[str, ...] = ()
    headers: str | None = None

    def policy_json(self) -> str | None:
        """What the job carries for its worker, as JSON; None when nothing was said."""
        policy = {
            # A default that was said is sent: it may overrule what the task itself says.
            "backoff": None if callable(self.backoff) else self.backoff,
            "jitter": self.jitter,
            "timeout": self.timeout,
            "soft_timeout": self.soft_timeout,
            "memory_limit": self.memory_limit,
            "on_crash": "fail" if self.on_crash == "fail" else None,
            "result_ttl": self.result_ttl,
        }
        said = {name: value for name, value in policy.items() if value is not None}
        return msgspec.json.encode(said).decode() if said else None

    @property
    def has_placeholders(self) -> bool:
        return _has_braces(self.key) or _has_braces(self.serial)

    def headers_json(self) -> str | None:
        return self.headers

    def signature(
        self,
        task: str,
        args: str,
        kwargs: str | None,
        arguments: Callable[[], Mapping[str, Any]],
    ) -> Signature:
        """The call with these options; `arguments` are asked only to fill placeholders."""
        if not self.has_placeholders:
            return Signature(task, args, kwargs, self, self.key, self.serial)
        values = arguments()
        key = _filled("key", self.key, values)
        serial = _filled("serial", self.serial, values)
        return Signature(task, args, kwargs, self, key, serial)


@dataclass(frozen=True, slots=True)
class Signature:
    """A call by name: positional arguments as a JSON array, the others as an object or None.

    `key` and `serial` are those of the options with their placeholders filled.
    """

    task: str
    args: str
    kwargs: str | None
    options: CallOptions
    key: str | None = None
    serial: str | None = None


def validate(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of CallOptions that were said, checked; raises BadOption."""
    said: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _OPTIONS:
            raise unknown_option(name)
        if value is None:
            said.update(dict.fromkeys(_FIELDS.get(name, (name,))))
        elif name == "eta":
            said.update(run_at=_instant(name, value), delay=None)
        elif name == "countdown":
            said.update(delay=parse_seconds(name, value), run_at=None)
        elif name == "expires" and isinstance(value, datetime):
            said.update(expires_at=_instant(name, value), expires_in=None)
        elif name == "expires":
            said.update(expires_in=parse_seconds(name, value), expires_at=None)
        else:
            said[name] = _OPTIONS[name](name, value)
    if given.get("countdown") is not None and given.get("eta") is not None:
        raise BadOption("countdown and eta both say when to start; give one")
    return said


def merge(*layers: Mapping[str, Any]) -> CallOptions:
    """The options of a call from validated layers, the last one winning; raises BadOption."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    if merged.get("tags") is None:
        merged.pop("tags", None)
    options = CallOptions(**merged)
    if None not in (options.timeout, options.soft_timeout):
        assert options.timeout is not None
        assert options.soft_timeout is not None
        if options.soft_timeout >= options.timeout:
            raise BadOption(
                f"soft_timeout ({options.soft_timeout:g} s) does not come before timeout "
                f"({options.timeout:g} s); the soft limit must be the smaller one"
            )
    if options.expires_in is not None and options.run_at is None:
        starts_in = options.delay or 0.0
        if options.expires_in <= starts_in:
            raise BadOption(
                f"expires ({options.expires_in:g} s) is not after the start "
                f"({starts_in:g} s from now): the job could never run"
            )
    if options.expires_at and options.run_at and options.expires_at <= options.run_at:
        raise BadOption(
            f"expires ({options.expires_at}) is not after eta ({options.run_at}): "
            "the job could never run"
        )
    return options


def placeholders(options: CallOptions) -> set[str]:
    """The parameter names that key and serial ask for."""
    names: set[str] = set()
    for option, template in (("key", options.key), ("serial", options.serial)):
        for match in _BRACE.finditer(template or ""):
            if match[1] is not None:
                names.add(_placeholder(option, template or "", match))
    return names


def check_task_name(name: Any) -> str:
    return _name("name", name)


def check_queue_name(name: Any) -> str:
    return _name("queue", name)


def check_schedule_name(name: Any) -> str:
    return _name("the name of a schedule", name)


def check_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadOption(f"{name} must be True or False, got {value!r}")
    return value


def check_exceptions(name: str, value: Any) -> tuple[type[BaseException], ...]:
    kinds = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise BadOption(f"{name} must be exception classes, got {kind!r}")
    return kinds


def unknown_option(name: str) -> BadOption:
    """The error for an option that does not exist here, with what to write instead."""
    if name in _ELSEWHERE:
        return BadOption(f"{name} is not an option of pgtask: {_ELSEWHERE[name]}")
    if name in _OF_THE_TASK:
        return BadOption(f"{name} belongs to the task: give it to the decorator, not to a call")
    import difflib

    near = difflib.get_close_matches(name, [*_OPTIONS, *_OF_THE_TASK], n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(sorted(_OPTIONS))}"
    return BadOption(f"unknown option {name!r}{hint}")


def _filled(option: str, template: str | None, arguments: Mapping[str, Any]) -> str | None:
    if template is None or not _has_braces(template):
        return template

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        name = _placeholder(option, template, match)
        if name not in arguments:
            raise BadOption(
                f"{option} {template!r}: the call has no argument {name!r}; it has: "
                f"{', '.join(arguments) or 'none'}"
            )
        return str(arguments[name])

    return _key(option, _BRACE.sub(value, template), template_too=False)


def _placeholder(option: str, template: str, match: re.Match[str]) -> str:
    name = match[1]
    if name is None or not name.isidentifier():
        raise BadOption(
            f"{option} {template!r}: a placeholder is the plain name of a parameter, "
            f"as {{user_id}}, not {match[0]!r}"
        )
    return name


def _has_braces(text: str | None) -> bool:
    return text is not None and ("{" in text or "}" in text)


def _name(option: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise BadOption(
            f"{option} must be 1 to 128 of the characters A-Z a-z 0-9 _ . : -, got {value!r}"
        )
    return value


def _key(option: str, value: Any, *, template_too: bool = True) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY:
        raise BadOption(f"{option} must be a string of 1 to {MAX_KEY} characters, got {value!r}")
    _check_text(option, value)
    if template_too:
        for match in _BRACE.finditer(value):
            if match[0] in "{}":
                raise BadOption(
                    f"{option} {value!r}: a single {match[0]!r}; write {match[0] * 2!r} for the "
                    "character itself"
                )
            if match[1] is not None:
                _placeholder(option, value, match)
    return value


def _check_text(option: str, value: str) -> None:
    if "\0" in value:
        raise BadOption(f"{option} {value!r}: PostgreSQL cannot store the character NUL")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadOption(f"{option} {value!r} is not valid Unicode") from error


def _whole(least: int, most: int) -> Callable[[str, Any], int]:
    def check(option: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadOption(f"{option} must be an integer from {least} to {most}, got {value!r}")
        return int(value)

    return check


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def check(option: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise BadOption(f"{option} must be one of {', '.join(words)}; got {value!r}")
        return value

    return check


def _limit(option: str, value: Any) -> float:
    seconds = parse_seconds(option, value)
    if seconds == 0:
        raise BadOption(f"{option} must be more than 0 seconds, got {value!r}")
    return seconds


def _size(option: str, value: Any) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise BadOption(f"{option} = {value!r}: {error}") from error


def _instant(option: str, value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise BadOption(f"{option} must be a datetime with a time zone, got {value!r}")
    if value.utcoffset() is None:
        otherwise = "use countdown" if option == "eta" else "give seconds"
        raise BadOption(
            f"{option} {value.isoformat()} has no time zone; add one, as "
            f"datetime(..., tzinfo=ZoneInfo('Europe/Vienna')), or {otherwise}"
        )
    return value


def _tags(option: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise BadOption(f"{option} must be a list of strings, got {value!r}")
    tags = tuple(dict.fromkeys(value))
    for tag in tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= MAX_TAG:
            raise BadOption(f"{option}: each is a string of 1 to {MAX_TAG} characters, got {tag!r}")
        _check_text(option, tag)
    return tags


def _headers(option: str, value: Any) -> str | None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise BadOption(f"{option} must be a mapping with string keys, got {value!r}")
    try:
        text = encode_exact(dict(value), option)
    except CodecError as error:
        raise BadOption(str(error)) from error
    if len(text) > MAX_HEADERS:
        raise BadOption(
            f"{option} take {len(text)} bytes as JSON, more than {MAX_HEADERS}; "
            "send large values as arguments"
        )
    return text if value else None


_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "queue": _name,
    "priority": _whole(-100, 100),
    "max_attempts": _whole(1, MAX_COUNT),
    "backoff": lambda option, value: parse_backoff(value),
    "jitter": lambda option, value: parse_jitter(value),
    "timeout": _limit,
    "soft_timeout": _limit,
    "memory_limit": _size,
    "countdown": parse_seconds,
    "eta": _instant,
    "expires": parse_seconds,
    "key": _key,
    "on_conflict": _one_of("replace", "keep", "raise"),
    "serial": _key,
    "keep": _one_of("all", "failures", "none"),
    "result_ttl": parse_seconds,
    "on_crash": _one_of("retry", "fail"),
    "max_crashes": _whole(1, MAX_COUNT),
    "tags": _tags,
    "headers": _headers,
}
_FIELDS = {
    "countdown": ("delay", "run_at"),
    "eta": ("delay", "run_at"),
    "expires": ("expires_in", "expires_at"),
}
_OF_THE_TASK = ("name", "bind", "transaction", "retry_for", "give_up_on", "schedule")
# Celery's spellings: an option that is ignored in silence would be worse than an error.
_ELSEWHERE = {
    "max_retries": "write max_attempts, which counts every execution: max_retries + 1",
    "autoretry_for": "write retry_for",
    "dont_autoretry_for": "write give_up_on",
    "default_retry_delay": 'write backoff="const:SECONDS"',
    "retry_backoff": 'write backoff ("exp", "linear:S", a list of seconds)',
    "retry_backoff_max": "write backoff, as a list of seconds; its last one repeats",
    "retry_jitter": "write jitter, a fraction from 0 to 1",
    "retry_kwargs": "write max_attempts and backoff",
    "retry": "write max_attempts; the enqueue itself is part of your transaction",
    "retry_policy": "write max_attempts and backoff",
    "connection": "call .using(connection)",
    "producer": "call .using(connection)",
    "time_limit": "write timeout, in seconds",
    "soft_time_limit": "write soft_timeout, in seconds",
    "task_id": "ids come from the database; for one job at most, write key",
    "ignore_result": 'write keep="failures" or keep="none"',
    "acks_late": 'jobs are always acknowledged late; the opposite is on_crash="fail"',
    "acks_on_failure_or_timeout": "write max_attempts=1",
    "reject_on_worker_lost": 'lost jobs are always run again; the opposite is on_crash="fail"',
    "task_reject_on_worker_lost": 'lost jobs are run again; the opposite is on_crash="fail"',
    "result_expires": "write result_ttl, in seconds",
    "routing_key": "write queue",
    "exchange": "write queue",
    "add_to_chord": "follow-up jobs belong to the task's own body",
    "shadow": "write name in the decorator, or tags",
    "serializer": "arguments are always JSON, typed by the annotations",
    "compression": "arguments are always JSON",
    "track_started": "a running job is always visible as running",
    "link": "enqueue the next task in the body of the first",
    "link_error": "enqueue the follow-up where the failure is handled",
}
assert {f.name for f in fields(CallOptions)} >= set(_OPTIONS) - set(_FIELDS)
