"""A run over a slow and lossy network, with hosts whose clocks differ: namespaces, where the machine can have them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Script
from lossy_network import Link, Network, missing

WHY_NOT = missing()
TOKEN = {"PACE_AGENT__TOKEN": "a token that only the tests know"}
URL = "amqp://me:secret@10.77.0.1/"
SCENARIO = """
name = "far"
[producer]
rate = 150
on = "agents"
[consumer]
count = 2
rate = 50
on = "agents"
[expect]
lost = "== 0"
[[phase]]
name = "steady"
duration_s = 6
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(2, Link(delay_s=0.02, jitter_s=0.003, loss=0.01)) as found:
        yield found


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it can")
def test_hosts_with_other_clocks_behind_a_lossy_network_lose_nothing_and_wait_as_long_as_physics_says(
    network: Network, tmp_path: Path, environment: dict[str, str]
) -> None:
    scripts: list[Script] = []

    def start(namespace: str, *words: str, clock_ahead_s: int = 0) -> Script:
        within = network.within(namespace, clock_ahead_s=clock_ahead_s)
        scripts.append(Script([*within, sys.executable, "-m", "backpressure", *words], tmp_path, environment | TOKEN))
        return scripts[-1]

    (tmp_path / "far.toml").write_text(SCENARIO)
    try:
        broker = start(network.hub, "broker", "--host", network.address, "--user", "me:secret", "--unlisted")
        broker.says("embedded broker ready")
        for number, name in enumerate(network.agents, start=1):
            start(name, "agent", "--join", URL, "--name", f"host-{number}", clock_ahead_s=10_000 * number)
            scripts[-1].says("waiting for runs")
        run = start(network.hub, "run", "far.toml", "--broker", URL, "--agents", "2")
        run.says("starting: monitor")
        run.says("phase 1 of 1")
        assert run.ends() == 0, run.text
    finally:
        for script in reversed(scripts):
            script.discard()
    folder = tmp_path / run.says(r"report: (\S+)/report.html")[1]
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    totals = summary["totals"]
    assert totals["lost"] == 0
    assert totals["confirmed"] == totals["processed"] > 100
    assert network.lost > 0
    one_way_ms = 17.0  # the delay without its jitter
    for agent in summary["agents"]:
        assert agent["round_trip_ms"] >= 2 * one_way_ms
        assert agent["clock_uncertainty_ms"] >= one_way_ms
    # From a host to the hub and on to a host or back: two ways at least, and no clock that is hours ahead.
    apart_ms = summary["clock_uncertainty_ms"]
    assert 2 * one_way_ms - apart_ms <= summary["wait_ms"]["p50"] < 10_000
