"""README.md and docs/: every example is run, in the order of its page."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgtask.broker import migrate
from tests.docs.pages import ROOT, Page, blocks_of, pages
from tests.docs.reader import EXEMPT, Reader, first_missing


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_the_page_says_works(page: Page, request: pytest.FixtureRequest) -> None:
    blocks = page.blocks()
    if all(block.word == "text" and not block.is_output for block in blocks):
        return
    url = None
    if not page.is_embedded:
        dsn = request.getfixturevalue("fresh_database")
        with migrate.connection(dsn) as connection:
            migrate.migrate(connection)
        url = _url(dsn)

    with Reader.open(url) as reader:
        for block in blocks:
            reader.follow(block)


def test_only_whole_runs_are_exempt_and_each_is_on_the_first_page() -> None:
    shown = {
        command
        for block in Page(ROOT / "README.md").blocks()
        if block.word == "console"
        for command, _ in block.commands
    }

    assert shown >= EXEMPT


@pytest.mark.parametrize(
    "text",
    [
        "```\nnobody runs this\n```\n",
        "```py\nnobody = 1\n```\n",
        "```python no-run\nnobody = 1\n```\n",
        "  ```python\n  nobody = 1\n  ```\n",
        "    nobody = 1\n",
        "~~~python\nnobody = 1\n~~~\n",
        "````python\nnobody = 1\n````\n",
        "```python\nnever closed\n",
        "<!-- skip -->\n```python\nnobody = 1\n```\n",
        "<!-- output -->\n```python\nnobody = 1\n```\n",
    ],
)
def test_a_block_that_nobody_would_run_is_refused(text: str) -> None:
    with pytest.raises(SyntaxError):
        blocks_of(text)


def test_a_failing_example_fails() -> None:
    with Reader.open(None) as reader:
        for text in (
            "```python\nassert 1 == 2\n```\n",
            "```console\n$ false\n```\n",
            "```console\n$ echo one\ntwo\n```\n",
            '```toml\nqueue = "typo"\n```\n',
        ):
            (block,) = blocks_of(text)
            with pytest.raises((AssertionError, ValueError)):
                reader.follow(block)


def test_expected_lines_are_matched_in_order_and_dots_match_anything() -> None:
    printed = ["job   17 at 12:00", "done"]

    assert first_missing(["job 17 at ...", "done"], printed) is None
    assert first_missing(["...", "done"], printed) is None
    assert first_missing(["done", "job 17 at 12:00"], printed) == "job 17 at 12:00"
    assert first_missing(["job 1"], printed) == "job 1"


def _url(dsn: str) -> str:
    """The conninfo as the URL that an environment would hold."""
    words = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    user, password, database = (quote(words.pop(w, ""), "") for w in ("user", "password", "dbname"))
    return f"postgresql://{user}:{password}@/{database}?{urlencode(words)}"
