"""Finding the user's app: every way to name it, and every way to miss it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Answer, Call, World

APP = "from pgtask import App\n{name} = App('{name}')\n"
TASK = """\
from pgtask import task

@task(name="{name}")
def work() -> None: ...
"""


def registered(answer: Answer) -> list[str]:
    assert answer.code == 0, answer
    return [task["task"] for task in answer.json if task["registered"]]


def with_task(name: str, app: str = "app") -> str:
    return APP.format(name=app) + f"@{app}.task(name='{name}')\ndef {app}_work() -> None: ...\n"


@pytest.mark.parametrize(
    "spec", ["shop:app", "shop", "shop.sub:inner", "shop.sub", "shop:Holder.app"]
)
def test_minus_a_names_an_app_or_the_module_that_has_one(
    spawn: Call, world: World, bare: Path, spec: str
) -> None:
    (bare / "shop").mkdir()
    (bare / "shop" / "__init__.py").write_text(with_task("one") + "class Holder:\n    app = app\n")
    (bare / "shop" / "sub.py").write_text(with_task("two", "inner"))

    found = registered(spawn("tasks", "--json", "-A", spec))

    assert found == (["two"] if "sub" in spec else ["one"])


def test_environment_then_file_then_the_usual_names_say_which(
    spawn: Call, world: World, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("by_env", "by_file", "app", "tasks"):
        (bare / f"{name}.py").write_text(with_task(name))
    (bare / "pgtask.toml").write_text('app = "by_file"\n')

    monkeypatch.setenv("PGTASK_APP", "by_env")
    assert registered(spawn("tasks", "--json")) == ["by_env"]
    monkeypatch.delenv("PGTASK_APP")
    assert registered(spawn("tasks", "--json")) == ["by_file"]
    (bare / "pgtask.toml").unlink()
    assert registered(spawn("tasks", "--json")) == ["app"]
    (bare / "app.py").unlink()
    assert registered(spawn("tasks", "--json")) == ["tasks"]


def test_module_level_tasks_need_no_app(spawn: Call, world: World, bare: Path) -> None:
    (bare / "tasks.py").write_text(TASK.format(name="alone"))

    assert registered(spawn("tasks", "--json")) == ["alone"]


def test_modules_that_the_app_imports_are_imported(spawn: Call, world: World, bare: Path) -> None:
    (bare / "app.py").write_text("from pgtask import App\napp = App('a', imports=['more'])\n")
    (bare / "more.py").write_text(
        "from app import app\n@app.task(name='m')\ndef m() -> None: ...\n"
    )

    assert registered(spawn("tasks", "--json")) == ["m"]


def test_of_several_apps_the_one_called_app_is_meant(spawn: Call, world: World, bare: Path) -> None:
    (bare / "shop.py").write_text(with_task("one") + with_task("two", "other"))

    assert registered(spawn("tasks", "--json", "-A", "shop")) == ["one"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("several", "module 'several' has several apps → give one with -A: several:a, several:b"),
        ("several:c", "'several:c' is not there → give -A several:a, several:b"),
        ("several:n", "'several:n' is of type int, not an App → give -A several:a, several:b"),
        ("empty", "module 'empty' was imported, but has neither an App nor a @task"),
        ("nowhere", "there is no module 'nowhere': tried 'nowhere', with "),
        ("nowhere.at.all:app", "there is no module 'nowhere'"),
        ("several.py", "-A takes a module, not a file, got 'several.py' → write -A several"),
    ],
)
def test_an_app_that_cannot_be_found_is_exit_3_and_says_what_was_tried(
    spawn: Call, bare: Path, spec: str, said: str
) -> None:
    (bare / "several.py").write_text(APP.format(name="a") + APP.format(name="b") + "n = 1\n")
    (bare / "empty.py").write_text("")

    answer = spawn("tasks", "-A", spec)

    assert (answer.code, answer.out) == (3, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_without_any_app_the_places_that_were_tried_are_named(spawn: Call, world: World) -> None:
    answer = spawn("enqueue", "x")

    assert answer.code == 3
    for place in ("-A", "PGTASK_APP", "pgtask.toml", "app.py", "tasks.py"):
        assert place in answer.err


def test_an_import_that_fails_shows_the_users_own_frames(spawn: Call, bare: Path) -> None:
    (bare / "shop.py").write_text("import inner\n")
    (bare / "inner.py").write_text("def build() -> None:\n    1 / 0\n\nbuild()\n")

    answer = spawn("tasks", "-A", "shop")

    assert (answer.code, answer.out) == (3, "")
    first, *rest = answer.err.splitlines()
    assert first == (
        "pgtask: importing 'shop' failed: ZeroDivisionError: division by zero → correct the module"
    )
    frames = [line.strip().split('"')[1] for line in rest if line.strip().startswith("File ")]
    assert [Path(frame).name for frame in frames] == ["shop.py", "inner.py", "inner.py"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import missing_dependency\n", "ModuleNotFoundError: No module named"),
        ("import shop.part\n", "ModuleNotFoundError: No module named 'shop.part'"),
        ("def broken(:\n", "SyntaxError"),
        ("raise SystemExit('bye')\n", "SystemExit: bye"),
        ("raise KeyboardInterrupt\n", "importing 'shop' failed: KeyboardInterrupt → correct"),
        ("from pgtask import App\napp = App('a', imports=['nowhere'])\n", "one of ['nowhere']"),
    ],
)
def test_whatever_the_users_code_raises_is_exit_3(
    spawn: Call, bare: Path, text: str, said: str
) -> None:
    (bare / "shop.py").write_text(text)

    answer = spawn("tasks", "-A", "shop:app")

    assert answer.code == 3
    assert said in answer.err.splitlines()[0]


@pytest.mark.parametrize(
    "text",
    [
        "raise KeyboardInterrupt\n",
        TASK.format(name="twice") + "\n" + TASK.format(name="twice").replace("work", "other"),
        with_task("twice") + "@app.task(name='twice')\ndef other() -> None: ...\n",
    ],
    ids=["interrupt", "two tasks", "two tasks of an app"],
)
def test_what_fails_inside_pgtask_shows_the_users_own_frames_only(
    spawn: Call, bare: Path, text: str
) -> None:
    (bare / "shop.py").write_text(text)

    answer = spawn("tasks", "-A", "shop")

    assert answer.code == 3
    frames = [line.split('"')[1] for line in answer.err.splitlines() if "File " in line]
    assert [Path(frame).name for frame in frames] == ["shop.py"]


def test_ctrl_c_while_the_app_is_imported_is_an_interruption(spawn: Call, bare: Path) -> None:
    (bare / "shop.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('went on')\n"
    )

    answer = spawn("tasks", "-A", "shop")

    assert (answer.code, answer.out, answer.err.strip()) == (130, "", "pgtask: interrupted")


def test_commands_that_only_read_the_database_do_not_import_the_app(
    spawn: Call, world: World, bare: Path
) -> None:
    (bare / "app.py").write_text("1 / 0\n")

    assert spawn("ls").code == 0


def test_an_app_may_name_the_database_of_commands_that_only_read(
    spawn: Call, world: World, bare: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "app.py").write_text(f"from pgtask import App\napp = App('a', dsn={dsn!r})\n")
    monkeypatch.delenv("PGTASK_DSN")
    job = world.job()

    found = spawn("ls", "--json", "--no-embedded")

    assert [line["id"] for line in found.json] == [str(job)]
