"""What is shipped: built, installed into an environment of its own, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest

from pgtask.config import release
from tests.workers import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and an sdist, built from the sources without a network."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return wheel, sdist


def sql_files() -> set[str]:
    return {str(path.relative_to(ROOT / "sql")) for path in (ROOT / "sql").rglob("*.sql")}


def test_the_wheel_has_the_code_its_types_and_all_sql_and_nothing_else(
    built: tuple[Path, Path],
) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())

    assert "pgtask/py.typed" in names
    assert {f"pgtask/_sql/{name}" for name in sql_files()} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "pgtask").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pgtask", "pgtask_postgres"}


def test_the_sdist_has_what_a_wheel_is_built_from_and_the_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    assert {f"sql/{name}" for name in sql_files()} <= names
    assert {
        "pgtask/py.typed",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tests/conftest.py",
    } <= names


def interpreter_with_pip() -> list[str]:
    """This environment may have no pip of its own; the Python that made it has, then."""
    for python in (sys.executable, f"{sys.base_prefix}/bin/python3"):
        asked = subprocess.run([python, "-m", "pip", "--version"], check=False, capture_output=True)
        if asked.returncode == 0:
            return [python]
    raise AssertionError("neither this environment nor the Python that made it has pip")


def test_an_installed_wheel_migrates_a_database_and_knows_its_version(
    built: tuple[Path, Path], fresh_database: str, tmp_path: Path
) -> None:
    # given a clean environment that has the wheel, and sees the dependencies of this one
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    site = Path(
        sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    )
    python = environment / "bin" / "python"
    pip = [*interpreter_with_pip(), "-m", "pip", "--python", str(python), "--no-cache-dir"]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--no-deps", str(built[0])], check=True
    )
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def pgtask(*words: str) -> str:
        done = subprocess.run(
            [environment / "bin" / "pgtask", *words],
            cwd=tmp_path,
            env={**os.environ, "PGTASK_DSN": fresh_database},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    # then the code is the wheel's own
    where = subprocess.run(
        [python, "-P", "-c", "import pgtask; print(pgtask.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(environment)

    # and it works from there
    assert release() in pgtask("--version")
    pgtask("migrate")
    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("select count(*) from pgtask.jobs").fetchone() == (0,)
