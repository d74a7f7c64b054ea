"""The image and the compose file: what they name exists, what they set is valid, and nothing is open to the world."""

from __future__ import annotations

import json
import re
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from backpressure.cli.main import main
from backpressure.config import load

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROGRAMS = sorted(name for name, service in SERVICES.items() if "build" in service)


def instructions(keyword: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{keyword} ")]


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a service as they are without a .env file."""
    variables = service.get("environment", {})
    return {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in variables.items()}


def test_the_stack_is_complete() -> None:
    assert PROGRAMS == ["consumer", "monitor", "producer"]
    assert SERVICES["rabbitmq"]["image"] == "rabbitmq:4-management"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_restarted_and_on_the_common_network(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) != ("build" in service)  # the image of the programs brings its own
    assert service["restart"] == "unless-stopped"
    assert set(service["networks"]) <= set(COMPOSE["networks"])


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_waits_for_a_healthy_broker(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {"rabbitmq": {"condition": "service_healthy"}}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_command_of_a_program_and_its_flags_exist(name: str) -> None:
    command, *flags = SERVICES[name]["command"]
    found = main.get_command(click.Context(main), command)
    assert found is not None
    assert set(flags) <= {flag for parameter in found.params for flag in parameter.opts + parameter.secondary_opts}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_environment_of_a_program_is_made_of_valid_settings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(environ=environment(SERVICES[name]))
    broker = environment(SERVICES["rabbitmq"])
    assert settings.broker.full_url() == (
        f"amqp://{broker['RABBITMQ_DEFAULT_USER']}:{broker['RABBITMQ_DEFAULT_PASS']}@rabbitmq:5672/%2F"
    )
    assert settings.api.host == "0.0.0.0"
    assert settings.api.token.get_secret_value()


def test_producer_and_consumer_agree_on_the_queue() -> None:
    queues = [
        {k: v for k, v in environment(SERVICES[name]).items() if "QUEUE" in k} for name in ("producer", "consumer")
    ]
    assert queues[0] == queues[1] != {}


def test_the_memory_of_the_producer_is_bounded() -> None:
    assert SERVICES["producer"]["mem_limit"] == "256m"


def test_the_image_is_slim_runs_as_nobody_special_and_says_how_it_is() -> None:
    assert instructions("FROM") == ["python:3.13-slim"]
    assert instructions("USER") == ["pace"]
    assert "useradd --system" in DOCKERFILE
    assert len(instructions("HEALTHCHECK")) == 1
    assert instructions("ENTRYPOINT") == ['["pace"]']


def test_what_the_image_copies_exists_and_is_let_through_to_the_builder() -> None:
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    copied = {source for line in instructions("COPY") for source in line.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_the_example_environment_is_made_of_valid_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").replace("\n#PACE", "\nPACE")
    (tmp_path / ".env").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = load(environ={})
    assert settings.api.token.get_secret_value() == "change-me"
    assert settings.producer.rate == 1000


class _Program(BaseHTTPRequestHandler):
    """Stands in for one of the programs: it answers those who know the token."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer lab"
        self.send_response(200 if known and self.path in {"/health", "/metrics"} else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Program) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("token", "healthy"), [("lab", True), ("wrong", False)])
@pytest.mark.parametrize(("fact", "path"), [("api_url", ""), ("metrics_url", "/metrics")])
def test_a_program_that_answers_is_healthy(
    token: str, healthy: bool, fact: str, path: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = tmp_path / "pace.json"
    announced.write_text(json.dumps({fact: f"{address}{path}"}), encoding="utf-8")
    monkeypatch.setenv("PACE_PROCESS__ANNOUNCE_FILE", str(announced))
    monkeypatch.setenv("PACE_API__TOKEN", token)
    problem = runpy.run_path(str(ROOT / "compose" / "healthy.py"))["main"]()
    assert (problem is None) == healthy


def test_a_program_that_is_not_connected_yet_is_not_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACE_PROCESS__ANNOUNCE_FILE", str(tmp_path / "not-yet.json"))
    assert "not ready" in runpy.run_path(str(ROOT / "compose" / "healthy.py"))["main"]()
