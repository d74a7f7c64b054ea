"""The usual latency of a broker's confirms, when it stalls, and how much may be unconfirmed."""

from __future__ import annotations

import pytest

from backpressure.core.controllers.pace import ConfirmLatencyTracker
from backpressure.core.signals import Signals


def answering(latency_s: float, rate_per_s: float = 1000.0, queued: float = 20.0) -> ConfirmLatencyTracker:
    """Return one that has seen ten seconds of confirms after ``latency_s``."""
    broker = ConfirmLatencyTracker()
    for _ in range(100):
        broker.update(confirms(latency_s), 0.1)
        broker.window(confirms(latency_s), rate_per_s, queued)
    return broker


def confirms(latency_s: float | None, in_flight: int = 0, least_s: float = 0.001) -> Signals:
    return Signals(confirm_latency_s=latency_s, confirm_latency_min_s=least_s, in_flight=in_flight)


def test_nothing_is_held_back_before_a_confirm_was_seen_or_a_queue_is_wanted() -> None:
    assert ConfirmLatencyTracker().window(confirms(None), 1000.0, 20.0) is None
    assert answering(0.002).window(confirms(0.002), 1000.0, 0.0) is None


def test_what_may_be_unconfirmed_is_the_queue_that_is_wanted_and_twice_what_is_usual() -> None:
    broker = answering(0.002)
    assert broker.window(confirms(0.002), 1000.0, 20.0) == 1 + 20 + 4
    assert broker.window(confirms(0.002), 5000.0, 100.0) == 1 + 100 + 20


def test_one_standstill_is_not_taken_for_a_slower_broker() -> None:
    broker = answering(0.002)
    broker.update(confirms(0.3), 0.1)
    broker.update(confirms(0.002), 0.1)
    assert broker.window(confirms(0.002), 1000.0, 20.0) == 25


def test_a_broker_that_has_become_slower_is_the_usual_one_soon() -> None:
    broker = answering(0.002)
    for _ in range(20):
        broker.update(confirms(0.05, least_s=0.05), 0.1)
    window = broker.window(confirms(0.05, least_s=0.05), 1000.0, 20.0)
    assert window is not None
    assert window >= 1000 * 0.05 + 20  # no less than a round trip holds
    assert not broker.stalled


@pytest.mark.parametrize(
    ("seen", "still"),
    [
        (confirms(0.003, in_flight=5), False),
        (confirms(0.005, in_flight=2), True),
        (confirms(None, in_flight=27), True),
        (confirms(None, in_flight=0), False),
    ],
)
def test_a_standstill_shows_in_late_and_in_missing_confirms(seen: Signals, still: bool) -> None:
    broker = answering(0.002)
    broker.update(seen, 0.1)
    assert broker.stalled is still
    broker.update(confirms(0.002), 0.1)
    assert broker.stalled is still  # what is reported at this tick began before the last one
    broker.update(confirms(0.002), 0.1)
    assert not broker.stalled


def test_a_broker_that_queues_itself_is_given_a_quarter_of_a_second() -> None:
    broker = answering(0.6)
    assert broker.window(confirms(0.6, least_s=0.005), 1000.0, 20.0) == 1 + 20 + 250
    assert broker.window(confirms(0.6, least_s=0.5), 1000.0, 20.0) == 1 + 20 + 1200  # it is far away, not slow
