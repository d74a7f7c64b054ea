"""The manifests for Kubernetes fit together: commands, scenario and names are valid, and nothing is root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from backpressure.cli.commands import pace
from backpressure.cli.options import overrides
from backpressure.config import load
from backpressure.experiments.agents.conversation import seal_of
from backpressure.experiments.agents.orders import check_orders
from backpressure.experiments.brokers import parse_choice
from backpressure.experiments.document import parse
from backpressure.experiments.scenario import build

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "kubernetes").glob("*.yaml"))
OBJECTS: list[dict[str, Any]] = [found for path in FILES for found in yaml.safe_load_all(path.read_text("utf-8"))]
SECRETS = {
    ("pace-broker-default-user", "host"): "pace-broker.default.svc",
    ("pace-broker-default-user", "username"): "someone",
    ("pace-broker-default-user", "password"): "Xk-3_f",
    ("pace-agents", "token"): "0123456789abcdef" * 2,
}
"""What the Cluster Operator writes for the cluster, and what the page says to create."""


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (found for found in OBJECTS if found["kind"] == kind)
    return found


def pods() -> list[tuple[str, dict[str, Any]]]:
    return [
        (found["kind"], found["spec"]["template"]["spec"]) for found in OBJECTS if "template" in found.get("spec", {})
    ]


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a container as the cluster would set it."""
    found = {}
    for entry in container["env"]:
        source = entry["valueFrom"]
        secret = source.get("secretKeyRef")
        found[entry["name"]] = SECRETS[secret["name"], secret["key"]] if secret else "pod-1"
    return found


def arguments(container: dict[str, Any]) -> list[str]:
    values = variables(container)
    return [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in container["args"]]


def parsed(container: dict[str, Any]) -> click.Context:
    name, *rest = arguments(container)
    command = pace.get_command(click.Context(pace), name)
    assert command is not None
    return command.make_context(name, rest)


def test_there_is_a_cluster_and_there_are_agents_and_a_run() -> None:
    assert [found["kind"] for found in OBJECTS] == [
        "Deployment",
        "RabbitmqCluster",
        "ConfigMap",
        "PersistentVolumeClaim",
        "Job",
    ]


@pytest.mark.parametrize(("kind", "pod"), pods())
def test_every_command_line_is_one_of_ours_and_its_settings_are_valid(kind: str, pod: dict[str, Any]) -> None:
    for container in pod["containers"]:
        context = parsed(container)
        settings = load(overrides(context), environ={"PACE_CONFIG": "", **variables(container)})
        seal_of(settings.agent)
        assert settings.broker.servers() == [("pace-broker.default.svc", 5672)]
        assert settings.broker.username == "someone"


def test_agents_and_run_meet_on_one_broker_in_one_group() -> None:
    (agent,), (run,) = (pod["containers"] for _, pod in pods())
    choice = parse_choice(parsed(run).params["broker"])
    theirs = load(overrides(parsed(agent)), environ={"PACE_CONFIG": "", **variables(agent)})
    assert choice.label == theirs.broker.address()
    assert theirs.agent.group == load(environ={"PACE_CONFIG": ""}).agent.group
    assert parsed(run).params["agents"] <= of_kind("Deployment")["spec"]["replicas"]
    cluster = of_kind("RabbitmqCluster")["metadata"]["name"]
    used = {name for name, _ in SECRETS}
    assert used == {f"{cluster}-default-user", "pace-agents"}


def test_the_scenario_can_be_played_on_agents() -> None:
    scenario = build(parse(of_kind("ConfigMap")["data"]["scenario.toml"], "scenario.toml"), "scenario.toml")
    assert scenario.on_agents == {"consumer", "producer"}
    for role in scenario.on_agents:
        for phase in scenario.phases:
            check_orders(role, phase.settings)


@pytest.mark.parametrize(("kind", "pod"), pods())
def test_what_a_pod_mounts_and_names_is_there(kind: str, pod: dict[str, Any]) -> None:
    sources = {volume["name"]: volume for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == sources.keys()
        mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
        for word in container["args"]:
            if word.startswith("/"):
                assert any(word.startswith(path) for path in mounted), word
    if "runs" in sources:
        claim = sources["runs"]["persistentVolumeClaim"]["claimName"]
        assert claim == of_kind("PersistentVolumeClaim")["metadata"]["name"]
        assert sources["scenario"]["configMap"]["name"] == of_kind("ConfigMap")["metadata"]["name"]


@pytest.mark.parametrize(("kind", "pod"), pods())
def test_nothing_is_root_or_open_and_no_secret_is_in_a_file(kind: str, pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert "ports" not in container
        context = container["securityContext"]
        assert context["runAsNonRoot"]
        assert f"--uid {context['runAsUser']} " in (ROOT / "Dockerfile").read_text(encoding="utf-8")
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert all("valueFrom" in entry for entry in container["env"])


def test_labels_select_the_agents() -> None:
    agents = of_kind("Deployment")["spec"]
    assert agents["selector"]["matchLabels"] == agents["template"]["metadata"]["labels"]
