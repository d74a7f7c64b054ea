"""The depth observer: what an empty queue says about arrivals that nobody reports."""

from backpressure.core.controllers.depth import DepthObserver
from backpressure.core.signals import Signals


def read(observer: DepthObserver, ready: int, departed: int, now: float) -> None:
    signals = Signals(
        ready=ready, unacked=0, depth_age_s=0.0, confirmed_total=departed, departed_total=departed, departed_age_s=0.0
    )
    observer.read(signals, now)
    observer.count(signals, 100.0, now, busy=1.0)


def test_an_empty_queue_ends_the_belief_in_arrivals_that_nobody_reports() -> None:
    observer = DepthObserver()
    read(observer, 0, 0, 0.0)
    observer.strays_per_s = 100.0
    for tick in range(1, 31):
        read(observer, 0, 0, tick * 0.1)
    assert abs(observer.strays_per_s) < 2
    assert (observer.depth or 0.0) < 2
