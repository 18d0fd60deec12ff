"""What can't be run here is parsed, and every `pq …` in it is a command that the real command line takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pq_adapters.cli.root import root
from pq_core.schema import _MIGRATION_WAIT

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
KUBERNETES = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))
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
    pods = [one["spec"]["template"]["spec"] for one in manifests() if one["kind"] in ("Deployment", "Job")]
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


def test_no_pod_takes_anothers_place_before_it_holds_a_lease() -> None:
    [deployment] = [
        one for one in manifests() if one["kind"] == "Deployment" and one["metadata"]["name"] == "pq-worker"
    ]

    [worker] = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert worker["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "metrics"}
    # A restart mends no database: what restarts it asks for less.
    for probe in ("livenessProbe", "startupProbe"):
        assert worker[probe]["exec"]["command"][:3] == ["pq", "health", "--live"]


def test_workers_are_spread_over_nodes_and_zones() -> None:
    [(pod, _)] = [(pod, one) for pod, one in containers() if one["name"] == "worker"]

    spread = pod["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(one["labelSelector"]["matchLabels"] == {"app": "pq-worker"} for one in spread)


def test_every_container_is_confined() -> None:
    assert len(containers()) == 3
    for pod, container in containers():
        assert "limits" in container["resources"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_images_have_a_tag_that_stays() -> None:
    for _, container in containers():
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+|[\w./-]+@sha256:[0-9a-f]{64}", container["image"])


def test_a_migration_ends_and_gives_up_on_locks_before_that() -> None:
    [job] = [one for one in manifests() if one["kind"] == "Job"]
    migrate = unit(ROOT / "deploy" / "systemd" / "pq-migrate.service")["Service"]

    assert job["spec"]["activeDeadlineSeconds"] > _MIGRATION_WAIT
    assert float(migrate["TimeoutStartSec"]) > _MIGRATION_WAIT


def test_what_selects_pods_finds_them() -> None:
    pods = [one["spec"]["template"] for one in manifests() if one["kind"] in ("Deployment", "Job")]
    selectors = []
    for one in manifests():
        match one["kind"]:
            case "NetworkPolicy":
                selectors.append(one["spec"]["podSelector"]["matchLabels"])
            case "PodMonitor" | "PodDisruptionBudget" | "Deployment":
                selectors.append(one["spec"]["selector"]["matchLabels"])
            case "Service":
                selectors.append(one["spec"]["selector"])
    assert len(selectors) == 9
    for selector in selectors:
        assert any(selector.items() <= pod["metadata"]["labels"].items() for pod in pods), selector
    # Every pod is under a policy in both directions, and each port that one names is one of the container's.
    policies = [one["spec"] for one in manifests() if one["kind"] == "NetworkPolicy"]
    for pod in pods:
        labels = pod["metadata"]["labels"].items()
        mine = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels]
        assert {kind for one in mine for kind in one["policyTypes"]} == {"Ingress", "Egress"}
        ports = {port["name"] for one in pod["spec"]["containers"] for port in one.get("ports", ())}
        asked = {port["port"] for one in mine for rule in one.get("ingress", ()) for port in rule["ports"]}
        assert asked <= ports
    [monitor] = [one for one in manifests() if one["kind"] == "PodMonitor"]
    assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_every_manifest_is_a_resource_of_one_kustomization() -> None:
    named = []
    for path in KUSTOMIZATIONS:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        kinds = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}
        assert found["apiVersion"] == kinds[found["kind"]]
        for name in (*found["resources"], *found.get("components", ())):
            assert (path.parent / name).exists(), (path, name)
            named.append((path.parent / name).resolve())
    assert sorted(one for one in named if one.is_file()) == MANIFESTS


def render(folder: str) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl to render with")
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def test_overlay_is_rendered_with_its_image_and_leaves_the_number_of_workers_to_keda() -> None:
    found = {(one["kind"], one["metadata"]["name"]): one for one in render("example")}

    worker, dashboard = found["Deployment", "pq-worker"], found["Deployment", "pq-dashboard"]
    assert "replicas" not in worker["spec"]
    for one in (worker, dashboard):
        [container] = one["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example.com/shop:1.4.2"
        assert resolve(container["args"]).callback is not None
        assert "shop.jobs:pq" in container["args"]
    assert found["ScaledObject", "pq-worker"]["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    # Its workers have a PodMonitor, so nothing says to scrape them a second time; without the component they say so.
    assert ("PodMonitor", "pq-worker") in found
    assert not worker["spec"]["template"]["metadata"].get("annotations")
    [alone] = [one for one in render("base") if (one["kind"], one["metadata"]["name"]) == ("Deployment", "pq-worker")]
    assert alone["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scrape"] == "true"
    assert ("Job", "pq-migrate") not in found  # it runs before, by itself
    assert [one["kind"] for one in render("migrate")] == ["Job"]


def test_autoscaling_aims_at_what_a_pod_runs_at_once() -> None:
    [scaled] = [one for one in manifests() if one["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    [authentication] = [one for one in manifests() if one["kind"] == "TriggerAuthentication"]
    [worker] = [one for _, one in containers() if one["name"] == "worker"]

    variables = {one["name"]: one.get("value") for one in worker["env"]}
    assert trigger["metadata"]["targetQueryValue"] == variables["PQ_WORKER_CONCURRENCY"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert scaled["spec"]["minReplicaCount"] >= 1


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


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_are_started_again_however_often_they_end(path: Path) -> None:
    assert unit(path)["Unit"]["StartLimitIntervalSec"] == "0"
