"""The interpreter of one page: runs its python blocks in one namespace, in a process of its own.

Requests and answers are JSON lines. Coroutines may be awaited at the top level, all on one loop.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import io
import json
import linecache
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer each request, {"text", "name", "file"}, with {"output", "error", "ended"}."""
    answers, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("error")
    sys.path.insert(0, str(Path.cwd()))
    namespace: dict[str, Any] = {"__name__": "page"}
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            request = json.loads(line)
            printed = io.StringIO()
            error, ended = None, False
            with contextlib.redirect_stdout(printed):
                try:
                    if request["file"] is not None:
                        _import(request["file"])
                    else:
                        _run(runner, request["text"], request["name"], namespace)
                except SystemExit:
                    ended = True
                except Exception:  # noqa: BLE001 - an example: whatever it raises is the answer
                    error = traceback.format_exc()
            answer = {"output": printed.getvalue(), "error": error, "ended": ended}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
            if ended:
                return


def _import(file: str) -> None:
    name = file.removesuffix(".py").replace("/", ".")
    importlib.invalidate_caches()
    if name in sys.modules:
        importlib.reload(sys.modules[name])
    else:
        importlib.import_module(name)


def _run(runner: asyncio.Runner, text: str, name: str, namespace: dict[str, Any]) -> None:
    # Known to linecache, so that a traceback shows the line of the page.
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    code = compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, namespace))
    else:
        exec(code, namespace)


if __name__ == "__main__":
    main()
