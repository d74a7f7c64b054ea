"""The faults of a scenario in virtual time: each has the effects of the real one."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.derived import message_bytes
from backpressure.errors import ConfigError
from backpressure.experiments.analysis import summarise
from backpressure.experiments.faults import FAULTS, NodeFault
from backpressure.experiments.recording import Recording
from backpressure.experiments.scenario import build
from backpressure.experiments.simulate import simulate
from backpressure.experiments.simulated_faults import reconnected_after_s
from backpressure.experiments.summary import PhaseSummary, Summary
from backpressure.settings import BrokerSettings, ProducerSettings


def play(fault: str, *, after_s: float = 10, **sections: dict[str, Any]) -> Recording:
    """Return a run of 5 s, then 10 s with ``fault``, then ``after_s``."""
    document = {
        "name": "trial",
        "producer": {"rate": 500.0} | sections.pop("producer", {}),
        "consumer": {"rate": 100.0} | sections.pop("consumer", {}),
        "phase": [
            {"name": "before", "duration_s": 5.0},
            {"name": "trouble", "duration_s": 10.0, "fault": fault},
            {"name": "after", "duration_s": float(after_s)},
        ],
        **sections,
    }
    return simulate(build(document, "test"))


def phases(summary: Summary) -> tuple[PhaseSummary, PhaseSummary, PhaseSummary]:
    before, trouble, after = summary.phases
    return before, trouble, after


def capacities(recording: Recording) -> list[tuple[float, float]]:
    return [(load.at_ns / 1e9, load.capacity_per_s) for load in recording.loads]


@pytest.mark.parametrize("name", sorted(name for name, fault in FAULTS.items() if not fault.has_model))
def test_a_fault_without_a_model_is_refused(name: str) -> None:
    reason = "a simulated broker has no nodes" if issubclass(FAULTS[name], NodeFault) else "no simulation has it"
    with pytest.raises(ConfigError, match=f"{reason}: run it"):
        play(name)


@pytest.mark.parametrize("name", sorted(name for name, fault in FAULTS.items() if fault.has_model))
def test_every_fault_is_simulated_and_loses_nothing(name: str) -> None:
    recording = play(f"{name}:for_s=4", producer={"count": 2}, consumer={"count": 2, "rate": 100.0})
    assert summarise(recording).totals.lost == 0
    (fault,) = recording.faults
    assert (fault.name, fault.start_ns, fault.end_ns) == (name, 5_000_000_000, 9_000_000_000)


def test_a_fault_without_a_time_ends_with_its_phase_and_one_of_the_last_phase_with_the_run() -> None:
    assert play("consumer-stop").faults[0].end_ns == 15_000_000_000
    document = {"name": "t", "phase": [{"name": "only", "duration_s": 3.0, "fault": "memory-alarm"}]}
    (fault,) = simulate(build(document, "test")).faults
    assert (fault.start_ns, fault.end_ns) == (0, 3_000_000_000)


def test_a_killed_consumer_is_replaced_and_its_capacity_is_not_charged() -> None:
    recording = play("consumer-kill:for_s=5", consumer={"count": 2, "rate": 100.0})
    assert capacities(recording) == [(0, 200), (5, 200), (5, 100), (10, 200), (15, 200)]
    summary = summarise(recording)
    _, trouble, after = phases(summary)
    assert trouble.process_rate == pytest.approx(150, rel=0.03)
    assert (trouble.utilisation or 0) > 0.95
    assert (after.utilisation or 0) > 0.98
    assert summary.totals.redelivered > 0
    assert summary.totals.duplicates == 0


def test_a_hanging_consumer_offers_no_capacity_and_nothing_comes_again() -> None:
    recording = play("consumer-stop:for_s=5")
    assert capacities(recording) == [(0, 100), (5, 100), (5, 0), (10, 100), (15, 100)]
    summary = summarise(recording)
    _, trouble, after = phases(summary)
    assert trouble.process_rate == pytest.approx(50, rel=0.1)
    assert (after.utilisation or 0) > 0.98
    assert (summary.totals.redelivered, summary.totals.duplicates) == (0, 0)


def test_a_killed_producer_is_missing_until_another_replaces_it() -> None:
    recording = play("producer-kill:count=2", producer={"count": 2, "rate": 40.0})
    assert len(recording.processes) == 4
    _, trouble, after = phases(summarise(recording))
    assert trouble.publish_rate == 0
    assert after.publish_rate == pytest.approx(80, rel=0.05)
    assert [load.demand_per_s for load in recording.loads] == [80, 80, 0, 80, 80]


def test_killed_members_of_a_group_of_producers_come_back_to_it() -> None:
    producer = {"count": 320, "rate": 1.0}
    recording = play("producer-kill:count=170", producer=producer, consumer={"rate": 1000.0})
    assert [load.demand_per_s for load in recording.loads] == [320, 320, 150, 320, 320]
    _, trouble, after = phases(summarise(recording))
    assert trouble.publish_rate == pytest.approx(150, rel=0.05)
    assert after.publish_rate == pytest.approx(320, rel=0.05)


def test_the_producer_that_replaces_a_killed_one_publishes_the_rest_of_its_limit() -> None:
    producer = {"rate": 50.0, "limit": 400}
    document = {
        "name": "trial",
        "producer": producer,
        "phase": [
            {"name": "one", "duration_s": 4.0},
            {"name": "two", "duration_s": 60.0, "until": "consumed", "fault": "producer-kill:for_s=3"},
        ],
    }
    summary = summarise(simulate(build(document, "test")))
    assert summary.totals.confirmed == 400
    assert summary.verdict == "passed"
    assert summary.duration_s == pytest.approx(8 + 3, abs=0.5)


@pytest.mark.parametrize("name", ["broker-restart", "broker-kill", "network-cut", "network-half-open"])
def test_an_outage_is_charged_and_everybody_comes_back(name: str) -> None:
    recording = play(f"{name}:for_s=3")
    summary = summarise(recording)
    _, trouble, after = phases(summary)
    assert capacities(recording) == [(0, 100), (5, 100), (15, 100)]
    assert 0.4 < (trouble.utilisation or 0) < 0.75
    assert (after.utilisation or 0) > 0.97
    assert summary.totals.redelivered > 0
    assert summary.totals.duplicates >= 1  # what was being worked on when the connection was lost
    assert summary.totals.left_in_queue == pytest.approx(5, abs=5)


def test_a_broker_that_hangs_is_charged_and_nothing_comes_twice() -> None:
    recording = play("broker-hang:for_s=3")
    summary = summarise(recording)
    _, trouble, after = phases(summary)
    assert capacities(recording) == [(0, 100), (5, 100), (15, 100)]
    assert trouble.utilisation == pytest.approx(0.7, abs=0.05)
    assert (after.utilisation or 0) > 0.98
    assert summary.totals.redelivered == summary.totals.duplicates == summary.totals.lost == 0


def test_clients_are_back_at_the_first_attempt_after_the_outage() -> None:
    broker = BrokerSettings(reconnect_min_s=0.2, reconnect_max_s=3.0)
    assert reconnected_after_s(0.1, broker) == pytest.approx(0.05)
    assert reconnected_after_s(3.0, broker) == pytest.approx(0.15 + 0.3 + 0.6 + 1.2 + 2.25 - 3.0)


def test_an_alarm_stops_publishing_and_not_consuming() -> None:
    summary = summarise(play("memory-alarm", producer={"strategy": "unbounded"}))
    _, trouble, after = phases(summary)
    assert trouble.publish_rate < 5
    assert trouble.process_rate == pytest.approx(100, rel=0.02)
    assert after.publish_rate > 400


def test_a_share_of_what_is_published_is_refused_and_sent_again_where_the_law_adapts() -> None:
    refused = summarise(play("nacks:share=0.2", producer={"strategy": "unbounded", "rate": 50.0}))
    assert refused.totals.rejected == pytest.approx(100, abs=3)
    again = play("nacks:share=0.2", producer={"strategy": "pace", "rate": 50.0})
    assert max(sample.nacked_per_s or 0 for sample in again.samples) == pytest.approx(12.5, rel=0.2)
    assert summarise(again).totals.rejected == 0


def test_poison_ends_among_the_dead_letters_and_delays_no_others() -> None:
    retry = {"max_attempts": 3, "backoff_min_ms": 50.0, "jitter": 0.0}
    summary = summarise(play("poison:share=0.1", producer={"rate": 50.0}, retry=retry))
    assert summary.totals.dead_lettered == pytest.approx(50, rel=0.35)
    assert summary.totals.published == summary.totals.processed + (summary.totals.dead_lettered or 0) + (
        summary.totals.left_in_queue or 0
    )
    assert (summary.wait_ms.p99 or 1e9) < 100


def test_failures_of_the_settings_are_simulated_and_a_fault_replaces_them_while_it_lasts() -> None:
    own = summarise(play("clock-jump", producer={"rate": 40.0}, consumer={"failure_rate": 0.5}))
    more = summarise(play("processing-failures:share=1", producer={"rate": 40.0}, consumer={"failure_rate": 0.5}))
    assert 0 < (own.totals.dead_lettered or 0) < 0.15 * own.totals.published  # 0.5⁴ of them
    assert more.phases[1].process_rate < 5
    assert more.phases[2].process_rate > 20


def test_a_delay_is_seen_in_waits_confirms_and_not_in_the_rate() -> None:
    summary = summarise(play("network-delay:ms=80", producer={"rate": 50.0}))
    before, trouble, after = phases(summary)
    assert (trouble.wait_ms.p50 or 0) - (before.wait_ms.p50 or 0) == pytest.approx(160, abs=5)
    assert after.wait_ms.p50 == before.wait_ms.p50
    assert summary.confirm_ms.max == pytest.approx(162, abs=1)
    assert summary.confirm_ms.p50 == pytest.approx(2, abs=1)
    assert trouble.process_rate == pytest.approx(50, rel=0.07)  # until two answers in a row took longer, it waits


def test_a_narrow_line_limits_the_messages_in_each_direction() -> None:
    narrow = f"network-bandwidth:kb_per_s={40 * message_bytes(ProducerSettings()) / 1000}"
    producer = {"rate": 1000.0, "strategy": "unbounded", "confirm_window": 20}
    summary = summarise(play(narrow, producer=producer, consumer={"count": 2, "rate": 600.0}))
    before, trouble, after = phases(summary)
    assert trouble.publish_rate == pytest.approx(40, rel=0.05)
    assert trouble.process_rate == pytest.approx(40, rel=0.1)
    assert before.publish_rate == pytest.approx(1000, rel=0.02)
    assert after.publish_rate == pytest.approx(1000, rel=0.05)  # what was on its way is as late as it was to be
    assert summary.confirm_ms.max == pytest.approx(500, rel=0.05)  # a window of 20 at 40 msg/s


def test_a_law_finds_the_pace_of_a_narrow_line_to_the_consumer() -> None:
    narrow = f"network-bandwidth:kb_per_s={40 * message_bytes(ProducerSettings()) / 1000}"
    _, trouble, after = phases(summarise(play(narrow, producer={"rate": 1000.0, "count": 3})))
    assert trouble.process_rate == pytest.approx(40, rel=0.1)
    assert trouble.depth_max <= 60
    assert (after.utilisation or 0) > 0.9


def test_a_law_finds_the_pace_behind_a_long_way() -> None:
    _, trouble, after = phases(summarise(play("network-delay:ms=100")))
    assert (trouble.utilisation or 0) > 0.9
    assert (after.utilisation or 0) > 0.95


def test_a_long_way_stays_as_long_where_the_next_phase_has_it_too() -> None:
    document = {
        "name": "far",
        "producer": {"rate": 500.0},
        "consumer": {"rate": 100.0},
        "phase": [
            {"name": "quick", "duration_s": 10.0, "fault": "network-delay:ms=100"},
            {"name": "slow", "duration_s": 10.0, "fault": "network-delay:ms=100", "consumer": {"rate": 50.0}},
            {"name": "near", "duration_s": 5.0},
        ],
    }
    recording = simulate(build(document, "test"))
    assert [(fault.start_ns, fault.end_ns) for fault in recording.faults] == [(0, 20_000_000_000)]


def test_a_date_that_jumps_changes_no_figure() -> None:
    jumped, calm = (summarise(play(fault)) for fault in ("clock-jump:by_s=3600", "memory-alarm:for_s=0.001"))
    assert jumped.totals.confirmed == pytest.approx(calm.totals.confirmed, abs=30)
    assert jumped.wait_ms.p99 == pytest.approx(calm.wait_ms.p99, abs=15)


def test_random_arrivals_are_repeatable_and_offer_the_mean_rate() -> None:
    def run(seed: int, count: int) -> Summary:
        producer = {"rate": 80.0 / count, "count": count, "arrivals": "poisson"}
        document = {"name": "t", "seed": seed, "producer": producer, "phase": [{"name": "p", "duration_s": 60.0}]}
        return summarise(simulate(build(document, "test")))

    first, again, other, many = run(1, 1), run(1, 1), run(2, 1), run(1, 200)
    assert first == again
    assert first.totals.offered != other.totals.offered
    for summary in (first, other, many):
        assert summary.totals.offered == pytest.approx(4800, rel=0.05)
        assert summary.totals.confirmed == pytest.approx(summary.totals.offered, rel=0.05)
        assert (summary.wait_ms.p95 or 0) > 20  # even arrivals would never meet


def test_arrivals_may_become_random_in_a_phase_and_even_again() -> None:
    document = {
        "name": "t",
        "producer": {"rate": 50.0},
        "phase": [
            {"name": "even", "duration_s": 10.0},
            {"name": "random", "duration_s": 20.0, "producer": {"arrivals": "poisson"}},
            {"name": "even-again", "duration_s": 10.0, "producer": {"arrivals": "fixed"}},
        ],
    }
    recording = simulate(build(document, "test"))
    summary = summarise(recording)
    assert [(phase.wait_ms.p95 or 0) > 1 for phase in summary.phases] == [False, True, False]
    totals = [sample.offered_total for sample in recording.samples]
    assert totals == sorted(totals)
    assert summary.totals.offered == pytest.approx(2000, rel=0.1)
