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


@pytest.mark.parametrize(
    ("metric", "text", "held"),
    [
        ("wait_ms.p99", "<= 500", False),
        ("wait_ms.p99", "<= 510", True),
        ("wait_ms.p99", ">= 470", True),
        ("wait_ms.p99", ">= 480", False),
        ("wait_ms.p99", "between 470 and 510", True),
        ("wait_ms.p99", "between 471 and 520", False),
        ("end_to_end_ms.p50", "< 50", False),
        ("phases.first.wait_ms.p50", "<= 25", True),
        ("wait_ms.count", "== 7", True),
        ("confirm_ms.p99", "<= 5", True),
    ],
)
def test_a_time_between_two_clocks_has_to_hold_however_wrong_they_are(metric: str, text: str, *, held: bool) -> None:
    spread = {"p50": 5.0, "p99": 5.0, "count": 7}
    figures = {
        "wait_ms": {"p99": 490.0, "count": 7},
        "end_to_end_ms": {"p50": 40.0},
        "confirm_ms": spread,
        "phases": [{"name": "first", "wait_ms": spread}],
        "clock_uncertainty_ms": 20.0,
    }
    check = parse_expectation(metric, text, KNOWN, "test").check(figures)
    assert check.held is held
    between = metric.rpartition(".")[0].endswith(("wait_ms", "end_to_end_ms")) and not metric.endswith("count")
    assert check.uncertainty == (20.0 if between else None)
    one_clock = parse_expectation(metric, text, KNOWN, "test").check(figures | {"clock_uncertainty_ms": None})
    assert one_clock.uncertainty is None
