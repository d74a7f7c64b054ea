"""A run on a terminal, in a log, and its verdict."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console

from backpressure.core.snapshot import Event, EventKind, Snapshot, Totals
from backpressure.dashboards.cards_loop import sparkline
from backpressure.dashboards.lines import RunLines
from backpressure.dashboards.run_view import RunLive, progress_bar, verdict

Make = Callable[..., Snapshot]

PHASES = [("normal", 20.0), ("stopped", 10.0)]


def by_time(_: Snapshot) -> None:
    """Nothing but time tells how far the phase is."""


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 5, ""),
        ([0, 0], 5, "▁▁"),
        ([0, 50, 100], 5, "▁▅█"),
        ([100, 1, 2, 4], 3, "▃▅█"),  # the scale is that of what is shown
        ([None, 10], 5, " █"),
    ],
)
def test_a_sparkline_shows_the_latest_values_from_zero_to_their_largest(
    values: Sequence[float | None], width: int, bars: str
) -> None:
    assert sparkline(values, width) == bars


@pytest.mark.parametrize("width", [20, 33, 80])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_progress_bar_names_its_phases_and_keeps_to_its_width(width: int, share: float) -> None:
    bar = progress_bar(PHASES, 1, share, width)
    assert set(bar.plain.split()) <= {"normal", "stopped"}  # a name is whole or not there
    assert "normal" in bar.plain
    assert len(bar.plain) <= width + len(PHASES)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_names_of_phases_stay_whole_however_narrow_the_terminal_is(snapshot: Make, width: int) -> None:
    drawn = picture(
        width,
        lambda live: live.began("recovery: a story", "RabbitMQ 4", "work.queue", [*PHASES, ("recovery", 30.0)]),
        lambda live: live.phase_began(2, by_time),
        lambda live: live.sampled(snapshot()),
    )
    assert "recovery 0 of 30 s" in drawn
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(verdict(summary()))
    assert isinstance(console.file, io.StringIO)
    table = console.file.getvalue()
    assert " normal " in table
    assert "…" not in table.replace("1 … 2.5", "")  # of an expectation's limits
    assert max(map(len, table.splitlines())) <= width


def test_lines_are_written_every_two_seconds_of_the_run(snapshot: Make) -> None:
    lines: list[str] = []
    watcher = RunLines(lines.append)
    watcher.began("recovery: a story", "RabbitMQ 4", "work.queue", PHASES)
    watcher.phase_began(0, by_time)
    before = len(lines)
    for tenth in range(41):
        watcher.sampled(snapshot(at_ns=1_000_000_000 + tenth * 100_000_000))
    assert len(lines) - before == 3
    assert "normal" in lines[-1]
    assert "depth    45" in lines[-1]
    assert "wait p99 120 ms" in lines[-1]


def test_lines_name_phases_and_what_happens_without_control_characters() -> None:
    lines: list[str] = []
    watcher = RunLines(lines.append)
    watcher.began("recovery: a story", "RabbitMQ 4", "work.queue", PHASES)
    watcher.phase_began(1, by_time)
    watcher.noted("consumer \x1b[31mred\x1b[0m appeared")
    assert lines[-2] == "phase 2 of 2: stopped (10 s)"
    assert "\x1b" not in lines[-1]


def picture(width: int, *scenes: Callable[[RunLive], None]) -> str:
    """Return everything that was drawn, the terminal's own control sequences included."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=40, color_system=None)
    with RunLive(console) as live:
        for scene in scenes:
            scene(live)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_terminal_shows_where_the_run_is_what_the_law_decided_and_why(snapshot: Make, width: int) -> None:
    drawn = picture(
        width,
        lambda live: live.noted("starting: broker"),
        lambda live: live.began("recovery: a story", "RabbitMQ 4", "work.queue", PHASES),
        lambda live: live.phase_began(0, by_time),
        lambda live: live.sampled(snapshot()),
        lambda live: live.noted("consumer-1 appeared"),
    )
    assert "starting: broker" in drawn
    assert "law pace allows 100 of 1K msg/s: holding the queue" in drawn
    assert "depth" in drawn
    assert "consumer-1 appeared" in drawn
    assert "recovery" in drawn


def test_a_phase_that_waits_for_messages_shows_how_many_of_them_are_done(snapshot: Make) -> None:
    drawn = picture(
        100,
        lambda live: live.began("stress: a story", "RabbitMQ 4", "work.queue", [("publish", 900.0)]),
        lambda live: live.phase_began(0, lambda seen: seen.totals.confirmed / 20_000),
        lambda live: live.sampled(snapshot(totals=Totals(confirmed=10_000))),
    )
    assert "publish 50 %, 0 s" in drawn
    assert "of 900 s" not in drawn


def test_the_terminal_does_without_queue_and_producers(snapshot: Make) -> None:
    drawn = picture(
        100,
        lambda live: live.began("recovery: a story", "RabbitMQ 4", "work.queue", PHASES),
        lambda live: live.sampled(snapshot(queues={}, producers=(), pacing_rate_per_s=None)),
    )
    assert "no producer" in drawn


def test_a_message_from_another_process_cannot_steer_the_terminal(snapshot: Make) -> None:
    event = Event(1, EventKind.APPEARED, "x")
    drawn = picture(
        100,
        lambda live: live.began("t: t", "b", "work.queue", PHASES),
        lambda live: live.sampled(snapshot(events=(event,))),
        lambda live: live.noted("evil \x1b]0;title\x07"),
    )
    assert "\x1b]0;" not in drawn


def summary(**changes: Any) -> dict[str, Any]:
    none = {"p50": None, "p95": None, "p99": None, "max": None, "count": 0}
    phase = {
        "name": "normal",
        "publish_rate": 99.5,
        "process_rate": 99.3,
        "utilisation": None,
        "wait_ms": none,
        "depth_max": 4,
        "settle_s": None,
    }
    names = ("confirmed", "processed", "left_in_queue", "dead_lettered", "duplicates")
    none_of = ("rejected", "dropped", "returned", "refused", "discarded")
    return {
        "scenario": "recovery",
        "strategy": "pace",
        "broker": "B",
        "broker_version": "1",
        "duration_s": 60.0,
        "verdict": "failed",
        "sentence": "failed: lost was not measured",
        "wait_ms": none,
        "expectations": [
            {"metric": "lost", "op": "==", "limit": 0.0, "value": None, "held": False},
            {"metric": "wait_ms.p99", "op": "between", "limit": (1.0, 2.5), "value": 2.0, "held": True},
        ],
        "phases": [phase],
        "totals": {**dict.fromkeys(names, 1234), **dict.fromkeys(none_of, 0), "lost": None},
        **changes,
    }


def test_a_verdict_says_what_held_what_did_not_and_what_is_unknown() -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(verdict(summary()))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert "FAILED" in lines[0]
    assert lines[1] == "failed: lost was not measured"
    assert lines[2].split() == ["✘", "lost", "–", "expected", "==", "0"]
    assert lines[3].split() == ["✔", "wait_ms.p99", "2", "expected", "1", "…", "2.5"]
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].endswith("lost –")


@pytest.mark.parametrize(
    ("metric", "discarded", "line"),
    [
        ("lost", {"rejected": 7523, "dropped": 2}, "▲ lost 0 expected == 0, but 7523 rejected, 2 dropped"),
        ("lost", {"returned": 5}, "▲ lost 0 expected == 0, but 5 returned"),
        ("lost", {}, "✔ lost 0 expected == 0"),
        ("duplicates", {"rejected": 7523}, "✔ duplicates 0 expected == 0"),
    ],
)
def test_no_check_mark_stands_at_none_lost_while_messages_were_refused_or_dropped(
    metric: str, discarded: dict[str, int], line: str
) -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    held = {"metric": metric, "op": "==", "limit": 0.0, "value": 0.0, "held": True}
    totals = dict.fromkeys(summary()["totals"], 0) | discarded
    console.print(verdict(summary(expectations=[held], totals=totals)))
    assert isinstance(console.file, io.StringIO)
    assert " ".join(console.file.getvalue().splitlines()[2].split()) == line
