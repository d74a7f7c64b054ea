"""The examples of docs/proxy.md are complete: they are YAML, and the proxy takes their options and settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from backpressure.cli.commands import load, pace
from backpressure.config import load as load_settings

PAGE = (Path(__file__).parents[2] / "docs" / "proxy.md").read_text(encoding="utf-8")
DOCUMENTS: list[Any] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
DEPLOYMENT = next(document for document in DOCUMENTS if document.get("kind") == "Deployment")
COMPOSE = next(document for document in DOCUMENTS if "services" in document)


def parsed(command: list[str]) -> click.Context:
    assert command[:2] == ["pace", "proxy"]
    parent = click.Context(pace, info_name="pace", **pace.context_settings)
    return load("proxy").make_context("proxy", command[2:], parent=parent)


def test_the_sidecar_starts_before_the_application_which_connects_to_it() -> None:
    pod = DEPLOYMENT["spec"]["template"]["spec"]
    [proxy], [app] = pod["initContainers"], pod["containers"]
    listen = parsed(proxy["command"]).params["listen"]
    assert proxy["restartPolicy"] == "Always"
    assert f"@{listen}/" in next(entry["value"] for entry in app["env"] if entry["name"] == "AMQP_URL")
    assert proxy["startupProbe"]["tcpSocket"] == {"host": "127.0.0.1", "port": int(listen.rpartition(":")[2])}
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == DEPLOYMENT["spec"]["template"]["metadata"]["labels"]


def test_the_settings_of_the_sidecar_exist() -> None:
    [proxy] = DEPLOYMENT["spec"]["template"]["spec"]["initContainers"]
    given = {entry["name"]: entry.get("value", "amqp://u:p@broker:5672/") for entry in proxy["env"]}
    settings = load_settings(environ={"PACE_CONFIG": ""} | given)
    assert (settings.api.host, settings.broker.url) == ("0.0.0.0", "amqp://u:p@broker:5672/")


def test_in_compose_the_application_connects_to_the_proxy_and_that_to_the_broker() -> None:
    services = COMPOSE["services"]
    proxy, writer = services["pace-proxy"], services["writer"]
    context = parsed(proxy["command"])
    assert context.params["listen"] == "0.0.0.0:5673"
    assert "@pace-proxy:5673/" in writer["environment"]["AMQP_URL"]
    settings = load_settings(environ={"PACE_CONFIG": ""} | proxy["environment"])
    assert "@rabbitmq:5672/" in settings.broker.url
    assert set(proxy["depends_on"]) <= set(services)


@pytest.mark.parametrize("name", ["AMQP 1.0", "MQTT", "Kafka", "streams"])
def test_what_it_cannot_do_is_said(name: str) -> None:
    assert name in PAGE.partition("## What it cannot do")[2]
