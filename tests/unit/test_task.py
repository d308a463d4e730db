"""Tasks and apps without a database: names, registries, refusals, plain calls, imports."""

from __future__ import annotations

import asyncio
import gc
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import scoped_session, sessionmaker

import pgtask
from pgtask import (
    App,
    ArgumentMismatch,
    BadOption,
    BlockingCall,
    ConfigError,
    DefinitionError,
    JobContext,
    NoCurrentJob,
    TaskExists,
    current_job,
    default_app,
    injected,
    task,
)
from pgtask import app as app_module
from pgtask.current import running
from pgtask.task import Task

app = App("tests.unit.test_task")


@app.task
def add(x: int, y: int = 1) -> int:
    """Add up."""
    return x + y


@app.task(queue="web", retry_for=OSError, backoff=lambda attempt: attempt, jitter=0)
async def fetch(url: str) -> str:
    return url.upper()


@app.task(bind=True)
def whoami(context: JobContext, suffix: str) -> str:
    return f"{context.id}{suffix}"


@app.task(transaction=True)
def settle(order: int, connection: Any = injected()) -> tuple[int, Any]:  # noqa: B008 - a marker
    return order, connection


@pytest.fixture
def registry() -> Iterator[App]:
    """An app of its own, forgotten with the test."""
    yield App("registry")
    gc.collect()


def test_a_task_is_called_after_its_module_and_function() -> None:
    assert add.name == f"{__name__}.add"
    assert add.__name__ == "add"
    assert add.__doc__ == "Add up."
    assert app.tasks[add.name] is add
    assert repr(add) == f"<Task {__name__}.add>"


def test_calling_a_task_calls_the_function() -> None:
    assert add(2, 3) == 5
    assert asyncio.run(fetch("x")) == "X"
    assert settle(1, connection="c") == (1, "c")
    with pytest.raises(TypeError, match="must pass 'connection' by keyword"):
        settle(1)


def test_a_bound_task_called_directly_gets_the_context_that_is_there() -> None:
    assert whoami("!") == "0!"
    with running(JobContext(id=7, task="x")):
        assert whoami("!") == "7!"


def test_a_worker_runs_a_task_with_context_and_connection() -> None:
    context = JobContext(id=7, task="x", connection_hook=lambda: "connection")

    assert whoami.run(context, ("!",), {}) == "7!"
    assert settle.run(context, (1,), {}) == (1, "connection")
    assert add.run(JobContext(id=1, task="x"), (2,), {"y": 5}) == 7
    assert asyncio.run(fetch.run(context, ("x",), {})) == "X"


def test_what_a_task_is_can_be_read() -> None:
    assert (add.is_async, add.bind, add.transaction) == (False, False, False)
    assert (fetch.is_async, fetch.defaults.queue) == (True, "web")
    assert whoami.bind
    assert settle.transaction


def test_a_task_of_a_session_factory_gets_a_session(registry: App) -> None:
    def work(session: Any = injected()) -> Any:  # noqa: B008 - a marker
        return session

    for factory in (sessionmaker(), scoped_session(sessionmaker())):
        task = registry.task(name="work", transaction=factory)(work)
        context = JobContext(id=7, task="x", session_hook=lambda: "session")
        assert task.run(context, (), {}) == "session"
    with running(context):
        assert current_job().session == "session"
        with pytest.raises(NoCurrentJob, match="has a session instead"):
            _ = current_job().connection


@pytest.mark.parametrize("factory", [sessionmaker(), scoped_session(sessionmaker())])
def test_a_coroutine_needs_a_factory_of_asynchronous_sessions(registry: App, factory: Any) -> None:
    async def work() -> None: ...

    with pytest.raises(BadOption, match="give it: async_sessionmaker"):
        registry.task(name="work", transaction=factory)(work)
    assert registry.task(name="work", transaction=async_sessionmaker())(work).is_async


def test_the_jobs_own_policy_wins_over_the_tasks() -> None:
    own = fetch.retry_policy()
    of_the_job = fetch.retry_policy({"backoff": "const:5", "jitter": 0.5})

    assert own.delay(4, lambda: 0.9) == 4.0
    assert own.should_retry(OSError(), 1, 3)
    assert not own.should_retry(ValueError(), 1, 3)
    assert (of_the_job.backoff, of_the_job.jitter) == ("const:5", 0.5)
    assert of_the_job.retry_for == (OSError,)


def test_the_current_job_is_known_inside_only() -> None:
    context = JobContext(id=7, task="x", cancelled_hook=lambda: True)

    with running(context):
        assert current_job() is context
        assert current_job().cancelled
        assert current_job().idempotency_key == "7"
        with pytest.raises(NoCurrentJob, match="transaction=True"):
            _ = current_job().connection
        with pytest.raises(NoCurrentJob, match="transaction=SessionLocal"):
            _ = current_job().session

    with pytest.raises(LookupError, match="outside a running task"):
        current_job()


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (lambda: None, "a lambda has no name"),
        (int, "not a class"),
        (len, "not a builtin_function_or_method"),
        (add, "is a task already"),
    ],
)
def test_what_no_worker_could_find_is_refused(registry: App, thing: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        registry.task(thing)


def test_a_nested_function_needs_a_name(registry: App) -> None:
    def inner() -> None: ...

    with pytest.raises(DefinitionError, match="defined inside a function"):
        registry.task(inner)

    assert registry.task(name="inner")(inner).name == "inner"
    assert registry.task(name="lambda")(lambda: None).name == "lambda"


def test_generators_are_refused(registry: App) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="a generator cannot be a task"):
        registry.task(name="numbers")(numbers)


def test_an_injected_parameter_needs_a_transaction(registry: App) -> None:
    def work(connection: Any = injected()) -> None: ...  # noqa: B008 - a marker

    with pytest.raises(DefinitionError, match="transaction=True"):
        registry.task(name="work")(work)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_retries": 3}, "max_attempts"),
        ({"priorty": 3}, "did you mean priority"),
        ({"name": "a b"}, "1 to 128"),
        ({"bind": 1}, "bind must be True or False"),
        ({"transaction": "yes"}, "transaction must be True or False"),
        ({"transaction": async_sessionmaker()}, "does not fit a def; give it: sessionmaker"),
        ({"retry_for": (3,)}, "exception classes"),
        ({"key": "{user}"}, "has no parameter 'user'"),
        ({"soft_timeout": 5, "timeout": 3}, "soft_timeout"),
    ],
)
def test_options_of_a_task_are_checked_at_decoration(
    registry: App, options: dict[str, Any], says: str
) -> None:
    def work(user_id: int) -> None: ...

    with pytest.raises(BadOption, match=says):
        registry.task(**{"name": "work", **options})(work)


def test_options_of_a_call_are_checked_when_said() -> None:
    with pytest.raises(BadOption, match="key"):
        add.apply_async((1,), task_id="x")  # type: ignore[call-arg]  # the point
    with pytest.raises(BadOption, match="has no parameter 'z'"):
        add.options(key="{z}")


def test_limits_that_contradict_each_other_are_refused_however_they_meet(registry: App) -> None:
    limited = App("limited", task_defaults={"timeout": 5})

    @registry.task(name="slow", timeout=10)
    def slow() -> None: ...

    @limited.task(name="soft", soft_timeout=5)
    def soft() -> None: ...

    with pytest.raises(BadOption, match=r"soft_timeout .20 s. does not come before timeout .10 s."):
        slow.options(soft_timeout=20)
    with pytest.raises(BadOption, match=r"soft_timeout .10 s. does not come before timeout .10 s."):
        slow.apply_async((), soft_timeout=10)
    # the task says the one, its app the other: known when the call is made
    with pytest.raises(BadOption, match=r"soft_timeout .5 s. does not come before timeout .5 s."):
        soft.delay()
    with pytest.raises(BadOption, match=r"soft_timeout .9 s. does not come before timeout .5 s."):
        limited.enqueue("elsewhere", soft_timeout=9)


def test_a_memory_limit_that_cannot_be_enforced_is_refused(registry: App) -> None:
    async def coroutine() -> None: ...

    with pytest.raises(BadOption, match="memory_limit cannot be enforced for an async def"):
        registry.task(name="limited", memory_limit="300MB")(coroutine)
    made = registry.task(name="limited")(coroutine)
    with pytest.raises(BadOption, match="memory_limit cannot be enforced for an async def"):
        made.options(memory_limit=1)
    # what an app says for all its tasks is for those where it can
    app = App("all", task_defaults={"memory_limit": "300MB"})
    made = app.task(name="unlimited")(coroutine)
    assert made._options_for(app.client).memory_limit is None


def test_options_leave_the_task_as_it_was() -> None:
    urgent = add.options(priority=9)

    assert isinstance(urgent, Task)
    assert urgent.options(priority=5) is not urgent
    assert app.tasks[add.name] is add
    assert add.defaults.priority is None


def test_two_functions_of_one_name_are_refused_with_both_places(registry: App) -> None:
    def first() -> None: ...

    def second() -> None: ...

    registry.task(name="same")(first)

    with pytest.raises(TaskExists, match=r"'same'.*first \(.*test_task.py:\d+\) and .*second"):
        registry.task(name="same")(second)


def test_a_shared_task_and_an_apps_own_may_not_have_one_name(registry: App) -> None:
    def first() -> None: ...

    def second() -> None: ...

    task(name="tests.shared_first")(first)
    registry.task(name="tests.own_first")(first)

    with pytest.raises(TaskExists):
        registry.task(name="tests.shared_first")(second)
    with pytest.raises(TaskExists):
        task(name="tests.own_first")(second)


def test_a_reloaded_module_replaces_its_tasks(
    registry: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reloaded.py").write_text(
        "import pgtask\napp = pgtask.App('r')\n@pgtask.task\ndef work(): return 1\n"
        "@pgtask.task(name='other')\ndef other(): return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded")
    before = registry.tasks["reloaded.work"]

    importlib.reload(module)

    assert registry.tasks["reloaded.work"] is not before
    assert registry.tasks["reloaded.work"] is module.work


def test_a_shared_task_is_known_to_every_app(registry: App) -> None:
    def library_work() -> None: ...

    made = task(name="tests.library")(library_work)

    assert registry.tasks["tests.library"] is made
    assert default_app().tasks["tests.library"] is made


def test_the_first_app_made_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_first", None)
    implicit = default_app()

    mine = App("mine")
    App("another")

    assert repr(implicit) == "<App 'default'>"
    assert default_app() is mine


def test_an_app_does_not_show_its_password() -> None:
    made = App("secret", "postgresql://me:hunter2@db/x")

    assert "hunter2" not in repr(made)
    assert "hunter2" not in repr(made.config)
    assert made.settings["dsn"] == "postgresql://me:hunter2@db/x"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"imports": "shop.tasks"}, "a list of module names"),
        ({"default_queue": "a b"}, "queue must be"),
        ({"task_defaults": {"max_retries": 1}}, "max_attempts"),
        ({"task_defaults": {"retry_for": (OSError,)}}, "belongs to the task"),
        ({"retention": -1}, "retention must be"),
    ],
)
def test_settings_of_an_app_are_checked(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, BadOption), match=says):
        App("checked", **arguments)


def test_load_imports_the_modules_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loaded.py").write_text("import pgtask\n@pgtask.task\ndef work(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert "loaded.work" in App("loading", imports=["loaded"]).load()
    with pytest.raises(ModuleNotFoundError):
        App("broken", imports=["no_such_module"]).load()


def test_arguments_are_checked_before_anything_connects() -> None:
    with pytest.raises(ArgumentMismatch, match=r"add\(\): missing a required argument: 'x'"):
        add.delay()  # type: ignore[call-arg]  # the point
    with pytest.raises(ArgumentMismatch, match=r"call 1: .*too many positional"):
        add.delay_many([(1,), (1, 2, 3)])
    with pytest.raises(ArgumentMismatch, match=r"call 0 of .*: expected a tuple"):
        add.delay_many(["ab"])
    with pytest.raises(ArgumentMismatch, match="args must be a tuple or list"):
        add.apply_async("ab")
    with pytest.raises(ArgumentMismatch, match="args must be a tuple or list"):
        app.enqueue("elsewhere", "ab")
    assert add.delay_many([]) == []


def test_a_blocking_call_on_an_event_loop_names_its_twin() -> None:
    async def wrong() -> None:
        add.delay(1)

    with pytest.raises(BlockingCall, match=r"use await adelay\(\)"):
        asyncio.run(wrong())


def test_using_takes_connections_only() -> None:
    with pytest.raises(TypeError, match=r"takes a connection of psycopg.*got builtins.str"):
        add.using("postgresql:///shop")
    with pytest.raises(TypeError, match=r"got builtins\.object"), app.using(object()):
        pass


@pytest.mark.parametrize("value", ["x", 1.5, True, None, 0, -1, 2**63])
def test_an_id_is_a_positive_integer(value: Any) -> None:
    with pytest.raises(ValueError, match="a job's id is a"):
        app.AsyncResult(value)


def test_an_id_may_come_as_a_string() -> None:
    assert app.AsyncResult("12").id == 12
    assert app.AsyncResult("12") == app.AsyncResult(12)


def test_all_public_names_exist() -> None:
    assert sorted(pgtask.__all__) == pgtask.__all__
    assert all(hasattr(pgtask, name) for name in pgtask.__all__)


def test_defining_tasks_imports_neither_psycopg_nor_asyncio() -> None:
    program = (
        "import sys, pgtask\n"
        "app = pgtask.App('small')\n"
        "@app.task(retry_for=(OSError,), key='{x}')\n"
        "def work(x: int) -> int: return x\n"
        "@pgtask.task\n"
        "def other(y: list[str]) -> None: ...\n"
        "work.codec.decode(*work.codec.encode((1,), {}))\n"
        "print([m for m in ('psycopg', 'psycopg_pool', 'asyncio', 'sqlalchemy', 'logging')"
        " if m in sys.modules])\n"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]", answer.stderr


def test_a_script_names_its_tasks_as_the_worker_will(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text("import pgtask\n@pgtask.task\ndef pay(): ...\nprint(pay.name)\n")

    as_script = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True
    )
    as_module = subprocess.run(
        [sys.executable, "-m", "shop"], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert as_script.stdout == as_module.stdout == "shop.pay\n"
