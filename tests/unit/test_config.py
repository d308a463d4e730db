"""Where settings come from, which wins, and how a wrong one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from pgtask.config import (
    SETTINGS,
    Config,
    host_and_port,
    load,
    parse_duration,
    redact,
    redact_text,
    release,
)
from pgtask.errors import ConfigError


def loaded(
    directory: Path,
    *,
    flags: Mapping[str, object] | None = None,
    code: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    return load(flags or {}, code or {}, environ or {}, directory)


def test_without_any_word_the_defaults_hold_and_the_server_is_embedded(tmp_path: Path) -> None:
    config = loaded(tmp_path)

    assert config == Config(sources=config.sources)
    assert config.dsn is None
    assert set(config.sources) == set(SETTINGS)
    assert set(config.sources.values()) == {"default"}


def test_flags_beat_environment_beats_files_beats_code(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.pgtask]\npoll = 5\ngrace = 5\n")
    (tmp_path / "pgtask.toml").write_text("poll = 4\nconcurrency = 4\n")
    code = {"poll": 6.0, "grace": 6.0, "retention": 6.0}
    environ = {"PGTASK_POLL": "3", "PGTASK_CONCURRENCY": "3", "PGTASK_ASYNC_CONCURRENCY": "3"}
    flags = {"poll": "2"}

    config = loaded(tmp_path, flags=flags, environ=environ, code=code)

    shown = {name: (getattr(config, name), config.sources[name]) for name in config.sources}
    assert shown["poll"] == (2.0, "--poll")
    assert shown["concurrency"] == (3, "PGTASK_CONCURRENCY")
    assert shown["async_concurrency"] == (3, "PGTASK_ASYNC_CONCURRENCY")
    assert shown["grace"] == (5.0, "[tool.pgtask] in pyproject.toml")
    assert shown["retention"] == (6.0, "App(...)")
    assert shown["log_level"] == ("INFO", "default")


def test_each_place_may_name_the_database_and_the_higher_one_wins(tmp_path: Path) -> None:
    flags: dict[str, object] = {"dsn": "dbname=flag"}
    environ = {
        "PGTASK_DSN": "dbname=ours",
        "DATABASE_URL": "postgres://u@h/url",
        "PGHOST": "h",
    }
    code = {"dsn": "dbname=code"}
    file = tmp_path / "pgtask.toml"
    file.write_text('dsn = "dbname=file"\n')

    found = []
    for lose in (lambda: flags.clear(), lambda: environ.pop("PGTASK_DSN"), file.unlink,
                 lambda: code.clear(), lambda: environ.pop("DATABASE_URL"),
                 lambda: environ.pop("PGHOST")):  # fmt: skip
        config = loaded(tmp_path, flags=flags, environ=environ, code=code)
        found.append((config.dsn, config.sources["dsn"]))
        lose()
    config = loaded(tmp_path, flags=flags, environ=environ, code=code)
    found.append((config.dsn, config.sources["dsn"]))

    assert found == [
        ("dbname=flag", "--dsn"),
        ("dbname=ours", "PGTASK_DSN"),
        ("dbname=file", "pgtask.toml"),
        ("dbname=code", "App(...)"),
        ("postgresql://u@h/url", "DATABASE_URL"),
        ("", "libpq environment"),
        (None, "default"),
    ]


def test_embedded_always_skips_every_database_but_a_flag(tmp_path: Path) -> None:
    environ = {"PGTASK_DSN": "dbname=ours", "PGTASK_EMBEDDED": "yes"}

    config = loaded(tmp_path, environ=environ)

    assert (config.dsn, config.sources["dsn"]) == (None, "embedded (PGTASK_EMBEDDED)")
    with pytest.raises(ConfigError, match="--dsn names a database, but embedded = 'always'"):
        loaded(tmp_path, environ=environ, flags={"dsn": "dbname=flag"})


def test_embedded_never_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no database is named.*PGTASK_EMBEDDED.*set PGTASK_DSN"):
        loaded(tmp_path, environ={"PGTASK_EMBEDDED": "never"})


def test_a_database_url_of_another_database_is_not_ours(tmp_path: Path) -> None:
    assert loaded(tmp_path, environ={"DATABASE_URL": "sqlite:///db.sqlite3"}).dsn is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgres://ada@db/shop", "postgresql://ada@db/shop"),
        ("postgresql+psycopg://ada@db/shop", "postgresql://ada@db/shop"),
        ("postgresql+asyncpg://db/shop?ssl=require", "postgresql://db/shop?sslmode=require"),
        ("postgis://ada@db/shop", "postgresql://ada@db/shop"),
        (" host=db dbname=shop ", "host=db dbname=shop"),
        ("", ""),
    ],
)
def test_spellings_of_a_dsn_become_libpqs(tmp_path: Path, given: str, meant: str) -> None:
    assert loaded(tmp_path, flags={"dsn": given}).dsn == meant


@pytest.mark.parametrize("given", ["mysql://ada@db/shop", "shop", 'db"'])
def test_what_is_no_dsn_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match=r"dsn = .*PGTASK_DSN.*→ use"):
        loaded(tmp_path, environ={"PGTASK_DSN": given})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PGTASK_CONCURENCY", "PGTASK_CONCURRENCY"),
        ("PGTASK_DNS", "PGTASK_DSN"),
        ("PGTASK_AAP", "PGTASK_APP"),
        ("PGTASK_QUE", "PGTASK_QUEUES"),
        ("PGTASK_POL", "PGTASK_POLL"),
        ("PGTASK_QUEUE", "PGTASK_QUEUES"),
        ("PGTASK_LOGLEVEL", "PGTASK_LOG_LEVEL"),
        ("PGTASK_DATABASE_URL", "PGTASK_DSN"),
    ],
)
def test_a_misspelt_variable_is_refused_with_a_hint(
    tmp_path: Path, variable: str, meant: str
) -> None:
    with pytest.raises(ConfigError, match=f"{variable} is not a setting → did you mean {meant}"):
        loaded(tmp_path, environ={variable: "1"})


@pytest.mark.parametrize(
    "variable",
    ["PGTASK_SERVICE_HOST", "PGTASK_PORT", "PGTASK_SERVICE_PORT", "PGTASK_SERVICE_PORT_HTTP",
     "PGTASK_PORT_8787_TCP", "PGTASK_PORT_5432_TCP_ADDR", "PGTASK_QUEUES_PORT",
     "PGTASK_POLL_PORT_53_UDP_PROTO", "PGTASK_APP_SERVICE_HOST", "PGTASK_TEST_DSN",
     "PGTASK_WORKER_ID", "PGTASK_FAILPOINT", "PGTASK_PG_BINDIR", "_PGTASK_COMPLETE", "PGTASK_POLL"],
)  # fmt: skip
def test_a_variable_of_somebody_else_and_an_empty_one_are_not_ours(
    tmp_path: Path, variable: str
) -> None:
    assert loaded(tmp_path, environ={variable: ""}).poll == 1.0


def test_an_unknown_key_in_a_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "pgtask.toml").write_text("concurency = 4\n")

    with pytest.raises(ConfigError) as refusal:
        loaded(tmp_path)

    assert "pgtask.toml: unknown setting 'concurency', did you mean 'concurrency'?" in str(
        refusal.value
    )


def test_an_unknown_word_of_the_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"App\(\.\.\.\): unknown setting 'broker_url'.*'dsn'"):
        loaded(tmp_path, code={"broker_url": "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", "0"),
        ("concurrency", "many"),
        ("concurrency", True),
        ("poll", "0"),
        ("poll", "soon"),
        ("poll", "nan"),
        ("grace", -1),
        ("cancel_grace", -1),
        ("max_jobs_per_child", 0),
        ("max_memory_per_child", "0"),
        ("max_memory_per_child", "lots"),
        ("max_memory_per_child", 1.5),
        ("queues", "mail,,bad name"),
        ("queues", ""),
        ("queues", 3),
        ("queues", ["*", 3]),
        ("log_level", "loud"),
        ("reload", "perhaps"),
        ("reload_dir", 3),
        ("reload_dir", ["src", 3]),
        ("health", 8080),
        ("health", "8080"),
        ("health", "localhost"),
        ("health", "localhost:http"),
        ("health", "localhost:65536"),
        ("health", "::1:8080"),
        ("health", "local host:8080"),
        ("log_format", "xml"),
        ("embedded", "maybe"),
        ("max_payload", 1.5),
        ("app", ""),
        ("app", 3),
        ("dsn", 3),
    ],
)
def test_a_bad_value_names_setting_value_source_and_remedy(
    tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(ConfigError) as refusal:
        loaded(tmp_path, flags={name: value})

    message = str(refusal.value)
    assert message.startswith(f"{name} = {value!r} (--{name.replace('_', '-')}): ")
    assert "→" in message


def test_values_are_read_as_text_or_as_what_toml_has(tmp_path: Path) -> None:
    environ = {
        "PGTASK_QUEUES": "mail, default,mail",
        "PGTASK_RETENTION": "1d12h",
        "PGTASK_RELOAD": "yes",
        "PGTASK_RELOAD_DIR": "src, lib",
    }
    (tmp_path / "pgtask.toml").write_text('grace = "90s"\nlog_level = "debug"\nembedded = false\n')

    environ |= {"PGTASK_MAX_MEMORY_PER_CHILD": "300MB", "PGTASK_MAX_JOBS_PER_CHILD": "100"}
    config = loaded(tmp_path, environ=environ, code={"poll": timedelta(milliseconds=250),
                                                     "dsn": "dbname=x"})  # fmt: skip

    assert config.queues == ("mail", "default")
    assert (config.max_memory_per_child, config.max_jobs_per_child) == (300 * 1024 * 1024, 100)
    assert config.retention == 129_600
    assert (config.reload, config.reload_dir) == (True, ("src", "lib"))
    assert (config.grace, config.poll) == (90.0, 0.25)
    assert (config.log_level, config.embedded) == ("DEBUG", "never")


def test_one_named_file_is_read_instead_of_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "pgtask.toml").write_text("poll = 4\n")
    (tmp_path / "other.toml").write_text("grace = 3\n")

    for flags, environ in (
        ({"config": "other.toml"}, {}),
        ({}, {"PGTASK_CONFIG": "other.toml"}),
    ):
        config = loaded(tmp_path, flags=flags, environ=environ)
        assert (config.poll, config.grace, config.sources["grace"]) == (1.0, 3.0, "other.toml")
    with pytest.raises(ConfigError, match=r"no configuration file .*missing\.toml → check"):
        loaded(tmp_path, flags={"config": "missing.toml"})


@pytest.mark.parametrize("text", ["poll = \n", "[poll\n"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pgtask.toml").write_text(text)

    with pytest.raises(ConfigError, match=r"pgtask\.toml cannot be read: .*line"):
        loaded(tmp_path)


def test_a_table_of_ours_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\npgtask = 3\n")

    with pytest.raises(ConfigError, match="is not a table"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("7d", 604_800.0),
        ("1w", 604_800.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("1.5", 1.5),
        (" 12 ", 12.0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        (" localhost:0 ", ("localhost", 0)),
        (":8080", ("", 8080)),
        ("[::1]:65535", ("::1", 65_535)),
    ],
)
def test_an_address_is_read(text: str, parts: tuple[str, int]) -> None:
    assert host_and_port(text) == parts


@pytest.mark.parametrize(
    "text", ["", "soon", "5 minutes", "-1", "inf", "nan", "5mm", "h5", "1e999"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a duration → write 90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ada:geheim@db/shop",
        "postgresql://ada:ge@heim@db/shop",
        "postgresql://ada:ge/heim@db/shop",
        "postgresql://:geheim@db",
        "postgresql://ada@db/shop?password=geheim&sslmode=require",
        "host=db password=geheim dbname=shop",
        "host=db password = 'ge heim' dbname=shop",
        r"host=db PASSWORD='ge\'heim' dbname=shop",
        "host=db password='ge heim",
        "sslpassword=geheim",
    ],
)
def test_no_part_of_a_password_is_shown(dsn: str) -> None:
    shown = redact(dsn)

    assert "heim" not in shown
    assert "***" in shown


def test_a_dsn_without_a_password_is_shown_as_it_is() -> None:
    for dsn in ("postgresql://ada@db:5432/shop?sslmode=require", "host=db user=ada", ""):
        assert redact(dsn) == dsn


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "mysql:// is not it → use postgresql://user@host/database",
            "mysql:// is not it → use postgresql://user@host/database",
        ),
        (
            "tried postgresql://ada:ge@heim@db/x → use postgresql://user@host, @task",
            "tried postgresql://ada:***@db/x → use postgresql://user@host, @task",
        ),
        ("'host=h password=geheim' → correct it", "'host=h password=*** → correct it"),
    ],
)
def test_in_a_text_the_password_is_hidden_and_the_rest_is_left(text: str, shown: str) -> None:
    assert redact_text(text) == shown


def test_a_configuration_never_shows_its_password(tmp_path: Path) -> None:
    config = loaded(tmp_path, flags={"dsn": "postgresql://ada:geheim@db/shop"})

    assert "geheim" not in repr(config)


def test_a_refused_dsn_does_not_show_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        loaded(tmp_path, flags={"dsn": "mysql://ada:geheim@db/shop"})

    assert "geheim" not in str(refusal.value)


def test_the_release_is_the_projects_own() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()

    assert f'version = "{release()}"' in pyproject
