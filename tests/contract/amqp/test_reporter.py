"""`Reporter` beside a consumer with pika's blocking connection: reports arrive, also after the connection was lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from backpressure import Reporter
from backpressure.core.reports import ConsumerReport, decode

_PATIENCE_S = 60.0


@pytest.fixture
def exchange(name: Callable[[], str]) -> str:
    """The exchange of the reports, which does not exist yet."""
    return name()


@pytest.fixture
def reporter(broker: Any, queue: str, exchange: str) -> Iterator[Reporter]:
    with Reporter(queue, broker.url, prefetch=2, exchange=exchange, name=f"of {queue}") as reporter:
        yield reporter


class Listener:
    """Hears the reports on an exchange."""

    def __init__(self, channel: Any, exchange: str) -> None:
        self._channel = channel
        channel.exchange_declare(exchange, "fanout")
        self._queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(self._queue, exchange)

    def next(self) -> ConsumerReport | None:
        """Return the oldest report that was not read; None: there is none."""
        body = self._channel.basic_get(self._queue, auto_ack=True)[2]
        if body is None:
            return None
        report = decode(body)
        assert isinstance(report, ConsumerReport)
        return report

    def until(self, wanted: Callable[[ConsumerReport], bool]) -> ConsumerReport:
        """Return the first report from now on that is ``wanted``."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if (report := self.next()) is None:
                time.sleep(0.02)
            elif wanted(report):
                return report
        pytest.fail("no such report was heard")


@pytest.fixture
def listener(connect: Callable[..., pika.BlockingConnection], exchange: str) -> Listener:
    return Listener(connect().channel(), exchange)


def test_what_a_blocking_consumer_does_is_heard_while_it_works(
    queue: str, channel: Any, reporter: Reporter, listener: Listener, connect: Callable[..., pika.BlockingConnection]
) -> None:
    for number in range(3):
        channel.basic_publish("", queue, b"%d" % number)
    consuming = connect().channel()
    consuming.basic_qos(prefetch_count=2)
    handled = []
    for method, _, body in consuming.consume(queue):
        with reporter.work():
            handled.append(body)
            done = len(handled) - 1
            during = listener.until(lambda report, done=done: report.held == 1 and report.processed == done)
            consuming.basic_ack(method.delivery_tag)
        if len(handled) == 3:
            break
    after = listener.until(lambda report: report.processed == 3)
    assert handled == [b"0", b"1", b"2"]
    assert (after.queue, after.held, after.prefetch) == (queue, 0, 2)
    assert after.busy_s > during.busy_s > 0


def test_a_lost_connection_is_replaced_and_no_count_is_lost(
    reporter: Reporter, listener: Listener, janitor: httpx.Client, queue: str
) -> None:
    reporter.done(0.1)
    before = listener.until(lambda report: report.processed == 1)
    deadline = time.monotonic() + _PATIENCE_S
    closed: list[str] = []
    while not closed and time.monotonic() < deadline:  # RabbitMQ lists a connection seconds after it was opened
        closed = [
            each["name"]
            for each in janitor.get("/connections").json()
            if each.get("client_properties", {}).get("connection_name") == f"reporter of of {queue}"
        ]
        time.sleep(0.1)
    assert len(closed) == 1
    janitor.delete(f"/connections/{quote(closed[0], safe='')}").raise_for_status()
    reporter.done(0.1)
    after = listener.until(lambda report: report.processed == 2 and report.at_ns > before.at_ns + 10**9)
    assert after.id == before.id


def test_closing_ends_the_thread_and_the_connection(broker: Any, queue: str, exchange: str, listener: Listener) -> None:
    reporter = Reporter(queue, broker.url, prefetch=1, exchange=exchange)
    listener.until(lambda report: report.prefetch == 1)
    reporter.close()
    reporter.close()
    assert reporter._thread is not None
    assert not reporter._thread.is_alive()
    time.sleep(0.5)
    while listener.next() is not None:  # those that were on their way
        pass
    time.sleep(0.5)
    assert listener.next() is None


def test_reports_may_leave_on_a_channel_of_the_caller(
    queue: str, channel: Any, exchange: str, listener: Listener
) -> None:
    reporter = Reporter(queue, prefetch=7)
    reporter.done(0.5)
    channel.basic_publish(exchange, "", reporter.report())
    assert listener.until(lambda _: True).processed == 1


def test_an_exchange_that_is_there_as_a_temporary_one_is_used_as_it_is_and_made_when_it_has_gone(
    broker: Any, queue: str, exchange: str, connect: Callable[..., pika.BlockingConnection]
) -> None:
    """A producer of a predeclared queue makes one like that, which goes with its last listener."""
    channel = connect().channel()
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    heard = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(heard, exchange)
    with Reporter(queue, broker.url, prefetch=2, exchange=exchange):
        for _, _, body in channel.consume(heard, auto_ack=True, inactivity_timeout=_PATIENCE_S):
            assert body is not None
            break
        channel.cancel()
        channel.queue_delete(heard)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            assert time.monotonic() < deadline
            try:
                Listener(connect().channel(), exchange).until(lambda _report: True)
            except ChannelClosedByBroker:  # it has not been made anew yet, or is the old one
                time.sleep(0.1)
            else:
                break
