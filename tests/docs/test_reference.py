"""docs/reference/: what there is, is documented; what is documented, is there."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

import pgtask
from pgtask.config import SETTINGS, Config, load
from pgtask.current import JobContext
from pgtask.errors import AppNotFound, ConfigError, DuplicateJob, JobFailed

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """docs/build.py, which is a script and in no package, as is what it imports."""
    sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def _words(text: str) -> set[str]:
    """The names that a page sets in code, calls by what is called."""
    code = re.findall(r"`([^`\n]+)`", text)
    return {re.split(r"[\s(=]", word)[0] for word in code}


def _section(page: str, title: str) -> str:
    found = page.partition(f"\n## {title}\n")[2]
    assert found, title
    return re.split(r"\n## ", found)[0]


def _rows(text: str) -> list[list[str]]:
    lines = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines]


def test_generated_pages_are_up_to_date(
    build: ModuleType, connection: psycopg.Connection[Any]
) -> None:
    texts = build.generated(connection)
    stale = [
        str(path.relative_to(ROOT))
        for path, text in texts.items()
        if not path.exists() or text != path.read_text("utf-8")
    ]
    stale += [str(path.relative_to(ROOT)) for path in build.orphans(texts)]

    assert stale == [], "write them anew: ./dev docs"


def test_every_link_leads_somewhere(build: ModuleType) -> None:
    assert build.broken_links() == []


def test_every_public_name_is_documented() -> None:
    documented = _words(_page("python.md")) | _words(_page("errors.md"))

    assert set(pgtask.__all__) - documented == set()


@pytest.mark.parametrize("kind", [pgtask.App, pgtask.Task, pgtask.AsyncResult, JobContext])
def test_every_public_member_is_documented_and_every_documented_one_is_there(
    kind: type[Any],
) -> None:
    title = {"Task": "`Task` and `AsyncTask`", "JobContext": "In a task"}.get(
        kind.__name__, f"`{kind.__name__}`"
    )
    cells = [row[0] for row in _rows(_section(_page("python.md"), title))]
    documented = {word for cell in cells for word in _words(cell)}

    assert documented == _members(kind)


def _members(kind: type[Any]) -> set[str]:
    named = {name for name in dir(kind) if not name.startswith("_")}
    # Attributes that __init__ sets are not in dir(): they stand in its code.
    source = inspect.getsource(kind)
    assigned = set(re.findall(r"self\.(\w+)\b[^=\n]*? = ", source))
    return named | {name for name in assigned if not name.startswith("_")}


def test_every_option_is_documented_and_every_documented_one_is_there() -> None:
    documented = {
        word for row in _rows(_section(_page("python.md"), "Options")) for word in _words(row[0])
    }

    # bind changes the function's type, so it stands in the decorator's own signature.
    assert documented == set(pgtask.TaskOptions.__annotations__) | {"bind"}


def test_every_setting_is_documented_with_its_variable_and_its_default() -> None:
    rows = {row[0].strip("` "): row for row in _rows(_page("config.md"))}
    assert set(rows) == set(SETTINGS)

    for field in fields(Config):
        if field.name == "sources":
            continue
        _, variable, default, _ = rows[field.name]
        assert variable == f"`PGTASK_{field.name.upper()}`"
        value = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        assert default == ("none" if value in (None, "") else f"`{value}`"), field.name


@pytest.mark.parametrize("name", SETTINGS)
def test_the_documented_variable_is_read(name: str) -> None:
    variable = f"PGTASK_{name.upper()}"
    value = {"dsn": "dbname=x", "listen_dsn": "dbname=x", "log_level": "DEBUG"}.get(
        name,
        {
            "log_format": "json",
            "embedded": "never",
            "app": "shop",
            "pooler": "none",
            "reload": "true",
            "health": ":8080",
        }.get(name, "3"),
    )
    # Somewhere else's database, so that embedded = never is content.
    other = {} if name in ("dsn", "embedded") else {"PGTASK_DSN": "dbname=y"}
    if name == "embedded":
        other = {"PGTASK_DSN": "dbname=y"}

    found = load({}, {}, {variable: value, **other}, Path("/nonexistent"))

    assert found.sources[name] == variable


def test_every_error_is_on_its_page_and_can_be_imported_from_pgtask(build: ModuleType) -> None:
    names = {kind.__name__ for kind in build.error_classes()}
    documented = {row[0].strip("` ") for row in _rows(_page("errors.md"))}

    assert documented == names
    assert names <= set(pgtask.__all__)


def test_errors_have_the_exit_code_that_the_page_says() -> None:
    from pgtask.cli import failure

    codes = {row[0].strip("` "): row[3] for row in _rows(_page("errors.md"))}

    for error in (
        ConfigError("x"),
        AppNotFound("x"),
        DuplicateJob("x"),
        JobFailed(1, reason="error", type="T", message="m"),
    ):
        assert codes[type(error).__name__] == str(failure.exit_code(error))


def test_the_exit_codes_of_the_command_line_are_all_listed() -> None:
    from pgtask.cli import failure

    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", _page("cli.md"), re.MULTILINE)}

    assert listed == {
        value for name, value in vars(failure).items() if name.isupper() and isinstance(value, int)
    }


def test_every_decision_has_the_five_headings() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    numbers = [page.name[:4] for page in pages]

    assert numbers == [f"{n:04}" for n in range(1, len(pages) + 1)]
    for page in pages:
        headings = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
        wanted = ["Status", "Context", "Decision", "Consequences", "Not chosen"]
        assert headings == wanted, page.name
