"""The topic for reports: a report arrives soon or is dropped.

A report that the broker does not accept within a second is dropped. A listener begins at the end of the topic, also
after an outage. The topic keeps reports for a minute.

Sums of reports (`backpressure.core.sums`) have a topic of their own, made by the first one who wants to hear them. A
user who may not create it, where nobody has, hears all reports.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as Record

from backpressure.core.sums import SUMS_SUFFIX
from backpressure.errors import BrokerUnavailableError, NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import Answer
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.admin import Topic, create_topics
from backpressure.transports.kafka.client import KafkaLink, KafkaRequests, client_configuration
from backpressure.transports.kafka.fenced import FencedBrokers
from backpressure.transports.kafka.records import topic_name

_log = logging.getLogger("backpressure")
_POLL_S = 0.1
_BATCH = 100
_FLUSH_S = 1.0
_RETENTION = {"retention.ms": "60000", "segment.ms": "60000"}
_SENDING = {"acks": "all", "linger.ms": 0, "message.timeout.ms": 1000, "queue.buffering.max.messages": 1000}


class KafkaFeedback:
    """A `FeedbackBus` on one partition, so that a sender's reports arrive in order."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, exchange: str, *, create: bool) -> None:
        """Without ``create`` nothing is sent or heard where there is no such topic."""
        self._topic = topic_name(exchange)
        self._sums = topic_name(f"{exchange}{SUMS_SUFFIX}")
        self._wanted = frozenset({self._topic})  # of these two, what is to be heard
        self._heard_now: frozenset[str] = frozenset()  # what is
        self._asked = (True, False)
        self._sums_there: bool | None = None  # None: nobody has looked
        self._looking: asyncio.Task[None] | None = None
        self._create = create
        self._requests = KafkaRequests(broker, outage, name)
        self._link = KafkaLink(broker, outage, on_up=self._after_outage)
        self._configuration = client_configuration(broker, name) | {"error_cb": self._link.on_error}
        self._fenced = FencedBrokers(broker)
        self._reports_open = self._reported = False
        self._timeout_s = broker.connect_timeout_s
        self._polling = threading.Thread(target=self._poll_until_stopped, name=name, daemon=True)
        self._on_report: Callable[[bytes], None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._behind = False
        self._stopped = False

    async def start(
        self,
        on_report: Callable[[bytes], None] | None = None,
        *,
        answer: Answer | None = None,  # noqa: ARG002 - there is no way back to one process
        on_answer: Callable[[bytes], None] | None = None,  # noqa: ARG002 - as above
    ) -> None:
        """See `FeedbackBus.start`; nothing is answered."""
        self._loop = asyncio.get_running_loop()
        self._on_report = on_report
        await self._requests.start()
        if not self._create and not await self._exists(self._topic):
            _log.warning("no reports are heard or sent: there is no topic %s, and none is created", self._topic)
            return
        await self._create_topics()
        producer = Producer(self._configuration | _SENDING)
        self._fenced.learn(await self._link.dial(producer))
        if on_report is not None:
            consumer = Consumer(self._configuration | {"group.id": "none", "enable.auto.commit": False})
            await asyncio.to_thread(self._listen_from_now, consumer)
            self._consumer = consumer
        self._producer = producer
        self._polling.start()

    @property
    def blocked(self) -> bool:
        """See `FeedbackBus.blocked`; Kafka has no alarm."""
        return False

    @property
    def carries_sums(self) -> bool:
        """See `FeedbackBus.carries_sums`."""
        return self._consumer is not None and self._sums_there is not False

    def listen(self, *, reports: bool, sums: bool) -> None:
        """See `FeedbackBus.listen`."""
        self._asked = reports, sums
        if sums and self._sums_there is None and self._looking is None and self._consumer is not None:
            self._looking = asyncio.create_task(self._look_for_sums(), name="look for sums")
        sums = sums and bool(self._sums_there)
        # Who is to hear sums alone hears reports until there is a topic for sums.
        wanted = {self._topic: reports or not sums, self._sums: sums}
        self._wanted = frozenset(topic for topic in wanted if wanted[topic])

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> bool:  # noqa: ARG002 - nobody answers
        """See `FeedbackBus.send`."""
        if self._producer is None or self._stopped or self._link.down:
            return False
        if is_sum and self._sums not in self._heard_now:
            return False
        self._reports_open = True
        try:
            topic = self._sums if is_sum else self._topic
            self._producer.produce(topic, payload, partition=0, on_delivery=self._on_delivery)
        except (BufferError, KafkaException):
            return False
        return True

    async def stop(self) -> None:
        """Close."""
        self._stopped = True
        for task in (self._restoring, self._looking):
            if task is not None:
                task.cancel()
        if self._polling.ident is not None:
            await asyncio.to_thread(self._polling.join)
        await self._requests.stop()

    def _listen_from_now(self, consumer: Consumer) -> None:
        """Begin with the reports, at the end as it is now: none of those that follow is missed."""
        place = TopicPartition(self._topic, 0)
        try:
            _first, place.offset = consumer.get_watermark_offsets(place, timeout=self._timeout_s)
        except KafkaException:
            place.offset = OFFSET_END  # the broker has just gone: reports sent until it is back are skipped
        consumer.assign([place])
        self._heard_now = frozenset({self._topic})

    def _change_topics(self, consumer: Consumer) -> None:
        """Hear what is wanted: a topic that is heard already goes on, another one begins at its end."""
        wanted = self._wanted
        kept = [] if self._behind else [TopicPartition(topic, 0) for topic in wanted & self._heard_now]
        places = [place if place.offset >= 0 else _at_end(place.topic) for place in consumer.position(kept)]
        begun = wanted if self._behind else wanted - self._heard_now
        consumer.assign([*places, *map(_at_end, begun)])
        self._heard_now, self._behind = wanted, False

    def _poll_until_stopped(self) -> None:
        assert self._producer is not None
        while not self._stopped:
            heard = False
            if self._consumer is None:
                self._producer.poll(_POLL_S)
            else:
                heard = self._hear(self._consumer)
                self._producer.poll(0)
            heard = heard and not self._reports_open
            waiting = self._reports_open or self._consumer is not None
            self._fenced.watch(answered=heard or self._reported, waiting=waiting)
            self._reported = False
            if self._link.down:
                self._link.look_again(self._producer)
        self._producer.flush(_FLUSH_S)
        if self._consumer is not None:
            self._consumer.close()

    def _hear(self, consumer: Consumer) -> bool:
        """Pass on the reports that have arrived; return whether there were any."""
        if self._behind or self._wanted != self._heard_now:
            self._change_topics(consumer)
        if (first := consumer.poll(_POLL_S)) is None:
            return False
        records = [first, *consumer.consume(_BATCH, timeout=0)]
        reports = [value for record in records if record.error() is None and (value := record.value()) is not None]
        if reports:
            self._loop.call_soon_threadsafe(self._report, reports)
        return bool(reports)

    def _on_delivery(self, error: KafkaError | None, _record: Record) -> None:
        if error is None:
            self._reports_open, self._reported = False, True

    def _report(self, reports: Sequence[bytes]) -> None:
        assert self._on_report is not None
        for report in reports:
            self._on_report(report)

    def _after_outage(self) -> None:
        self._behind = True
        self._restoring = asyncio.create_task(self._create_topics(), name="restore feedback")

    async def _exists(self, topic: str) -> bool:
        try:
            return bool(await self._requests.partitions(topic))
        except QueueNotFoundError:
            return False

    async def _create_topics(self) -> None:
        try:
            for topic in (self._topic, self._sums) if self._sums_there else (self._topic,):
                # A user without the right to create is refused even if the topic exists.
                if self._create and not await self._exists(topic):
                    await create_topics(self._requests, [Topic(topic, 1, _RETENTION)])
        except TransportError:
            if self._producer is None:
                raise  # else the broker is away again, and this is repeated when it is back

    async def _look_for_sums(self) -> None:
        """Find out whether there is a topic for sums, and create it if that is for us."""
        try:
            there = await self._exists(self._sums)
            if not there and self._create:
                await create_topics(self._requests, [Topic(self._sums, 1, _RETENTION)])
            self._sums_there = there or self._create
        except (NotConnectedError, BrokerUnavailableError):
            pass  # the broker is away: the next call of `listen` looks again
        except TransportError as error:
            self._sums_there = False
            _log.info("all reports are heard one by one: the topic %s cannot be created (%s)", self._sums, error)
        finally:
            self._looking = None
        if self._sums_there is not None:
            reports, sums = self._asked
            self.listen(reports=reports, sums=sums)


def _at_end(topic: str) -> TopicPartition:
    return TopicPartition(topic, 0, OFFSET_END)
