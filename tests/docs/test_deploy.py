"""docs/how-to/deploy/: the files there are read as those read them that they are for."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pgtask.cli import cli
from pgtask.config import host_and_port, parse_duration

DEPLOY = Path(__file__).parents[2] / "docs" / "how-to" / "deploy"
UNIT = DEPLOY / "pgtask-worker.service"
LEAVE = 5.0  # s that a worker may take beyond its grace

_SECTIONS = {
    "Unit": {"Description", "Wants", "After", "StartLimitIntervalSec"},
    "Service": {
        "Type", "NotifyAccess", "User", "WorkingDirectory", "EnvironmentFile", "ExecStartPre",
        "ExecStart", "ExecReload", "KillMode", "TimeoutStopSec", "TimeoutStartSec", "WatchdogSec",
        "Restart", "RestartSec", "RestartPreventExitStatus", "OOMPolicy", "NoNewPrivileges",
        "PrivateTmp", "ProtectSystem",
    },
    "Install": {"WantedBy"},
}  # fmt: skip


def parsed(words: list[str]) -> dict[str, Any]:
    """The options of the command that these words run; click's own error if they run none."""
    assert Path(words[0]).name == "pgtask"
    context = cli.make_context("pgtask", words[1:])
    arguments = [*context._protected_args, *context.args]
    name, command, rest = cli.resolve_command(context, arguments)
    assert command is not None
    with click.Context(command, parent=context, info_name=name):
        found = command.make_context(name, rest, parent=context)
    return {"command": name, **found.params}


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(
        strict=True, interpolation=None, delimiters=("=",), comment_prefixes=("#",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the documentation says
    parser.read_string(UNIT.read_text("utf-8"))
    return parser


def test_the_unit_has_known_settings_and_commands_that_there_are(
    unit: configparser.ConfigParser,
) -> None:
    assert {name: set(unit[name]) for name in unit.sections()} == _SECTIONS
    service = unit["Service"]

    assert service["Type"] == "notify"
    assert parsed(shlex.split(service["ExecStartPre"]))["command"] == "migrate"
    worker = parsed(shlex.split(service["ExecStart"]))
    assert worker["command"] == "worker"
    assert parse_duration(service["TimeoutStopSec"]) > worker["grace"] + LEAVE


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = re.sub(r"/srv/shop/venv/bin/pgtask\b", "/bin/true", UNIT.read_text("utf-8"))
    copy = tmp_path / UNIT.name
    copy.write_text(text, "utf-8")

    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )

    # It may have something to say about the units of this machine, too.
    assert [line for line in said.stderr.splitlines() if UNIT.name in line] == []


def test_the_deployment_selects_its_own_pods_and_asks_what_a_worker_answers() -> None:
    deployment = loaded("kubernetes.yaml")

    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    pod = template["spec"]
    (migrate,) = pod["initContainers"]
    assert parsed(migrate["args"])["command"] == "migrate"
    (container,) = pod["containers"]
    assert container["env"] == migrate["env"]
    worker = parsed(container["args"])
    assert worker["command"] == "worker"
    assert pod["terminationGracePeriodSeconds"] > worker["grace"] + LEAVE
    (port,) = container["ports"]
    # a probe comes from outside the pod
    assert host_and_port(worker["health"]) == ("", port["containerPort"])
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}


def test_the_composition_starts_workers_after_the_migration() -> None:
    composition = loaded("compose.yaml")

    services = composition["services"]
    assert set(services) == {"postgres", "migrate", "worker"}
    assert set(composition["volumes"]) == {"postgres"}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"}
    }
    assert services["worker"]["environment"] == services["migrate"]["environment"]
    assert parsed(services["migrate"]["command"])["command"] == "migrate"
    worker = parsed(services["worker"]["command"])
    assert worker["command"] == "worker"
    assert parse_duration(services["worker"]["stop_grace_period"]) > worker["grace"] + LEAVE
    host, port = host_and_port(worker["health"])
    assert f"http://{host}:{port}/readyz" in services["worker"]["healthcheck"]["test"][-1]


def test_the_image_starts_the_worker_without_a_shell() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    words = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines if line[:1].isupper()}

    assert yaml.safe_load(words["ENTRYPOINT"]) == ["tini", "--"]
    assert parsed(yaml.safe_load(words["CMD"]))["command"] == "worker"
