"""The promises, as predicates over one state of the model."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.state import ENDED, NOBODY, PENDING, Scope, State

NAMES = {
    "I1": "a job is in exactly one table",
    "I2": "from every state, without a further fault, all jobs can still end",
    "I3": "only the current attempt speaks for a job; a transactional effect happens exactly once",
    "I5": "a serial lane has one current attempt, and its code runs once among living leases",
    "I7": "attempts and crashes stay within their limits; what is given back is not counted",
    "I8": "slots, keys and wishes belong to jobs that need them",
    "key": "one job at most is pending under a key, and it owns the key",
    "cancel": "what was cancelled is not claimed again",
    "lease": "who was declared dead claims nothing; who beats is not declared dead",
    "once": "a job that must not begin twice begins once",
}


def broken(scope: Scope, state: State) -> Iterator[str]:
    """Yield what does not hold in this state."""
    db = state.db
    serial_rows = []
    pending_keys = []
    for job, (spec, rows, memory) in enumerate(zip(scope.jobs, db.rows, state.memory, strict=True)):
        if len(rows) != memory.exists:
            yield f"I1: job {job + 1} has {len(rows)} rows"
            continue
        if not rows:
            continue
        row = rows[0]
        if row.table == "running":
            if row.attempt > spec.max_attempts:
                yield f"I7: job {job + 1} runs for the {row.attempt}. time of {spec.max_attempts}"
            if spec.serial:
                serial_rows.append(job)
        if row.attempt < 0 or row.crashes > spec.max_crashes:
            yield f"I7: job {job + 1} has {row.attempt} attempts, {row.crashes} crashes"
        if row.table in PENDING and spec.key:
            pending_keys.append(job)
        if memory.effects != (spec.transaction and row.table == "succeeded"):
            yield f"I3: job {job + 1} is {row.table} with {memory.effects} effects"
        if memory.begun > 1:
            yield f"once: job {job + 1} began twice"
        if db.wishes[job] != NOBODY and (row.table, row.worker) != ("running", db.wishes[job]):
            yield f"I8: a wish to cancel job {job + 1} outlived its attempt"
    if len(serial_rows) > 1:
        yield "I5: two attempts of one serial lane are current"
    if db.slot != (serial_rows[0] if serial_rows else NOBODY):
        yield "I8: the slot is not with the job that runs"
    if len(pending_keys) > 1 or pending_keys not in ([], [db.key]):
        yield "key: a pending job does not own its key"
    if db.key != NOBODY and db.rows[db.key][0].table in ENDED:
        yield "I8: a key outlived its job"
    running = [
        hand
        for number, life in enumerate(state.lives)
        if db.alive[number]
        for hand in life.hands
        if hand.stage == "running" and scope.jobs[hand.job].serial
    ]
    if len(running) > 1:
        yield "I5: living workers run the code of one serial lane twice at once"


def is_over(state: State) -> bool:
    """Whether every job has ended."""
    return all(row.table in ENDED for rows in state.db.rows for row in rows)
