"""The producer's pace in virtual time: an exact mean, bounded bursts, a window instead of waits, a limit, pauses."""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise
from math import inf
from random import Random
from types import ModuleType

import pytest
from stage import LateTransport, RecordingBroker, consuming, producing, settings_of, until
from virtual_time import run_virtually, stall

from backpressure.config import replaced
from backpressure.core.controllers import LAWS
from backpressure.core.histogram import Histogram


def free(**changes: object) -> dict[str, object]:
    """Return settings under which nothing but the schedule holds a message back."""
    return {"producer__strategy": "unbounded", "queue__max_length": None, "producer__progress_every": 0, **changes}


def most_within(times: list[float], window_s: float) -> int:
    """Return the largest number of events in any window of that length."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize("late_s", [(0.0,), (0.0, 1e-9, 0.0003, 0.004, 0.06)], ids=["punctual", "jittery"])
def test_the_mean_rate_over_thirty_seconds_is_exact_however_late_the_wake_ups_are(late_s: tuple[float, ...]) -> None:
    async def story() -> RecordingBroker:
        broker = RecordingBroker()
        async with producing(settings_of(**free()), broker):
            await asyncio.sleep(30)
        return broker

    machine = Random(1)
    times = [arrival.at for arrival in run_virtually(story(), lateness=lambda: machine.choice(late_s)).arrivals]
    assert len(times) == pytest.approx(1000 * (times[-1] - times[0]), rel=0.001)
    assert len(times) > 29_900
    assert most_within(times, 0.01) <= 10 + max(late_s) * 1000 + 2


def test_a_batch_smaller_than_the_rate_needs_does_not_slow_the_producer_down() -> None:
    async def story() -> int:
        settings, broker = settings_of(**free(producer__batch_size=1)), RecordingBroker()
        late = LateTransport(settings, broker, late_s=5.0)  # no confirm comes early enough to wake it up
        async with producing(settings, broker, transport=late):
            await asyncio.sleep(2)
            return len(broker.arrivals)

    assert run_virtually(story()) == pytest.approx(2000, abs=3)


@pytest.mark.parametrize("strategy", ["unbounded", "rate_limited"])
def test_after_a_stall_no_more_than_the_bucket_is_caught_up(strategy: str) -> None:
    async def story() -> list[float]:
        settings = settings_of(**free(producer__strategy=strategy, control__rate_limit=1000, producer__burst_ms=100))
        broker = RecordingBroker()
        async with producing(settings, broker):
            await asyncio.sleep(1)
            stall(5)
            woke_at = asyncio.get_running_loop().time()
            await asyncio.sleep(1)
        return [arrival.at - woke_at for arrival in broker.arrivals]

    late = [at for at in run_virtually(story()) if at >= 0]
    at_once = sum(at <= 0.002 for at in late)
    assert 90 <= at_once <= 104
    assert len(late) == pytest.approx(100 + 1000, abs=5)


@pytest.mark.parametrize("strategy", ["unbounded", "rate_limited"])
def test_messages_that_left_late_still_carry_the_time_they_were_due(strategy: str) -> None:
    async def story() -> list[tuple[int, int]]:
        broker = RecordingBroker()
        settings = settings_of(**free(producer__strategy=strategy, control__rate_limit=1000))
        async with producing(settings, broker):
            await asyncio.sleep(1)
            stall(0.05)
            await asyncio.sleep(0.5)
        headers = [arrival.message.headers for arrival in broker.arrivals]
        return [(int(h["intended_ns"]), int(h["sent_ns"])) for h in headers]  # type: ignore[arg-type]  # ours carry integers

    stamps = run_virtually(story())
    assert all(intended <= sent for intended, sent in stamps)
    gaps_ms = [(later - earlier) / 1e6 for (earlier, _), (later, _) in pairwise(stamps[1:])]
    assert max(gaps_ms) == pytest.approx(1.0, abs=0.01)  # the schedule never stalled
    assert max(sent - intended for intended, sent in stamps) == pytest.approx(50e6, abs=3e6)


def test_random_arrivals_have_the_same_mean_and_no_rhythm() -> None:
    async def story() -> list[float]:
        broker = RecordingBroker()
        async with producing(settings_of(**free(producer__arrivals="poisson", producer__rate=200)), broker):
            await asyncio.sleep(60)
        return [int(arrival.message.headers["intended_ns"]) / 1e9 for arrival in broker.arrivals]  # type: ignore[arg-type]

    times = run_virtually(story())
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(1 / 200, rel=0.03)
    assert variance / mean**2 == pytest.approx(1.0, abs=0.1)


def test_publishing_never_waits_for_a_single_confirm_and_fills_the_window_only() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(**free(producer__confirm_window=300)), RecordingBroker()
        most = 0
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=0.2)) as (engine, _):
            for _ in range(5000):
                await asyncio.sleep(0.001)
                most = max(most, engine.report().in_flight)
            return most, engine.report().confirmed

    most, confirmed = run_virtually(story())
    assert 190 <= most <= 300
    assert confirmed == pytest.approx(1000 * (5 - 0.2), rel=0.01)  # one at a time would confirm 25


def test_a_window_smaller_than_rate_times_round_trip_bounds_what_is_in_flight() -> None:
    async def story() -> tuple[int, int]:
        settings, broker = settings_of(**free(producer__confirm_window=50)), RecordingBroker()
        most = 0
        async with producing(settings, broker, transport=LateTransport(settings, broker, late_s=0.2)) as (engine, _):
            for _ in range(2000):
                await asyncio.sleep(0.001)
                most = max(most, engine.report().in_flight)
            return most, engine.report().confirmed

    most, confirmed = run_virtually(story())
    assert most == 50
    assert confirmed == pytest.approx(50 * 9, abs=50)  # a full window each 200 ms


def test_at_its_limit_the_producer_ends_by_itself_with_every_message_settled() -> None:
    async def story() -> tuple[int, int, int, int]:
        settings, broker = settings_of(**free(producer__limit=250)), RecordingBroker()
        late = LateTransport(settings, broker, late_s=0.3)
        async with producing(settings, broker, transport=late) as (engine, running):
            await asyncio.wait_for(running, 10)
            report = engine.report()
        return report.offered, report.published, report.confirmed, len(broker.arrivals)

    assert run_virtually(story()) == (250, 250, 250, 250)


def test_a_slow_rate_is_as_exact_as_a_fast_one() -> None:
    async def story() -> list[float]:
        broker = RecordingBroker()
        async with producing(settings_of(**free(producer__rate=0.5)), broker):
            await asyncio.sleep(9.9)
        return [arrival.at - broker.arrivals[0].at for arrival in broker.arrivals]

    assert run_virtually(story()) == pytest.approx([0, 2, 4, 6, 8], abs=0.003)


def test_a_pause_offers_nothing_and_is_not_made_up_for_afterwards() -> None:
    async def story() -> tuple[int, int, int, int]:
        broker = RecordingBroker()
        async with producing(settings_of(**free(producer__rate=100)), broker) as (engine, _):
            await asyncio.sleep(1)
            engine.pause()
            await asyncio.sleep(0.1)
            before = len(broker.arrivals)
            await asyncio.sleep(60)
            during, offered = len(broker.arrivals) - before, engine.report().offered
            assert engine.report().target_rate_per_s == 0
            engine.resume()
            await asyncio.sleep(1)
            return before, during, len(broker.arrivals) - before, engine.report().offered - offered

    before, during, after, offered = run_virtually(story())
    assert before == pytest.approx(100, abs=2)
    assert during == 0
    assert after == pytest.approx(100, abs=3)
    assert offered == pytest.approx(100, abs=3)


def test_a_producer_that_starts_paused_is_connected_and_waits() -> None:
    async def story() -> tuple[int, int]:
        broker = RecordingBroker()
        async with producing(settings_of(**free(producer__start_paused=True)), broker) as (engine, _):
            await asyncio.sleep(10)
            before = len(broker.arrivals)
            engine.resume()
            await asyncio.sleep(1)
            return before, len(broker.arrivals)

    before, after = run_virtually(story())
    assert before == 0
    assert after == pytest.approx(1000, abs=3)


def test_a_change_of_rate_during_a_pause_offers_nothing_for_the_time_of_the_pause() -> None:
    async def story() -> tuple[int, int]:
        broker, settings = RecordingBroker(), settings_of(**free(producer__rate=100))
        async with producing(settings, broker) as (engine, _):
            await asyncio.sleep(1)
            engine.pause()
            before = engine.report().offered
            await asyncio.sleep(60)
            await engine.reconfigure(settings_of(**free(producer__rate=50)))
            await asyncio.sleep(60)
            engine.resume()
            await asyncio.sleep(2)
            return engine.report().offered - before, len(broker.arrivals)

    offered, arrived = run_virtually(story())
    assert offered == pytest.approx(100, abs=2)
    assert arrived == pytest.approx(200, abs=4)


def test_a_new_rate_counts_from_the_moment_it_is_set() -> None:
    async def story() -> tuple[int, int]:
        broker = RecordingBroker()
        async with producing(settings_of(**free(producer__rate=1000)), broker) as (engine, _):
            await asyncio.sleep(2)
            before = len(broker.arrivals)
            await engine.reconfigure(settings_of(**free(producer__rate=40)))
            await asyncio.sleep(10)
            return before, len(broker.arrivals) - before

    before, after = run_virtually(story())
    assert before == pytest.approx(2000, abs=5)
    assert after == pytest.approx(400, abs=5)


def test_the_fixed_pace_of_rate_limited_holds_back_what_is_offered() -> None:
    async def story() -> tuple[int, float, int]:
        settings = settings_of(**free(producer__strategy="rate_limited", control__rate_limit=123.0))
        broker = RecordingBroker()
        async with producing(settings, broker) as (engine, _):
            await asyncio.sleep(30)
            report = engine.report()
        return len(broker.arrivals), report.pacing_rate_per_s, report.offered

    sent, pace, offered = run_virtually(story())
    assert sent == pytest.approx(123 * 30, rel=0.001, abs=1)
    assert pace == 123.0
    assert offered == pytest.approx(30_000, rel=0.001)


@pytest.mark.parametrize(("strategy", "held_back"), [("rate_limited", True), ("unbounded", False)])
def test_the_report_says_how_long_the_law_held_messages_back(strategy: str, held_back: bool) -> None:
    async def story() -> Histogram:
        settings = settings_of(**free(producer__strategy=strategy, control__rate_limit=100))
        async with producing(settings, RecordingBroker()) as (engine, _):
            await asyncio.sleep(10)
            return engine.report().limiter_delay

    delays = run_virtually(story())
    longest = delays.quantile_s(1.0)
    assert longest is not None
    # A tenth of a second's worth of arrivals may wait: 100 messages, a second at 100 msg/s.
    assert longest == pytest.approx(1.0, rel=0.05) if held_back else longest <= 1e-5
    assert delays.total == pytest.approx(1000 if held_back else 10_000, rel=0.02)


@pytest.mark.parametrize("law", LAWS)
def test_every_law_that_ships_sends_and_says_why(law: str) -> None:
    async def story() -> tuple[int, str]:
        broker = RecordingBroker()
        async with producing(settings_of(producer__strategy=law), broker) as (engine, _):
            await until(lambda: len(broker.arrivals) >= 2)
            return len(broker.arrivals), engine.report().reason

    sent, reason = run_virtually(story())
    assert sent >= 2
    assert reason


class BrokenLaw:
    """A law of a user's that fails after a while."""

    def __init__(self, _config: object) -> None:
        self.calls = 0

    def update(self, signals: object, now: float) -> object:
        from backpressure.core.signals import Decision

        self.calls += 1
        if self.calls > 10:
            raise ZeroDivisionError("a mistake in a law")
        return Decision(100.0, "well")


def test_a_law_that_fails_ends_the_producer_with_its_error_instead_of_leaving_it_without_control(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ModuleType("laws_of_a_user")
    module.BrokenLaw = BrokenLaw  # type: ignore[attr-defined]  # a module made on the spot
    monkeypatch.setitem(sys.modules, module.__name__, module)

    async def story() -> None:
        async with producing(settings_of(producer__strategy="laws_of_a_user:BrokenLaw"), RecordingBroker()) as (
            _,
            running,
        ):
            await asyncio.wait_for(running, 60)

    with pytest.raises(ZeroDivisionError, match="a mistake in a law"):
        run_virtually(story())


def test_what_the_laws_window_holds_back_is_not_sent_in_a_burst_later() -> None:
    async def story() -> tuple[int, list[float]]:
        settings, broker = settings_of(producer__rate=10_000, consumer__rate=1000), RecordingBroker()
        late = LateTransport(settings, broker, late_s=0.002)
        async with producing(settings, broker, transport=late) as (engine, _), consuming(settings, broker):
            await asyncio.sleep(10)
            late.late_s = 0.3
            await asyncio.sleep(0.25)
            in_flight = engine.report().in_flight
            late.late_s = 0.002
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(0.2)
        return in_flight, [arrival.at for arrival in broker.arrivals if arrival.at >= began]

    in_flight, times = run_virtually(story())
    assert in_flight <= 40  # a setpoint of 21; at 1000 msg/s, 250 would have been sent
    assert len(times) > 100
    assert most_within(times, 0.01) <= 60


@pytest.mark.parametrize("arrivals", ["fixed", "poisson"])
def test_at_rate_zero_as_much_is_offered_as_can_be_sent(arrivals: str) -> None:
    async def story() -> tuple[int, float, float, float]:
        changes = {"producer__rate": 0, "producer__limit": 5000, "producer__arrivals": arrivals}
        settings, loop = settings_of(**free(**changes)), asyncio.get_running_loop()
        broker = RecordingBroker()
        async with producing(settings, broker) as (engine, running):
            report, began = engine.report(), loop.time()
            await running
            return len(broker.arrivals), loop.time() - began, report.target_rate_per_s, report.pacing_rate_per_s

    sent, took_s, offered, allowed = run_virtually(story())
    assert (sent, offered, allowed) == (5000, inf, inf)
    assert took_s < 1  # more than ten thousand a second, in virtual time


def test_the_rate_becomes_as_fast_as_can_be_and_a_number_again_while_it_runs() -> None:
    async def story() -> tuple[int, int, int]:
        settings = settings_of(**free(producer__rate=100, producer__strategy="rate_limited", control__rate_limit=1000))
        broker, counts = RecordingBroker(), []
        async with producing(settings, broker) as (engine, _):
            for rate in (100, 0, 200):
                await engine.reconfigure(replaced(engine.settings, {"producer.rate": rate}))
                before = len(broker.arrivals)
                await asyncio.sleep(10)
                counts.append(len(broker.arrivals) - before)
        return counts[0], counts[1], counts[2]

    slow, free_, twice = run_virtually(story())
    assert slow == pytest.approx(1000, abs=12)
    assert free_ == pytest.approx(10_000, rel=0.02)  # what the law allows
    assert twice == pytest.approx(2000, abs=220)
