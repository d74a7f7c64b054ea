"""What a `Reporter` says of the work that it is told of, with a fake clock and without a broker."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from backpressure import ConfigError, Reporter
from backpressure.core.board import OwnState, SignalBoard
from backpressure.core.reports import ConsumerReport, decode


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def reporter(clock: Hands) -> Iterator[Reporter]:
    with Reporter("orders", prefetch=5, clock=clock) as reporter:
        yield reporter


def said(reporter: Reporter) -> ConsumerReport:
    report = decode(reporter.report())
    assert isinstance(report, ConsumerReport)
    return report


def test_work_under_way_is_held_and_counts_as_busy(reporter: Reporter, clock: Hands) -> None:
    with reporter.work():
        clock.now += 2.0
        during = said(reporter)
    clock.now += 1.0
    after = said(reporter)
    assert (during.held, during.processed, during.busy_s) == (1, 0, pytest.approx(2.0))
    assert (after.held, after.processed, after.busy_s) == (0, 1, pytest.approx(2.0))
    assert (after.service_sum_s, after.service_sum_s2) == (pytest.approx(2.0), pytest.approx(4.0))
    assert after.at_ns - during.at_ns == pytest.approx(1e9)


def test_an_exception_is_a_failed_attempt_and_goes_on_to_the_caller(reporter: Reporter, clock: Hands) -> None:
    def handle() -> None:
        with reporter.work():
            clock.now += 0.5
            raise LookupError

    with pytest.raises(LookupError):
        handle()
    report = said(reporter)
    assert (report.failed, report.processed, report.held, report.busy_s) == (1, 0, 0, pytest.approx(0.5))


def test_done_counts_a_message_and_its_time(reporter: Reporter) -> None:
    reporter.done(0.25)
    reporter.done(0)
    report = said(reporter)
    assert (report.processed, report.busy_s, report.held) == (2, pytest.approx(0.25), 0)


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_a_time_that_work_cannot_take_is_refused(reporter: Reporter, seconds: float) -> None:
    with pytest.raises(ValueError, match="not a time"):
        reporter.done(seconds)
    assert said(reporter).processed == 0


def test_messages_that_wait_are_held_until_they_are_worked_on_or_lost(reporter: Reporter) -> None:
    reporter.received(4)
    with reporter.work():
        assert said(reporter).held == 4
    reporter.done(0.1)
    assert said(reporter).held == 2
    reporter.disconnected()
    assert said(reporter).held == 0


def test_many_threads_lose_no_count() -> None:
    reporter = Reporter("orders", prefetch=0)

    def handle() -> None:
        for _ in range(500):
            with reporter.work():
                pass
            reporter.done(0.001)
            reporter.report()

    threads = [threading.Thread(target=handle) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = said(reporter)
    assert (report.processed, report.held) == (8000, 0)
    assert report.service_sum_s >= 4.0


def test_two_reporters_of_one_process_are_told_apart() -> None:
    assert said(Reporter("orders", prefetch=1)).id != said(Reporter("orders", prefetch=1)).id
    assert said(Reporter("orders", prefetch=1, name="worker-7")).id == "worker-7"


def test_producers_learn_the_service_time_and_the_rate(reporter: Reporter, clock: Hands) -> None:
    board = SignalBoard(1)
    for _ in range(20):
        board.on_report(said(reporter), clock.now)
        for _ in range(5):
            with reporter.work():
                clock.now += 0.02
    board.on_report(said(reporter), clock.now)
    signals = board.signals(OwnState(), clock.now)
    assert signals.service_mean_s == pytest.approx(0.02)
    assert signals.departed_total == 100
    assert signals.busy_total_s == pytest.approx(signals.observed_total_s)


@pytest.mark.parametrize(
    "wrong", [{"prefetch": -1}, {"prefetch": 1, "interval_s": 0}, {"prefetch": 1, "url": "http://here:port"}], ids=str
)
def test_values_that_cannot_be_are_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Reporter("orders", **wrong)  # type: ignore[arg-type]  # by name
