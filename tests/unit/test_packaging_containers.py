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

from backpressure.cli.commands import pace
from backpressure.config import load

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load(
    (ROOT / "compose" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
)
GRAFANA = ROOT / "compose" / "grafana"
PROGRAMS = sorted(name for name, service in SERVICES.items() if "build" in service)


def instructions(keyword: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{keyword} ")]


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a service as they are without a .env file."""
    variables = service.get("environment", {})
    given = {name: value for name, value in variables.items() if value is not None}  # None: passed on where it is set
    return {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for name, value in given.items()}


def test_the_stack_is_complete() -> None:
    assert PROGRAMS == ["consumer", "further-consumer", "lab", "monitor", "producer"]
    assert SERVICES["rabbitmq"]["image"] == "rabbitmq:4-management"
    assert {"prometheus", "grafana", "jaeger"} < SERVICES.keys()
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        "further-consumer": ["consumers"],
        "kafka": ["kafka"],
        "rabbitmq-2": ["cluster"],
        "rabbitmq-3": ["cluster"],
    }


@pytest.mark.parametrize("strategy", ["pace", "unbounded", "bounded"])
def test_a_strategy_brings_its_bound_in_containers_and_the_consumer_declares_the_same(strategy: str) -> None:
    expected = load({"producer.strategy": strategy}, environ={"PACE_CONFIG": ""}).queue
    for name in ("producer", "consumer"):
        variables = environment(SERVICES[name])
        assert "PACE_PRODUCER__STRATEGY" in variables
        assert load(environ={**variables, "PACE_PRODUCER__STRATEGY": strategy, "PACE_CONFIG": ""}).queue == expected


def test_every_port_is_where_the_pages_say() -> None:
    published = {name: [port.split(":")[1] for port in service.get("ports", [])] for name, service in SERVICES.items()}
    assert {name: ports for name, ports in published.items() if ports} == {
        "rabbitmq": ["5672", "15672"],
        "producer": ["5000"],
        "consumer": ["8001"],
        "monitor": ["8000"],
        "lab": ["8080"],
        "prometheus": ["9090"],
        "grafana": ["3001"],
        "jaeger": ["16686"],
        "kafka": ["9092"],
    }


def test_images_are_of_a_named_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert all(re.search(r":v?\d", image) for image in images)


def test_what_is_mounted_exists_and_is_read_only() -> None:
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    files = [volume.split(":") for volume in volumes if volume.startswith("./")]
    assert len(files) == 5
    assert all((ROOT / source).exists() and mode == "ro" for source, _, mode in files)
    assert {volume.split(":")[0] for volume in volumes if not volume.startswith("./")} == COMPOSE["volumes"].keys()


def test_prometheus_scrapes_every_program_where_it_listens_and_has_its_token() -> None:
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    token = {config["target"]: config["source"] for config in SERVICES["prometheus"]["configs"]}
    for service in PROGRAMS:
        name, settings = service.removeprefix("further-"), load(environ=environment(SERVICES[service]))
        assert token[f"/etc/prometheus/{jobs[name]['authorization']['credentials_file']}"] == "api-token"
        content = {"content": COMPOSE["configs"]["api-token"]["content"]}
        assert environment({"environment": content})["content"] == settings.api.token.get_secret_value()
    addresses = {
        name: f"{found['names'][0]}:{found['port']}"
        for name, job in jobs.items()
        for found in job.get("dns_sd_configs", [])
    }
    assert addresses == {"producer": "producer:5000", "consumer": "consumers:8001", "rabbitmq": "rabbitmq-nodes:15692"}
    assert jobs["monitor"]["static_configs"] == [{"targets": ["monitor:8000"]}]
    assert jobs["lab"]["static_configs"] == [{"targets": ["lab:8080"]}]


def test_the_nodes_of_the_cluster_know_each_other_and_share_cookie_and_users() -> None:
    nodes = {name: service for name, service in SERVICES.items() if name.startswith("rabbitmq")}
    peers = re.findall(r"nodes\.\d = rabbit@(\S+)", COMPOSE["configs"]["rabbitmq-cluster"]["content"])
    assert peers == [service["hostname"] for service in nodes.values()] == list(nodes)
    assert len({json.dumps(environment(service)) for service in nodes.values()}) == 1
    assert all(service["networks"]["pace"]["aliases"] == ["rabbitmq-nodes"] for service in nodes.values())


def test_programs_that_are_built_have_images_of_their_own() -> None:
    assert all("image" not in SERVICES[name] and SERVICES[name]["build"] == "." for name in PROGRAMS)


def test_a_published_port_is_one_port_and_what_is_scaled_publishes_none() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert not [port for port in ports if "-" in port]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    scaled = re.findall(r"--scale ([\w-]+)=", makefile)
    assert scaled == ["further-consumer"]
    assert all(not SERVICES[name]["ports"] for name in scaled)
    consumers = [SERVICES[name] for name in ("consumer", "further-consumer")]
    assert all(service["networks"]["pace"]["aliases"] == ["consumers"] for service in consumers)
    assert consumers[0]["environment"] == consumers[1]["environment"]


def test_what_a_mounted_file_holds_of_the_environment_changes_its_container_too() -> None:
    content = COMPOSE["configs"]["api-token"]["content"]
    assert SERVICES["prometheus"]["environment"]["PACE_API__TOKEN"] == content


def test_the_pages_name_services_and_profiles_that_exist_and_end_all_of_them() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in [ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")])
    commands = re.findall(
        r"docker compose((?: --profile \S+)*) (up|down|ps|logs|kill|start|restart|exec)\b([^`\n#;)>]*)", pages
    )
    assert len(commands) > 15
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    for options, verb, rest in commands:
        chosen = re.findall(r"--profile '?([\w*-]+)", options)
        assert set(chosen) <= {*profiles, "*"}, options
        assert verb != "down" or chosen == ["*"], "a container of a profile would stay, and the network with it"
        names = [word.partition("=")[0] for word in rest.split() if not re.match(r"-|\d", word)]
        assert set(names[:1] if verb == "exec" else names) <= SERVICES.keys(), rest


def test_nothing_is_mounted_over_a_folder_of_grafana() -> None:
    targets = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert [target for target in targets if target.startswith("/etc/grafana/provisioning")] == [
        "/etc/grafana/provisioning/datasources/stack.yml",
        "/etc/grafana/provisioning/dashboards/pace.yml",
    ]


def test_grafana_finds_its_dashboards_and_they_find_prometheus() -> None:
    provisioning = GRAFANA / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources" / "stack.yml").read_text(encoding="utf-8"))["datasources"]
    assert {source["uid"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "jaeger": "http://jaeger:16686",
    }
    providers = yaml.safe_load((provisioning / "dashboards" / "pace.yml").read_text(encoding="utf-8"))["providers"]
    folder = providers[0]["options"]["path"]
    assert f"./compose/grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
    home = environment(SERVICES["grafana"])["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / Path(home).name).is_file()


def test_the_dashboards_are_what_their_table_says() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in (GRAFANA / "dashboards").iterdir()}
    assert written == runpy.run_path(str(ROOT / "tools" / "dashboards.py"))["dashboards"](), "make docs"


@pytest.mark.parametrize("name", ["backpressure-lab", "pace-operations"])
def test_the_panels_of_a_dashboard_fill_whole_rows(name: str) -> None:
    panels = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))["panels"]
    rows: dict[int, int] = {}
    for place in (panel["gridPos"] for panel in panels):
        rows[place["y"]] = rows.get(place["y"], 0) + place["w"]
    assert set(rows.values()) == {24}


@pytest.mark.parametrize("name", ["backpressure-lab", "pace-operations"])
def test_every_panel_has_a_place_a_unit_and_a_legend_of_its_own(name: str) -> None:
    content = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    assert content["schemaVersion"] == 39
    panels = content["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        x, y, width, height = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, row) for column in range(x, x + width) for row in range(y, y + height)}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends)
        assert all(legends) or panel["type"] == "stat"
        assert len({target["refId"] for target in panel["targets"]}) == len(legends)
    assert max(column for column, _ in taken) == 23


def test_the_lab_dashboard_shows_what_a_lab_is_about() -> None:
    content = json.loads((GRAFANA / "dashboards" / "backpressure-lab.json").read_text(encoding="utf-8"))
    assert content["title"] == "Backpressure Lab"
    titles = {panel["title"] for panel in content["panels"]}
    assert {"Depth", "Throughput of both sides", "Rejected", "Limiter delay", "Memory", "Queue wait"} < titles


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_restarted_and_on_the_common_network(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) != ("build" in service)  # the image of the programs brings its own
    assert service["restart"] == "unless-stopped"
    assert set(service["networks"]) <= set(COMPOSE["networks"])


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_waits_for_a_healthy_broker(name: str) -> None:
    depends_on = SERVICES[name]["depends_on"]
    nodes = {name: service for name, service in SERVICES.items() if name.startswith("rabbitmq")}
    assert depends_on.keys() == nodes.keys()
    assert {condition["condition"] for condition in depends_on.values()} == {"service_healthy"}
    for node, service in nodes.items():  # those of a profile need not be there, but if they are, they have joined
        assert depends_on[node].get("required", True) is ("profiles" not in service)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_command_of_a_program_and_its_flags_exist(name: str) -> None:
    command, *flags = SERVICES[name]["command"]
    found = pace.get_command(click.Context(pace), command)
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
        f"amqp://{broker['RABBITMQ_DEFAULT_USER']}:{broker['RABBITMQ_DEFAULT_PASS']}@rabbitmq-nodes:5672/%2F"
    )
    assert settings.broker.management_url == "http://rabbitmq-nodes:15672"
    assert settings.tracing.endpoint == "http://jaeger:4318"
    assert settings.api.host == "0.0.0.0"
    assert settings.api.token.get_secret_value()


def test_producer_and_consumer_agree_on_the_queue() -> None:
    queues = [
        {k: v for k, v in environment(SERVICES[name]).items() if "QUEUE" in k} for name in ("producer", "consumer")
    ]
    assert queues[0] == queues[1] != {}


def test_the_lab_finds_kafka_without_a_setting_and_rabbitmq_whatever_the_others_use() -> None:
    settings = load(environ=environment(SERVICES["lab"]) | {"PACE_CONFIG": ""})
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert dict(listener.split("://") for listener in listeners.split(","))["INSIDE"] == "kafka:19092"
    assert settings.lab.kafka_url == "kafka://kafka:19092"
    assert SERVICES["lab"]["environment"]["PACE_BROKER__URL"] == ""
    assert settings.broker.full_url().startswith("amqp://")


def test_the_memory_of_the_producer_is_bounded() -> None:
    assert SERVICES["producer"]["mem_limit"] == "256m"


def test_the_image_is_slim_runs_without_privileges_and_has_a_health_check() -> None:
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
    """Replaces one of the programs: it answers requests that have the token."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Bearer lab"
        self.send_response(200 if known and self.path == "/ready" else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


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
