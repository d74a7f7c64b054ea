"""Expectations against figures."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.experiments.summary import find_metric, metric_paths, parse_expectation

FIGURES: dict[str, Any] = {
    "totals": {"lost": 0, "processed": 100},
    "utilisation": 0.95,
    "wait_ms": {"p99": None},
    "phases": [{"name": "first", "settle_s": 1.5, "wait_ms": {"p50": 3.0}, "reached": True}],
    "processes": [{"id": "consumer-1", "rss_max_mb": 40.0}],
}
KNOWN = metric_paths(["first", "never-begun"], ["consumer-1"])


@pytest.mark.parametrize(
    ("metric", "text", "held"),
    [
        ("lost", "== 0", True),
        ("totals.lost", "!= 0", False),
        ("processed", ">= 100", True),
        ("processed", "> 100", False),
        ("processed", "<= 1_00", True),
        ("processed", "< 1e2", False),
        ("utilisation", "between 0.95 and 1", True),
        ("utilisation", "between 0.96 and 1", False),
        ("phases.first.settle_s", "<= 1.5", True),
        ("phases.first.wait_ms.p50", "== 3", True),
        ("phases.first.reached", "== 1", True),
        ("processes.consumer-1.rss_max_mb", "< .5e2", True),
        ("phases.never-begun.settle_s", ">= 0", False),
        ("wait_ms.p99", "<= 300", False),  # what was not measured does not hold
    ],
)
def test_an_expectation_is_met_or_not(metric: str, text: str, held: bool) -> None:
    checked = parse_expectation(metric, text, KNOWN, "test").check(FIGURES)
    assert checked.held is held
    assert checked.value == find_metric(FIGURES, metric)


def test_every_numeric_figure_can_be_named() -> None:
    assert {
        "duration_s",
        "totals.dead_lettered",
        "dead_lettered",
        "utilisation",
        "confirm_ms.max",
        "depth.mean",
        "fairness_jain",
        "phases.first.wait_ms.p99",
        "phases.first.depth_max",
        "processes.consumer-1.cpu_s",
    } <= set(KNOWN)
    assert not {"verdict", "expectations", "phases.first.name", "wait_ms", "strategy"} & set(KNOWN)
