"""Reports for a consumer that uses a client library of its own, so that producers can pace to it.

`Reporter` counts what the consumer does and publishes it ten times a second on a connection of its own, in a thread, or
hands the reports to the caller. In a fleet it asks producers how often to report. Its methods may be called from any
thread.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from backpressure.core.addresses import BrokerAddress
from backpressure.core.reports import ConsumerReport, encode, encode_compact
from backpressure.core.turns import ReportTurns, decode_interval
from backpressure.errors import ConfigError, FeedbackError

_log = logging.getLogger("backpressure")
_REPLY_TO = "amq.rabbitmq.reply-to"
_ASKING = pika.BasicProperties(reply_to=_REPLY_TO)  # type: ignore[no-untyped-call]  # pika has no types here
_RETRY_S = 1.0
_CLOSE_WITHIN_S = 5.0
_BLOCKED_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class DueReport:
    """A report to be published; one that ``asks`` has a ``reply_to``, see `Reporter.due`."""

    payload: bytes
    asks: bool


class Reporter:
    """Counts the work of one consumer process, and reports it."""

    def __init__(
        self,
        queue: str,
        url: str | None = None,
        *,
        prefetch: int,
        name: str | None = None,
        exchange: str = "pace.feedback",
        interval_s: float = 0.1,
        holds: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count from zero, and begin to report if there is a ``url``.

        Args:
            queue: the queue that the process consumes.
            url: the broker, ``amqp://…``; reports then leave on a connection and a thread of their own until `close`.
                Of several servers, ``amqp://one,two/``, any that answers is used.
                None: call `report` ten times a second and publish what it returns, or `due` to report as rarely as
                the size of the fleet asks for.
            prefetch: how many unacknowledged messages the process may have; 0: any number.
            name: identity of the process, different from every other's; None: from host, process id and chance.
            exchange: the fanout exchange of the reports.
            interval_s: seconds between two reports where processes are few; in a fleet producers may tell it to report
                less often.
            holds: returns how many messages the client library has received and not acknowledged, if it tells.
            clock: seconds of a monotonic clock.

        Raises:
            ConfigError: a value is not allowed.
        """
        if prefetch < 0:
            raise ConfigError("prefetch", prefetch, "expected 0 or more")
        if interval_s <= 0:
            raise ConfigError("interval_s", interval_s, "expected more than 0")
        self._queue = queue
        self._prefetch = prefetch
        self._pid, self._host = os.getpid(), socket.gethostname()
        self._name = name or f"{self._host}-{self._pid}-{os.urandom(3).hex()}"
        self._exchange = exchange
        self._interval_s = interval_s
        self._holds = holds
        self._clock = clock
        self._started_ns = time.time_ns() - int(clock() * 1e9)
        self._lock = threading.Lock()
        self._begun: dict[object, float] = {}
        self._processed = self._failed = self._waiting = 0
        self._busy_s = self._service_sum_s = self._service_sum_s2 = 0.0
        self._turns = ReportTurns(interval_s, random.random)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if url is not None:
            try:
                servers = [pika.URLParameters(each) for each in BrokerAddress.parse(url).single()]
            except (ValueError, TypeError):
                raise ConfigError("url", url, "expected the URL of a broker: amqp://user:password@host:port/") from None
            for parameters in servers:
                parameters.client_properties = {"connection_name": f"reporter of {self._name}"}
            random.shuffle(servers)
            self._thread = threading.Thread(target=self._keep_reporting, args=(servers,), name="pace-reporter")
            self._thread.daemon = True  # a program that forgets to close it still ends
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def received(self, count: int = 1) -> None:
        """The client library handed over ``count`` messages; the work on them begins later.

        Call it if you queue messages yourself before you work on them: only then can the reports tell how many wait.
        """
        with self._lock:
            self._waiting += count

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count what happens inside as the work on one message, its acknowledgement included.

        An exception counts as a failed attempt: the message has not left the queue.
        """
        token = self.begin()
        try:
            yield
        except BaseException:
            self.end(token, failed=True)
            raise
        self.end(token)

    def begin(self) -> object:
        """Count a message as in work until `end` is called with what this returns; see `work`."""
        token = object()
        with self._lock:
            self._waiting = max(0, self._waiting - 1)
            self._begun[token] = self._clock()
        return token

    def end(self, token: object, *, failed: bool = False) -> None:
        """The work for which `begin` returned ``token`` is over; ``failed``: the message is still in the queue."""
        with self._lock:
            begun_at = self._begun.pop(token, None)
            if begun_at is None:
                return  # it was told before
            if failed:
                self._failed += 1
                self._busy_s += self._clock() - begun_at
            else:
                self._settle(self._clock() - begun_at)

    def done(self, seconds: float) -> None:
        """Count one message that has left the queue after ``seconds`` of work.

        Raises:
            ValueError: ``seconds`` is negative, infinite or no number.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"{seconds} is not a time that work can take")
        with self._lock:
            self._waiting = max(0, self._waiting - 1)
            self._settle(seconds)

    def disconnected(self) -> None:
        """The consumer's connection was lost: the broker delivers again what was waiting here."""
        with self._lock:
            self._waiting = 0

    def report(self) -> bytes:
        """Return the counters now, to be published on the exchange of the reports."""
        return encode(self._counters())

    def due(self) -> DueReport | None:
        """Return the report to be published now, if it is time for one; ask ten times a second.

        It takes part in a fleet: the size of that decides how often it is time, and producers tell it if they are
        asked. So publish a report that ``asks`` with the property ``reply_to`` (``amq.rabbitmq.reply-to``, from which
        the same channel consumes without acknowledgements), and pass what comes to `told`. Without answers it is time
        every ``interval_s``.
        """
        report = self._counters()
        with self._lock:
            turn = self._turns.look(report, self._clock())
        return None if turn is None else DueReport(encode_compact(report, brief=turn.brief), turn.asks)

    def told(self, payload: bytes) -> None:
        """Take in an answer to a report that asks; what is none is ignored."""
        with suppress(FeedbackError):
            queue, every_s = decode_interval(payload)
            if queue == self._queue:
                with self._lock:
                    self._turns.tell(every_s, self._clock())

    @property
    def report_every_s(self) -> float:
        """How often it reports on average, seconds."""
        with self._lock:
            return self._turns.every_s(self._clock())

    def _counters(self) -> ConsumerReport:
        told = 0 if self._holds is None else self._holds()
        with self._lock:
            now = self._clock()
            begun = self._begun.values()
            held = max(told, self._waiting + len(begun))
            return ConsumerReport(
                id=self._name,
                pid=self._pid,
                host=self._host,
                at_ns=self._started_ns + int(now * 1e9),
                queue=self._queue,
                delivered=self._processed + self._failed + held,
                processed=self._processed,
                failed=self._failed,
                held=held,
                prefetch=self._prefetch,
                busy_s=self._busy_s + sum(now - since for since in begun),
                service_sum_s=self._service_sum_s,
                service_sum_s2=self._service_sum_s2,
            )

    def close(self) -> None:
        """Stop reporting and disconnect; closing twice is harmless.

        It waits five seconds at most: a broker with an alarm does not answer. The thread then ends without it.
        """
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_WITHIN_S)

    def _settle(self, seconds: float) -> None:
        self._processed += 1
        self._busy_s += seconds
        self._service_sum_s += seconds
        self._service_sum_s2 += seconds * seconds

    # --- the connection, in its thread ---

    def _keep_reporting(self, servers: list[pika.URLParameters]) -> None:
        for parameters in servers:
            parameters.blocked_connection_timeout = _BLOCKED_TIMEOUT_S
        told = False
        while not self._closing.is_set():
            try:
                connection = pika.BlockingConnection(servers)
            except (AMQPError, OSError) as error:
                failure: Exception = error
            else:
                try:
                    told = False
                    self._publish_on(connection)
                except (AMQPError, OSError) as error:
                    failure = error
                    _close(connection)
                else:
                    return
            if not told:
                told = True
                _log.warning("no reports for %s are sent for now: %r", self._queue, failure)
            self._closing.wait(_RETRY_S)

    def _publish_on(self, connection: pika.BlockingConnection) -> None:
        blocked = threading.Event()
        connection.add_on_connection_blocked_callback(lambda *_: blocked.set())
        connection.add_on_connection_unblocked_callback(lambda *_: blocked.clear())
        channel, hears = self._channel(connection)
        due_at = time.monotonic()
        while not self._closing.is_set():
            if not blocked.is_set() and (due := self.due()) is not None:
                channel.basic_publish(self._exchange, "", due.payload, _ASKING if due.asks and hears else None)
            due_at = max(due_at + self._interval_s, time.monotonic())
            while not self._closing.is_set() and (left_s := due_at - time.monotonic()) > 0:
                connection.process_data_events(min(left_s, 0.1))
        connection.close()

    def _channel(self, connection: pika.BlockingConnection) -> tuple[Any, bool]:
        """Return a channel on a broker that has the exchange, and whether it hears answers.

        An exchange that is there is used as it is: it may be a temporary one, or this user may not create any. A broker
        may know no direct reply-to.
        """
        try:
            channel = connection.channel()
            channel.exchange_declare(self._exchange, passive=True)
        except ChannelClosedByBroker:
            channel = connection.channel()
            channel.exchange_declare(self._exchange, "fanout")
        try:
            channel.basic_consume(_REPLY_TO, lambda *message: self.told(message[-1]), auto_ack=True)
        except ChannelClosedByBroker:
            return connection.channel(), False
        return channel, True


def _close(connection: pika.BlockingConnection) -> None:
    with suppress(AMQPError, OSError):  # it may be lost already
        connection.close()
