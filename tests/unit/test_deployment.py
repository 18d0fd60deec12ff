"""What can't be run here is parsed, and every `pq …` in it is a command that the real command line takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pq_adapters.cli.root import root

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(sh|console|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def resolve(words: list[str]) -> click.Command:
    """Have click parse the arguments of ``pq`` as they are, without running anything; return the command."""
    context = root.make_context("pq", list(words), resilient_parsing=False)
    command: click.Command = root
    rest = [*context._protected_args, *context.args]
    while isinstance(command, click.Group):
        with context:
            name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        context = found.make_context(name, rest, parent=context)
        command, rest = found, [*context._protected_args, *context.args]
    return command


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def in_lines(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each line that begins with ``pq``, after a prompt maybe; placeholders are left out."""
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip().removeprefix("$ ").partition(" #")[0].rstrip("& ").strip()
        if not line.startswith("pq ") or re.search(r"[…\[\]<>|;]|\.\.\.", line):
            continue
        yield shlex.split(line)[1:]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


def manifests() -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def containers() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    pods = [one["spec"]["template"]["spec"] for one in manifests() if "template" in one["spec"]]
    return [(pod, container) for pod in pods for container in pod["containers"]]


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command of ours, with where it stands."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.MULTILINE)[0]) == ["pq"]
    yield "Dockerfile", json.loads(re.findall(r"^CMD (.*)$", dockerfile, re.MULTILINE)[0])
    for name, service in compose()["services"].items():
        if "entrypoint" in service:
            script = service["command"][0]
            for part in re.split(r"\|\|?|&&", script):
                if part.split()[0] == "pq":
                    yield f"compose.yaml: {name}", shlex.split(part)[1:]
        elif service.get("image") == "pq-toolkit":
            yield f"compose.yaml: {name}", service["command"]
        test = service.get("healthcheck", {}).get("test", [])
        if test[1:2] == ["pq"]:
            yield f"compose.yaml: {name}'s health", test[2:]
    for _, container in containers():
        yield f"kubernetes: {container['name']}", container["args"]
        for probe in ("livenessProbe", "startupProbe", "readinessProbe"):
            words = container.get(probe, {}).get("exec", {}).get("command", [])
            if words:
                assert words[0] == "pq"
                yield f"kubernetes: {container['name']}'s {probe}", words[1:]
    for path in UNITS:
        for option, value in unit(path)["Service"].items():
            words = shlex.split(value)
            if option.startswith("Exec") and words[0].endswith("/pq"):
                yield path.name, words[1:]
    for page in PAGES:
        for _, block in FENCE.findall(page.read_text(encoding="utf-8")):
            for words in in_lines(block):
                yield str(page.relative_to(ROOT)), words


FOUND = [pytest.param(words, id=f"{place}: {' '.join(words)[:70]}") for place, words in commands()]


@pytest.mark.parametrize("words", FOUND)
def test_command_is_one_that_pq_takes(words: list[str]) -> None:
    assert resolve(words).callback is not None


def test_commands_are_found_in_every_kind_of_file() -> None:
    places = {place.partition(":")[0] for place, _ in commands()}

    assert {"Dockerfile", "compose.yaml", "kubernetes", "pq-worker.service", "docs/operations.md"} <= places
    assert len(FOUND) > 40


@pytest.mark.parametrize(
    "words", [["wrker"], ["worker"], ["worker", "a:b", "--nope"], ["queues", "stop", "x"], ["top", "--interval", "x"]]
)
def test_the_check_itself_sees_mistakes(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        resolve(words)


def test_image_runs_as_nobody_in_particular() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    final = text.rpartition("\nFROM ")[2]
    assert "-slim" in final.splitlines()[0]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert all(path.exists() for name in re.findall(r"^COPY ([^-\s][^\n]*) \S+$", text, re.MULTILINE)
               for path in [ROOT / part for part in name.split()])  # fmt: skip


def test_one_image_serves_migration_worker_and_dashboard_in_order() -> None:
    services = compose()["services"]

    ours = {name for name, service in services.items() if service.get("image") == "pq-toolkit"}
    assert ours == {"migrate", "setup", "worker", "dashboard"}
    assert services["worker"]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert seconds(services["worker"]["stop_grace_period"]) >= 25 + 5
    assert services["worker"]["environment"]["PQ_WORKER_MEMORY_LIMIT"] == "auto"


def test_kubernetes_waits_longer_than_a_drain_and_tells_the_memory_limit() -> None:
    [(pod, worker)] = [(pod, one) for pod, one in containers() if one["name"] == "worker"]

    drain = float(worker["args"][worker["args"].index("--drain-timeout") + 1])
    variables = {one["name"]: one.get("value") for one in worker["env"]}
    assert pod["terminationGracePeriodSeconds"] >= drain + 5
    assert worker["resources"]["limits"]["memory"]
    assert variables["PQ_WORKER_MEMORY_LIMIT"] == "auto"
    assert variables["PQ_WORKER_METRICS_PORT"] == str(worker["ports"][0]["containerPort"])
    for probe in ("livenessProbe", "startupProbe", "readinessProbe"):
        assert worker[probe]


def test_every_container_is_confined() -> None:
    for pod, container in containers():
        assert "limits" in container["resources"]
        if container["name"] != "migrate":
            assert pod["securityContext"]["runAsNonRoot"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_variables_of_the_worker_are_ones_that_it_reads() -> None:
    worker = root.get_command(click.Context(root), "worker")
    assert worker is not None
    known = {f"PQ_WORKER_{param.name.upper()}" for param in worker.params if param.name}
    text = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "compose.yaml", *MANIFESTS, *UNITS])

    assert set(re.findall(r"PQ_WORKER_[A-Z_]+", text)) <= known


def test_units_stop_in_good_order() -> None:
    service = unit(ROOT / "deploy" / "systemd" / "pq-worker.service")["Service"]

    drain = float(re.findall(r"--drain-timeout (\d+)", service["ExecStart"])[0])
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert float(service["TimeoutStopSec"]) >= drain + 5
    assert float(service["WatchdogSec"]) >= 30
