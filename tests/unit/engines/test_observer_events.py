"""Each back-pressure event is reported once, when it happens."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from backpressure.core.histogram import Histogram
from backpressure.core.reports import ProducerReport
from backpressure.core.snapshot import EventKind, Quantiles, Rates, Snapshot, Source, Threshold, Totals
from backpressure.engines.observer_events import EventWatch

ALICE = ProducerReport(
    id="alice", session=1, pid=11, host="lab", queue="work.queue", at_ns=0, offered=0, published=0, confirmed=0,
    nacked=0, rejected=0, returned=0, republished=0, in_flight=0, window=9, target_rate_per_s=1000.0,
    pacing_rate_per_s=1000.0, weight=1.0, application_limited=False, blocked=False, blocked_events=0, strategy="pace",
    reason="", rss_bytes=0, cpu_s=0.0,
)  # fmt: skip
CALM = Snapshot(
    at_ns=0, address="memory://", sources=(), queues={}, work_queue="work.queue", producers=(), consumers=(),
    processes=(), totals=Totals(), rates=Rates(), queue_wait=Quantiles(), service=Quantiles(),
    confirm_latency=Quantiles(), queue_wait_ever=Histogram(), service_ever=Histogram(),
    confirm_latency_ever=Histogram(), target_rate_per_s=None, pacing_rate_per_s=None, bottleneck_per_s=None,
    thresholds=(), broker=None, events=(),
)  # fmt: skip


class Story:
    """Feeds one watch, a second per state."""

    def __init__(self) -> None:
        self.watch = EventWatch()
        self.now = 0.0

    def sees(self, *producers: ProducerReport, thresholds: tuple[Threshold, ...] = (), **changes: object) -> list[str]:
        """Return the kinds of the events this state gave rise to."""
        before = sum(self.watch.counts.values())
        seen = replace(CALM, at_ns=round(self.now * 1e9), producers=producers, thresholds=thresholds, **changes)
        self.watch.observe(seen, self.now)
        self.now += 1.0
        fresh = sum(self.watch.counts.values()) - before
        return [str(event.kind) for event in list(self.watch.events)[-fresh:]] if fresh else []

    @property
    def text(self) -> str:
        return self.watch.events[-1].text


def depth(value: float | None) -> tuple[Threshold, ...]:
    return (Threshold("depth", value, 5000.0, "messages"),)


def test_a_process_appears_and_vanishes_once() -> None:
    story = Story()
    assert story.sees(ALICE) == ["appeared"]
    assert story.sees(ALICE) == []
    assert story.sees(replace(ALICE, in_flight=7)) == []
    assert story.sees() == ["vanished"]
    assert story.text == "producer alice (pid 11) vanished with 7 in flight"
    assert story.sees() == []


def test_a_process_that_leaves_nothing_behind_has_ended() -> None:
    story = Story()
    story.sees(replace(ALICE, in_flight=7))
    story.sees(ALICE)
    assert story.sees() == ["ended"]
    assert story.text == "producer alice (pid 11) ended, nothing in flight"


def test_without_the_broker_no_process_is_said_to_have_ended() -> None:
    story = Story()
    story.sees(ALICE)
    assert story.sees(sources=(Source("broker", ok=False, error="refused"),)) == ["vanished"]
    assert story.text == "producer alice (pid 11) is not heard of without the broker"


def test_a_burst_of_nacks_is_reported_when_it_begins_and_when_it_is_over() -> None:
    story = Story()
    story.sees(ALICE)
    assert story.sees(replace(ALICE, nacked=100)) == ["nacked"]
    assert story.sees(replace(ALICE, nacked=250)) == []
    assert story.sees(replace(ALICE, nacked=250)) == ["nacks_over"]
    assert story.text == "alice: 250 refused within 1.0 s, none since"
    assert story.sees(replace(ALICE, nacked=251)) == ["nacked"]


def test_nacks_from_before_the_monitor_came_are_not_events() -> None:
    story = Story()
    assert story.sees(replace(ALICE, nacked=99)) == ["appeared"]
    assert story.sees(replace(ALICE, nacked=99)) == []


def test_blocked_and_unblocked_are_reported_as_they_change() -> None:
    story = Story()
    story.sees(ALICE)
    assert story.sees(replace(ALICE, blocked=True)) == ["blocked"]
    assert story.sees(replace(ALICE, blocked=True)) == []
    assert story.sees(ALICE) == ["unblocked"]


def test_a_threshold_must_be_left_by_a_tenth_before_it_counts_as_recovered() -> None:
    story = Story()
    assert story.sees(thresholds=depth(4999)) == []
    assert story.sees(thresholds=depth(5001)) == ["breached"]
    assert story.sees(thresholds=depth(4900)) == []
    assert story.sees(thresholds=depth(5100)) == []
    assert story.sees(thresholds=depth(4500)) == ["recovered"]


def test_an_unknown_value_neither_breaches_nor_recovers() -> None:
    story = Story()
    assert story.sees(thresholds=depth(None)) == []
    story.sees(thresholds=depth(6000))
    assert story.sees(thresholds=depth(None)) == []


def test_a_law_that_cuts_the_pace_is_reported_once_with_its_reason() -> None:
    story = Story()
    story.sees(ALICE)
    low = replace(ALICE, pacing_rate_per_s=500.0, reason="queue too deep")
    assert story.sees(low) == []
    assert story.sees(low) == ["rate_cut"]
    assert story.text == "alice cut its pace from 1000 to 500 msg/s: queue too deep"
    assert [story.sees(low) for _ in range(5)] == [[]] * 5


def test_a_pace_that_dips_for_a_moment_or_falls_a_little_is_not_a_cut() -> None:
    story = Story()
    for rate in (1000.0, 100.0, 1000.0, 700.0, 700.0, 700.0, 100.0, 900.0):
        assert "rate_cut" not in story.sees(replace(ALICE, pacing_rate_per_s=rate))


def test_lowering_the_offered_load_is_not_a_cut() -> None:
    story = Story()
    story.sees(replace(ALICE, pacing_rate_per_s=float("inf")))
    assert story.sees(replace(ALICE, target_rate_per_s=100.0, pacing_rate_per_s=float("inf"))) == []


def test_a_source_is_lost_only_after_it_worked() -> None:
    story = Story()
    away, here = Source("broker", ok=False, error="refused"), Source("broker", ok=True)
    assert story.sees(sources=(away,)) == []
    assert story.sees(sources=(here,)) == ["source_back"]
    assert story.sees(sources=(here,)) == []
    assert story.sees(sources=(away,)) == ["source_lost"]
    assert story.text == "broker: refused"


def test_events_are_counted_by_kind_beyond_those_kept() -> None:
    story = Story()
    for _ in range(300):
        story.sees(ALICE)
        story.sees()
    assert len(story.watch.events) == 500
    assert story.watch.counts[EventKind.APPEARED] == 300


def test_an_offer_without_limit_is_not_a_pace_that_could_be_cut() -> None:
    story = Story()
    free = replace(ALICE, target_rate_per_s=inf, pacing_rate_per_s=inf)
    paced = replace(ALICE, target_rate_per_s=inf, pacing_rate_per_s=100.0)
    seen = [story.sees(report) for report in (free, free, paced, paced, paced, paced)]
    assert seen == [["appeared"], [], [], [], [], []]
    low = replace(paced, pacing_rate_per_s=10.0)
    assert [kind for _ in range(3) for kind in story.sees(low)] == ["rate_cut"]
