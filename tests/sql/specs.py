"""Specs: the same job given to pgtask.enqueue and to pgtask.enqueue_many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.sql.engine import Engine

_TYPES = {
    "task": "text", "args": "json", "kwargs": "json", "queue": "text", "priority": "integer",
    "run_at": "timestamptz", "delay": "interval", "key": "text", "on_conflict": "text",
    "serial": "text", "max_attempts": "integer", "backoff": "json", "timeout": "interval",
    "expires": "interval", "keep": "text", "tags": "text[]", "headers": "json", "tenant": "text",
}  # fmt: skip


def enqueue_one(engine: Engine, spec: Mapping[str, Any]) -> int:
    """Enqueue one job by named parameters; only those that the spec has are given."""
    names = ", ".join(f"{name} => %s::{_TYPES[name]}" for name in spec)
    return int(engine.value(f"select pgtask.enqueue({names})", *_values(spec, spec)))


def enqueue_many(engine: Engine, *specs: Mapping[str, Any]) -> list[int]:
    """Enqueue the jobs in one call; their ids in order."""
    row = ", ".join(f"%s::{kind}" for kind in _TYPES.values())
    rows = ", ".join([f"row({row})::pgtask.job_spec"] * len(specs))
    values = [value for spec in specs for value in _values(spec, _TYPES)]
    return engine.values(f"select pgtask.enqueue_many(array[{rows}])", *values)


def _values(spec: Mapping[str, Any], names: Mapping[str, Any]) -> list[Any]:
    return [
        json.dumps(spec[name])
        if _TYPES[name] == "json" and spec.get(name) is not None
        else spec.get(name)
        for name in names
    ]
