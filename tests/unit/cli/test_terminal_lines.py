"""What producer and consumer say on a terminal every five seconds, and what scripts get instead."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from backpressure.cli import status_lines
from backpressure.cli.status_lines import ConsumerLine, ProducerLine, telling, tells_progress
from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.settings import ConsumerSettings, ProducerSettings

PRODUCER = ProducerReport(
    id="alice", session=1, pid=11, host="lab", queue="work.queue", at_ns=0, offered=1000, published=130, confirmed=120,
    nacked=0, rejected=0, returned=0, republished=0, in_flight=10, window=100, target_rate_per_s=1000.0,
    pacing_rate_per_s=102.0, weight=1.0, application_limited=False, blocked=False, blocked_events=0, strategy="pace",
    reason="holding the\x1b queue", rss_bytes=1 << 25, cpu_s=0.5, bottleneck_per_s=100.0,
)  # fmt: skip
CONSUMER = ConsumerReport(
    id="slow", at_ns=0, queue="work.queue", processed=42, held=3, prefetch=5, busy_s=0.0, capacity_per_s=100.0
)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def producer_lines(*changes: dict[str, Any], depth: int | None = 12) -> list[str]:
    reports = iter([PRODUCER, *(replace(PRODUCER, **change) for change in changes)])
    line = ProducerLine(lambda: next(reports), lambda: depth)
    return [line() for _ in range(1 + len(changes))]


def test_a_producer_tells_rates_the_law_the_depth_and_the_wait_to_expect() -> None:
    first, second = producer_lines({"published": 630, "at_ns": 5 * 10**9})
    assert first == "sent     ?/s of  1000/s  allowed   102/s  depth    12  wait 120 ms  holding the· queue"
    assert second == "sent   100/s of  1000/s  allowed   102/s  depth    12  wait 120 ms  holding the· queue"


def test_what_is_not_known_or_has_no_limit_is_said_so() -> None:
    _, line = producer_lines(
        {"at_ns": 10**9, "pacing_rate_per_s": inf, "target_rate_per_s": inf, "bottleneck_per_s": None, "rejected": 7},
        depth=None,
    )
    assert line == "sent     0/s of       ∞  allowed       ∞  depth     ?  wait      ?  7 rejected  holding the· queue"


def test_on_80_columns_the_reason_is_left_out_before_a_line_would_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (line,) = producer_lines()
    assert line.endswith("wait 120 ms")
    assert len("12:00:00  " + line) <= 80


def test_a_consumer_tells_its_rate_and_the_waits_since_the_last_line() -> None:
    waits = Histogram()
    waits.record(30.0)
    later = waits.copy()
    later.record(0.02)
    reports = iter(
        [
            replace(CONSUMER, queue_wait=waits),
            replace(CONSUMER, at_ns=10**9, processed=137, queue_wait=later, dead_lettered=2, paused=True),
        ]
    )
    line = ConsumerLine(lambda: next(reports))
    line()
    assert line() == "done    95/s  of 100/s  held   3 of 5  wait p50  20 ms  p99  20 ms  2 dead-lettered  paused"


@pytest.mark.parametrize(
    ("terminal", "every", "expected"), [(False, 10_000, True), (True, 10_000, False), (True, 100, True)]
)
def test_lines_of_totals_are_for_scripts_and_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, every: int, expected: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert tells_progress(ProducerSettings(progress_every=every)) is expected
    assert tells_progress(ConsumerSettings(progress_every=every)) is expected


@pytest.mark.parametrize("terminal", [False, True])
def test_only_a_terminal_gets_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(status_lines, "_EVERY_S", 0.0)
    asked = 0

    def line() -> str:
        nonlocal asked
        asked += 1
        if asked == 3:
            enough.set()
        return f"line {asked}"

    async def story() -> None:
        async with telling(line):
            if terminal:
                await enough.wait()

    enough = asyncio.Event()
    asyncio.run(story())
    said = [text[10:] for text in capsys.readouterr().out.splitlines()]
    assert said[:1] == (["line 2"] if terminal else [])
