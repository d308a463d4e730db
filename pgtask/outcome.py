"""How an attempt ended, as a child tells its supervisor: the Outcome union, and Failure."""

from __future__ import annotations

import traceback
from typing import TypeAlias

import msgspec

MAX_TRACEBACK = 16_384
MAX_MESSAGE = 4_096


class Failure(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What went wrong, as text that PostgreSQL can store."""

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, exception: BaseException) -> Failure:
        """The exception as data; never raises, whatever its __str__ does."""
        kind = type(exception)
        name = kind.__qualname__
        if kind.__module__ != "builtins":
            name = f"{kind.__module__}.{name}"
        try:
            message = str(exception)
        except Exception as error:  # noqa: BLE001 - user code again: it must not hide the failure
            message = f"<no message: its __str__ raised {type(error).__name__}>"
        try:
            text = "".join(traceback.format_exception(exception))
        except Exception as error:  # noqa: BLE001 - as above, for __repr__, __notes__ and the like
            text = f"<no traceback: formatting it raised {type(error).__name__}>"
        return cls(
            _storable(name, MAX_MESSAGE),
            _storable(message, MAX_MESSAGE),
            _storable(text, MAX_TRACEBACK),
        )


class Succeeded(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=0):
    """`result` is JSON, None for a task that returned None."""

    result: str | None = None


class Failed(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """Failed for good; `reason` as in pgtask.jobs: error, timeout, crashed, ..."""

    failure: Failure
    reason: str = "error"


class Retried(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """To be tried again after `delay` seconds; without a failure when the task asked for it."""

    failure: Failure | None
    delay: float


class Snoozed(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """To be run again after `seconds`, this attempt not counted."""

    seconds: float


class Cancelled(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """Ended by a cancellation."""


class Committed(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=5):
    """Finished already, in the task's own transaction."""


class Crashed(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=6):
    """The task would have ended its process; tried again after `delay` seconds, if at all."""

    failure: Failure
    delay: float


class InDoubt(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=7):
    """Committed, or rolled back with the connection: the answer to the COMMIT was lost."""

    failure: Failure


class TimedOut(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=8):
    """Stopped at its hard limit; tried again after `delay` seconds, if at all."""

    failure: Failure
    delay: float


Outcome: TypeAlias = (
    Succeeded | Failed | Retried | Snoozed | Cancelled | Committed | Crashed | InDoubt | TimedOut
)


def _storable(text: str, limit: int) -> str:
    """No NUL, no lone surrogate, at most `limit` bytes: the start and, mostly, the end."""
    encoded = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")
    if len(encoded) > limit:
        # The end of a traceback names the exception, the start only says where it was called.
        gap = b"\n...\n"
        head = limit // 4
        encoded = encoded[:head] + gap + encoded[len(encoded) - (limit - head - len(gap)) :]
    return encoded.decode("utf-8", "ignore")
