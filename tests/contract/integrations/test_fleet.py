"""`SyncPaced` and `Reporter` as a fleet: they go by sums, and consumers are told how often to report."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from itertools import count

import pika
import pytest

from backpressure import BackpressureError, Reporter, SyncPaced
from backpressure.core import reports, sums
from backpressure.core.reports import ConsumerReport, ProducerReport, decode
from backpressure.core.sums import FleetSum, decode_sum, is_sum

PRODUCERS, CONSUMERS = 6, 3
FEW_DELIVERIES_PER_S = 40  # so that these are many
_numbers = count(1)


class Monitor:
    """Hears the reports and sums about one queue."""

    def __init__(self, url: str, queue: str) -> None:
        self.reports: list[ConsumerReport | ProducerReport] = []
        self.sums: list[FleetSum] = []
        self._queue = queue
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = self._connection.channel()
        mine = channel.queue_declare("", exclusive=True).method.queue
        for exchange in ("pace.feedback", "pace.feedback.sums"):
            channel.exchange_declare(exchange, "fanout")
            channel.queue_bind(mine, exchange)
        channel.basic_consume(mine, lambda *message: self._hear(message[-1]), auto_ack=True)

    def _hear(self, payload: bytes) -> None:
        if is_sum(payload):
            told = decode_sum(payload)
            self.sums += [told] if told.queue == self._queue else []
        else:
            report = decode(payload)
            self.reports += [report] if report.queue == self._queue else []

    def hear(self, seconds: float) -> None:
        """Forget what was heard, and listen."""
        self.reports.clear()
        self.sums.clear()
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            self._connection.process_data_events(left_s)

    def until(self, wanted: object) -> None:
        deadline = time.monotonic() + 60
        while not wanted() and time.monotonic() < deadline:  # type: ignore[operator]  # a function
            self.hear(0.5)
        assert wanted()  # type: ignore[operator]  # as above

    def close(self) -> None:
        self._connection.close()


def test_they_take_part_in_sums_and_consumers_report_as_rarely_as_they_are_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_DELIVERIES_PER_S", FEW_DELIVERIES_PER_S)
    monkeypatch.setattr(sums, "MOST_DELIVERIES_PER_S", FEW_DELIVERIES_PER_S)
    queue = f"integrations.fleet.{next(_numbers)}"
    with ExitStack() as stack:
        monitor = Monitor(url, queue)
        stack.callback(monitor.close)
        reporters = [stack.enter_context(Reporter(queue, url, prefetch=2)) for _ in range(CONSUMERS)]
        ending = threading.Event()
        stack.callback(ending.set)
        for reporter in reporters:
            consume = threading.Thread(target=_consume, args=(url, queue, reporter, ending))
            consume.start()
            stack.callback(consume.join, 60)
        monitor.until(lambda: sum(reporter.report().count(b"processed") for reporter in reporters) == CONSUMERS)
        # A watcher is one for each URL, as if each producer were a process.
        addresses = [f"{url}?number={number}" for number in range(PRODUCERS)]
        fleet = [stack.enter_context(SyncPaced(url, queue, url=address)) for address in addresses]
        for paced in fleet:
            publish = threading.Thread(target=_publish, args=(paced, ending))
            publish.start()
            stack.callback(publish.join, 60)
        stack.callback(ending.set)
        monitor.until(lambda: all(reporter.report_every_s > 0.5 for reporter in reporters))
        monitor.until(lambda: monitor.sums)
        monitor.until(lambda: sum(paced._limiter._pacer.listens for paced in fleet) == 2)
        monitor.until(lambda: all(reporter.report_every_s > 0.8 for reporter in reporters))
        everybody = (PRODUCERS, CONSUMERS)
        monitor.until(lambda: any((told.producers, told.reporting) == everybody for told in monitor.sums))
        monitor.hear(3.0)
        heard = [report for report in monitor.reports if isinstance(report, ConsumerReport)]
        assert {report.id for report in heard} <= {reporter._name for reporter in reporters}
        assert len(heard) <= 3 * 3.0 * CONSUMERS
        assert all(report.knows_sums for report in monitor.reports if isinstance(report, ProducerReport))
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete(queue)


def _publish(paced: SyncPaced, ending: threading.Event) -> None:
    while not ending.is_set():
        with suppress(BackpressureError):  # those who consume may end first
            paced.publish(b"x", timeout=1)


def _consume(url: str, queue: str, reporter: Reporter, ending: threading.Event) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue)
        channel.basic_qos(prefetch_count=2)
        for method, _, _ in channel.consume(queue, inactivity_timeout=0.05):
            if ending.is_set():
                return
            if method is not None:
                with reporter.work():
                    time.sleep(0.02)
                    channel.basic_ack(method.delivery_tag)
