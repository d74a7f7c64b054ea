"""Runs whose producers and consumers are on agents: real programs, on a broker that they share."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import Broker, Script, Starter, eventually

TOKEN = {"PACE_AGENT__TOKEN": "a token that only the tests know", "PACE_AGENT__PATIENCE_S": "8"}

SCENARIO = """
name = "elsewhere"
[producer]
rate = 150
on = "agents"
[consumer]
count = 3
rate = 40
on = "agents"
[expect]
lost = "== 0"
[[phase]]
name = "steady"
duration_s = {first_s}
"""
MORE = """
[[phase]]
name = "hang"
duration_s = 1.5
fault = "consumer-stop:for_s=0.5"
[[phase]]
name = "more"
duration_s = 1
consumer.count = 4
consumer.rate = 60
[[phase]]
name = "kill"
duration_s = 2
fault = "consumer-kill:for_s=0.2"
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[..., str]:
    def write(first_s: float, more: str = "") -> str:
        path = tmp_path / "elsewhere.toml"
        path.write_text(SCENARIO.format(first_s=first_s) + more)
        return str(path)

    return write


def agent(start: Starter, broker: Broker, group: str, name: str, **settings: str) -> Script:
    found = start("agent", "--join", broker.url, "--group", group, "--name", name, **{**TOKEN, **settings})
    found.says(f"agent {name}: waiting for runs of the group {group}")
    return found


def run(start: Starter, broker: Broker, group: str, scenario: str, *more: str, **settings: str) -> Script:
    options = ["--broker", broker.url, "--group", group, *more]
    return start("run", scenario, *options, **{**TOKEN, **settings})


def summary_of(found: Script, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    folder = (tmp_path / found.says(r"report: (\S+)/report.html")[1]).resolve()
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary, folder


def children(script: Script) -> list[psutil.Process]:
    return psutil.Process(script.pid).children(recursive=True)


def names(broker: Broker, kind: str) -> list[str]:
    answer = httpx.get(f"{broker.management_url}/api/{kind}", auth=("guest", "guest"), trust_env=False, timeout=60)
    return [entry["name"] for entry in answer.raise_for_status().json()]


@pytest.mark.slow
def test_two_agents_play_all_parts_and_leave_nothing_behind(
    start: Starter, broker: Broker, scenario: Callable[..., str], tmp_path: Path
) -> None:
    agents = [agent(start, broker, "all", name) for name in ("one", "two")]
    found = run(start, broker, "all", scenario(2, MORE), "--agents", "2")
    found.says("starting: monitor")
    for number in range(1, 5):
        found.says(f"phase {number} of 4")
    assert found.ends() == 0, found.text
    for each in agents:
        each.says("taking part in the run")
        each.says("the run is over; waiting for the next run")
    summary, folder = summary_of(found, tmp_path)
    totals = summary["totals"]
    assert totals["lost"] == 0
    assert totals["confirmed"] == totals["processed"] > 100
    assert {entry["name"]: entry["lost"] for entry in summary["agents"]} == {"one": False, "two": False}
    errors_ms = [entry["clock_uncertainty_ms"] for entry in summary["agents"]]
    assert max(errors_ms) <= summary["clock_uncertainty_ms"] <= 2 * max(errors_ms)
    where = {process["id"]: process["agent"] for process in summary["processes"]}
    assert {where[f"consumer-{number}"] for number in range(1, 4)} == {"one", "two"}
    assert where["monitor"] == ""
    costs = [process["cpu_s"] for process in summary["processes"] if process["agent"]]
    assert sum(cost is not None for cost in costs) >= 4
    for process, place in where.items():
        if place:
            journal = folder / "journals" / f"{process}.journal"
            assert journal.stat().st_size % 64 == 0
            assert f" {process}: " in (folder / "logs" / f"{process}.log").read_text()
    found.says(r"each ± .* ms \(clocks of 2 agents\)")
    assert [child for each in agents for child in children(each)] == []
    for each in agents:
        each.signal(signal.SIGTERM)
        assert each.ends() == 0, each.text
    eventually(
        lambda: not [name for name in names(broker, "queues") if name.startswith("pace.")], "its queues are gone"
    )
    assert [name for name in names(broker, "exchanges") if name.startswith("pace.agents")] == []


@pytest.mark.slow
def test_a_killed_agent_ends_the_run_which_names_it_and_judges_what_came_back(
    start: Starter, broker: Broker, scenario: Callable[..., str], tmp_path: Path
) -> None:
    lost, other = (agent(start, broker, "killed", name) for name in ("lost", "other"))
    found = run(start, broker, "killed", scenario(60), "--agents", "2")
    found.says("starting: monitor")
    found.says("phase 1 of 1")
    eventually(lambda: children(lost), "it has processes")
    eventually(lambda: psutil.Process(lost.pid).cpu_times().user > 0, "it works")
    orphans = children(lost)
    found.says(r"processed +[1-9]\d* msg/s")
    lost.signal(signal.SIGKILL)
    found.says(r"error after .*: the agent lost \(.*\) was lost with \d processes: it gave no sign of life for \d+ s")
    assert found.ends() == 3, found.text
    assert not [orphan for orphan in orphans if orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE]
    summary, _ = summary_of(found, tmp_path)
    assert summary["verdict"] == "error"
    assert "the agent lost" in summary["sentence"]
    assert summary["totals"]["processed"] > 0
    assert summary["totals"]["lost"] is None  # what its journals had is not known
    assert {entry["name"]: entry["lost"] for entry in summary["agents"]} == {"lost": True, "other": False}
    other.says("waiting for the next run")
    assert children(other) == []


@pytest.mark.slow
def test_an_agent_whose_run_was_killed_stops_its_processes_and_takes_the_next_run(
    start: Starter, broker: Broker, scenario: Callable[..., str], tmp_path: Path
) -> None:
    only = agent(start, broker, "again", "only")
    first = run(start, broker, "again", scenario(60))
    first.says("starting: monitor")
    first.says("phase 1 of 1")
    eventually(lambda: children(only), "it has processes")
    first.signal(signal.SIGKILL)
    only.says(r"the run gave no sign of life for \d+ s: it is over; waiting for the next run")
    assert children(only) == []
    second = run(start, broker, "again", scenario(60))
    second.says("starting: monitor")
    second.says("phase 1 of 1")
    only.signal(signal.SIGINT)  # the agent ends in the middle: what its processes have recorded is not lost
    assert only.ends() == 0, only.text
    second.says(r"the agent only \(.*\) was stopped, with its \d processes")
    assert second.ends() == 3, second.text
    summary, _ = summary_of(second, tmp_path)
    assert summary["totals"]["lost"] == 0


def test_who_has_another_token_is_not_taken_and_the_run_says_what_is_missing(
    start: Starter, broker: Broker, scenario: Callable[..., str]
) -> None:
    other = agent(start, broker, "token", "other", PACE_AGENT__TOKEN="another token of the same length")
    found = run(start, broker, "token", scenario(2), "--agents", "2", "--agents-wait", "2")
    assert found.ends() == 3
    found.says(
        r"error: 0 of 2 agents joined within 2 s \(none\); start more, with the same PACE_AGENT__TOKEN: "
        rf"pace agent --join amqp://127.0.0.1:{broker.port} --group token"
    )
    other.says("a message without valid authenticity is ignored: it was sent under another agent.token")
    assert sum("authenticity" in line for line in other.lines) == 1


def test_neither_side_begins_without_a_token(start: Starter, broker: Broker, scenario: Callable[..., str]) -> None:
    for found in (start("agent", "--join", broker.url), start("run", scenario(2), "--broker", broker.url)):
        assert found.ends() == 2
        found.says("agent.token = '.*': agents and their runs share a secret of at least 16 characters")
