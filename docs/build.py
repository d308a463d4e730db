"""Builds the documentation: writes the generated pages, checks links, and makes HTML with Zensical.

    ./dev docs            write what is generated, check every link
    ./dev docs --check    write nothing; fail, with a diff, where a page is out of date

What is generated stands between two comments, `<!-- generated: NAME -->` and `<!-- end: NAME -->`;
the rest of a page is written by hand.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import sql_reference

from pgtask import embedded, errors
from pgtask.broker import migrate
from pgtask.cli import cli, failure

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_PART = re.compile(
    r"(?P<begin><!-- generated: (?P<name>\w+) -->\n)(?P<text>.*?)(?P<end><!-- end: (?P=name) -->)",
    re.DOTALL,
)


def main() -> int:
    """Build or check; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(description="Build the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o755)  # PostgreSQL may run as another user
        with (
            embedded.lease(home / ".pgtask", durable=False, linger=0.0, quiet=True) as server,
            migrate.connection(server.dsn) as connection,
        ):
            migrate.migrate(connection)
            texts = generated(connection)
        embedded.stop(home / ".pgtask", durable=False, force=True)
    problems = []
    for path, text in texts.items():
        current = path.read_text("utf-8") if path.exists() else ""
        if text == current:
            continue
        if check:
            problems.append(_difference(path, current, text))
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
            _say(f"wrote {path.relative_to(ROOT)}")
    for path in orphans(texts):
        if check:
            problems.append(f"{path.relative_to(ROOT)}: there is no such function any more")
        else:
            path.unlink()
            _say(f"removed {path.relative_to(ROOT)}")
    problems += broken_links()
    for problem in problems:
        _say(problem)
    if problems:
        _say("docs: FAILED" + (", run: ./dev docs" if check else ""))
        return 1
    _say("docs: generated pages are up to date, every link resolves")
    return 0 if check else _html()


def generated(connection: psycopg.Connection[Any]) -> dict[Path, str]:
    """Every page with a generated part, as it should be; the connection shows a migrated schema."""
    parts = {
        "cli": _cli(),
        "errors": _errors(),
        "tree": _tree(),
        "sql": sql_reference.index(connection),
        "decisions": _decisions(),
    }
    texts, used = {}, set()
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text("utf-8")
        names = [part["name"] for part in _PART.finditer(text)]
        if names:
            used.update(names)
            texts[path] = _PART.sub(
                lambda part: f"{part['begin']}{parts[part['name']]}{part['end']}", text
            )
    assert used == set(parts), f"no page shows the generated {set(parts) - used}"
    return texts | sql_reference.pages(connection)


def orphans(texts: dict[Path, str]) -> list[Path]:
    """Pages of functions that are no more."""
    return sorted(set(sql_reference.FOLDER.glob("*.md")) - set(texts))


def broken_links() -> list[str]:
    """A line for each link from a page to a file or a heading that is not there."""
    return [
        f"{page.relative_to(ROOT)}: the link {target} leads nowhere"
        for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))
        for target in _links(page)
        if not _resolves(page, target)
    ]


# --- the generated parts ------------------------------------------------------------------------


def _cli() -> str:
    lines = ["## Global options\n", *_options(cli), ""]
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None, name
        lines += _command(f"pgtask {name}", command)
    return "\n".join(lines) + "\n"


def _command(path: str, command: click.Command) -> Iterator[str]:
    words = [
        param.make_metavar(click.Context(command))
        for param in command.params
        if isinstance(param, click.Argument)
    ]
    yield f"## `{' '.join([path, *words])}`\n"
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    yield "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs) + "\n"
    rows = list(_options(command))
    if rows:
        yield from rows
        yield ""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(f"{path} {name}", inner)


def _options(command: click.Command) -> Iterator[str]:
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if not shown:
        return
    yield "| option | meaning |\n| --- | --- |"
    for option in shown:
        names = ", ".join([*option.opts, *option.secondary_opts])
        if not option.is_flag and not option.count:
            kind = option.type
            words = "\\|".join(kind.choices) if isinstance(kind, click.Choice) else None
            names += f" {words or option.metavar or kind.name.split()[0].upper()}"
        yield f"| `{names}` | {option.help or ''} |"


def _errors() -> str:
    lines = [
        "| class | derives from | SQLSTATE | exit | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in error_classes():
        code = failure.exit_code(_instance(kind))
        lines.append(
            f"| `{kind.__name__}` | {', '.join(f'`{base.__name__}`' for base in kind.__bases__)} "
            f"| {f'`{state}`' if (state := getattr(kind, 'sqlstate', None)) else ''} "
            f"| {'' if code is None else code} | {(kind.__doc__ or '').splitlines()[0]} |"
        )
    return "\n".join(lines) + "\n"


def error_classes() -> list[type[BaseException]]:
    """Every exception of pgtask.errors, in the order of the file."""
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    ]


def _instance(kind: type[BaseException]) -> BaseException:
    return kind.__new__(kind)


def _tree() -> str:
    lines = ["```text"]
    package = ROOT / "pgtask"
    for path in sorted(package.rglob("*.py"), key=lambda path: (path.parent.parts, path.name)):
        if path.name == "__init__.py":
            depth = len(path.parent.relative_to(ROOT).parts) - 1
            name = "  " * depth + f"{path.parent.name}/"
        else:
            depth = len(path.relative_to(ROOT).parts) - 1
            name = "  " * depth + path.name
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert docstring, f"{path} does not say what lives there"
        first = " ".join(docstring.partition("\n\n")[0].split())
        lines.append(f"{name:<28} {first}")
    return "\n".join([*lines, "```"]) + "\n"


def _decisions() -> str:
    lines = []
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = path.read_text("utf-8").splitlines()[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


# --- links --------------------------------------------------------------------------------------


def _links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def _resolves(page: Path, target: str) -> bool:
    name, _, heading = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.exists():
        return False
    return not heading or heading in _headings(path)


def _headings(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ------------------------------------------------------------------------------------------------


def _difference(path: Path, current: str, wanted: str) -> str:
    name = str(path.relative_to(ROOT))
    lines = difflib.unified_diff(
        current.splitlines(), wanted.splitlines(), name, f"{name} (generated)", lineterm=""
    )
    return "\n".join(lines)


def _html() -> int:
    program = shutil.which("zensical", path=str(Path(sys.executable).parent)) or shutil.which(
        "zensical"
    )
    if program is None:
        _say("docs: no HTML: zensical is not installed")
        return 0
    return subprocess.run([program, "build"], cwd=ROOT, check=False).returncode


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
