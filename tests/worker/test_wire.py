"""Frames: what goes into the pipe comes out of it, however the bytes arrive."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from pgtask.broker.attempts import Claimed
from pgtask.outcome import Failed, Failure, Outcome, Retried, Snoozed, Succeeded
from pgtask.worker import wire

OUTCOMES: list[Outcome] = [
    Succeeded('{"a": "ä"}'),
    Succeeded(),
    Failed(Failure("ValueError", "no", "trace")),
    Retried(None, 1.5),
    Snoozed(0.5),
]


def frame_of(kind: int) -> tuple[list[wire.Run], list[wire.Report]]:
    runs = [wire.Run(1, 2, 0.5), wire.Run(4, 2, 0.25, ["1", None])]
    return runs[: kind % 3], [wire.Report(n, 0.25, OUTCOMES[kind]) for n in range(kind + 1)]


@given(
    st.lists(st.integers(0, 4), max_size=20),
    st.lists(st.integers(1, 60), min_size=1, max_size=20),
)
def test_frames_survive_any_cutting_of_the_stream(kinds: list[int], cuts: list[int]) -> None:
    sent = [(wire.OUTCOMES, *frame_of(kind)) for kind in kinds]
    stream = b"".join(wire.pack(*frame) for frame in sent)

    buffer, got = wire.FrameBuffer(), []
    turn = 0
    while stream:
        size = cuts[turn % len(cuts)]
        part, stream = stream[:size], stream[size:]
        got += [wire.decode_outcomes(frame) for frame in buffer.feed(part)]
        turn += 1

    assert got == sent


def test_the_kind_is_read_without_decoding() -> None:
    for kind in (wire.JOBS, wire.CANCEL, wire.STOP, wire.READY, wire.OUTCOMES, wire.REFUSED):
        bodies: list[tuple[object, ...]] = [(), ([1, 2],), (1, [2]), ([], [])]
        for body in bodies:
            assert wire.kind_of(wire.pack(kind, *body)[4:]) == kind


def test_a_blocking_reader_gets_whole_frames_and_then_none() -> None:
    ours, theirs = socket.socketpair()
    row = Claimed(2, 3, 4, 5, "task", "queue", "[]", None, None, None, ["tag"], False, 0, 9)
    job = wire.Job(2, 3, 4, 5, "task", "queue", "[]", None, None, None, ["tag"])
    with theirs:
        with ours:
            ours.sendall(wire.pack(wire.JOBS, 7, [row]) + wire.pack(wire.STOP))
        frame = wire.receive(theirs)
        assert frame is not None
        assert wire.decode_jobs(frame) == (wire.JOBS, 7, [job])
        stop = wire.receive(theirs)
        assert stop is not None
        assert wire.kind_of(stop) == wire.STOP
        assert wire.receive(theirs) is None


def test_a_frame_that_ends_with_its_sender_is_none() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(wire.pack(wire.JOBS, ["x" * 100])[:-1])
        assert wire.receive(theirs) is None
