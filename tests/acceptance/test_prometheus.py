"""A real Prometheus with a running experiment: it reads every metric, and each of our queries finds data.

Needs Debian's ``prometheus`` package (``prometheus`` and ``promtool``).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
import yaml

from backpressure.transports.rabbitmq_node import find_rabbitmq, private_node

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
DASHBOARDS = sorted((COMPOSE / "grafana" / "dashboards").glob("*.json"))
TOKEN = "s3cret"
SCRAPES = 10  # scrapes of each target before the first question: rates need a few
WITHOUT_RABBITMQ = "the embedded broker has no Prometheus plugin"
EMPTY = {  # panel → why it has nothing to show here
    "RabbitMQ: memory of each node": WITHOUT_RABBITMQ,
    "RabbitMQ: confirmed and acknowledged": WITHOUT_RABBITMQ,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def promtool(go_without: Callable[[str, str], NoReturn]) -> Callable[..., str]:
    """Return a function that runs promtool and returns what it printed; it must be content."""
    if not (shutil.which("promtool") and shutil.which("prometheus")):
        go_without("prometheus", "the package prometheus is not installed")

    def run(*arguments: str, stdin: str = "") -> str:
        ended = subprocess.run(
            ["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60
        )
        said = ended.stdout + ended.stderr
        assert ended.returncode == 0, said
        return said

    return run


@pytest.fixture
def experiment(start: Any, broker: Any, tmp_path: Path) -> dict[str, str]:
    """One producer, one consumer and a monitor at work; return the address of each."""
    where = ("--url", broker.url)
    settings = {
        "PACE_API__TOKEN": TOKEN,
        "PACE_QUEUE__WORK": "q.prometheus",
        "PACE_BROKER__MANAGEMENT_URL": broker.management_url,
    }
    scripts = {
        "consumer": ("slow_consumer.py", "--api-port", "0"),
        "producer": ("fast_producer.py", "--api-port", "0"),
        "monitor": ("monitor.py", "--port", "0", "--no-ui"),
    }
    addresses = {}
    for job, (script, *flags) in scripts.items():
        running = start(script, *where, *flags, **settings)
        addresses[job] = running.says(r"http://(127\.0\.0\.1:\d+)")[1]
    return addresses


@pytest.fixture
def configuration(experiment: dict[str, str], tmp_path: Path) -> Path:
    """The stack's own configuration, with this experiment's addresses and a scrape a second."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    content = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    content["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    content["scrape_configs"] = [job for job in content["scrape_configs"] if job["job_name"] in experiment]
    for job in content["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [experiment[job["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "api-token").write_text(TOKEN, encoding="utf-8")
    shutil.copy(COMPOSE / "prometheus" / "alerts.yml", folder)
    return folder / "prometheus.yml"


class Prometheus:
    """A running server, and the queries to it."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=60)

    def query(self, expression: str) -> list[float]:
        """Return the values of an instant query that are numbers; raises `AssertionError` when it is not PromQL."""
        content = self._get("/query", query=expression)
        assert content["status"] == "success", f"{expression}: {content}"
        result = content["data"]["result"]
        samples = [result] if content["data"]["resultType"] == "scalar" else [series["value"] for series in result]
        return [float(value) for _, value in samples if not isnan(float(value))]

    def rules(self) -> list[dict[str, Any]]:
        """Return all alert rules with their state."""
        return [rule for group in self._get("/rules")["data"]["groups"] for rule in group["rules"]]

    def has_scraped(self, jobs: int, times: int) -> bool:
        """Return whether every one of ``jobs`` was scraped so often."""
        try:
            return len(self.query(f"sum_over_time(up[5m]) >= {times}")) == jobs
        except (httpx.TransportError, json.JSONDecodeError):
            return False  # it does not listen yet, or only to say that it is not ready

    def close(self) -> None:
        self._client.close()

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        content: dict[str, Any] = self._client.get(path, params=parameters).json()
        return content


@pytest.fixture
def prometheus(
    promtool: object, configuration: Path, experiment: dict[str, str], free_port: int, wait_until: Any
) -> Iterator[Prometheus]:
    """A Prometheus that has watched the experiment for a while."""
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={configuration.parent / 'data'}"]
    log = (configuration.parent / "log").open("w")
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{free_port}", "--log.level=warn"], stderr=log, stdout=log
    )
    running = Prometheus(free_port)
    try:
        wait_until(lambda: running.has_scraped(len(experiment), SCRAPES), "Prometheus has scraped every program")
        yield running
    finally:
        running.close()
        process.terminate()
        process.wait(60)
        log.close()


def expressions(dashboard: Path) -> Iterator[tuple[str, str]]:
    """Yield (panel, PromQL) of every query, with a window that a busy machine fills."""
    for panel in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "30s")


def test_every_query_of_dashboards_and_alerts_finds_data_in_a_running_experiment(
    prometheus: Prometheus, wait_until: Any
) -> None:
    asked = [query for dashboard in DASHBOARDS for query in expressions(dashboard)]

    empty: set[str] = set()

    def only_those_are_empty() -> bool:
        empty.clear()
        empty.update(panel for panel, query in asked if not prometheus.query(query))
        return empty == set(EMPTY)

    # A quantile over half a minute is NaN where the machine was busy elsewhere for that long.
    with suppress(AssertionError):
        wait_until(only_those_are_empty, "every panel has data but some")
    assert empty == set(EMPTY)

    rules = prometheus.rules()
    assert {rule["name"]: (rule["health"], rule.get("lastError")) for rule in rules} == dict.fromkeys(
        _alerts(), ("ok", None)
    )
    for expression in _alerts().values():
        prometheus.query(expression)
        for series in re.findall(r"\b(?:pace_\w+|up)\b(?:\{[^}]*\})?", expression):
            assert prometheus.query(series), f"nothing is called {series}"
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []  # all is well there


def test_every_program_speaks_prometheus_without_a_blemish(
    promtool: Callable[..., str], experiment: dict[str, str]
) -> None:
    for address in experiment.values():
        answer = httpx.get(
            f"http://{address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=60
        ).raise_for_status()
        assert promtool("check", "metrics", stdin=answer.text) == ""


@pytest.mark.rabbitmq
def test_the_queries_about_rabbitmq_name_what_its_plugin_measures(
    go_without: Callable[[str, str], NoReturn], free_port: int
) -> None:
    server = find_rabbitmq()
    if server is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")
    names = {
        name
        for dashboard in DASHBOARDS
        for _, expression in expressions(dashboard)
        for name in re.findall(r"\brabbitmq_\w+", expression)
    }
    with private_node() as node:
        address = f'[{{ip, "127.0.0.1"}}, {{port, {free_port}}}]'
        node.ctl("eval", f"application:set_env(rabbitmq_prometheus, tcp_config, {address}).")
        enable = [str(server.with_name("rabbitmq-plugins")), "-n", node.node_name, "enable", "rabbitmq_prometheus"]
        subprocess.run(enable, env=node._environment, check=True, capture_output=True, timeout=60)
        text = httpx.get(f"http://127.0.0.1:{free_port}/metrics", trust_env=False, timeout=60).raise_for_status().text
    assert names
    assert names <= set(re.findall(r"^(\w+)", text, re.MULTILINE))


def test_the_configuration_is_valid(promtool: Callable[..., str], tmp_path: Path) -> None:
    shutil.copytree(COMPOSE / "prometheus", tmp_path, dirs_exist_ok=True)
    (tmp_path / "api-token").write_text(TOKEN, encoding="utf-8")
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_each_alert_fires_when_it_should_and_only_then(promtool: Callable[..., str]) -> None:
    tests = ROOT / "tests" / "acceptance" / "alerts.test.yml"
    promtool("test", "rules", str(tests))
    fired = {
        case["alertname"]
        for group in yaml.safe_load(tests.read_text(encoding="utf-8"))["tests"]
        for case in group["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == _alerts().keys()


def _alerts() -> dict[str, str]:
    groups = yaml.safe_load((COMPOSE / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
