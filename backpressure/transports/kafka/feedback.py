"""The topic for reports: a report arrives soon or is dropped.

A report that the broker does not accept within a second is dropped. A listener begins at the end of the topic, also
after an outage. The topic keeps reports for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as Record

from backpressure.errors import QueueNotFoundError, TransportError
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
        if not self._create and not await self._exists():
            _log.warning("no reports are heard or sent: there is no topic %s, and none is created", self._topic)
            return
        await self._create_topic()
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
        """See `FeedbackBus.carries_sums`; there is one topic, which every listener reads as a whole."""
        return False

    def listen(self, *, reports: bool, sums: bool) -> None:
        """See `FeedbackBus.listen`; all is heard."""

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> bool:  # noqa: ARG002 - nobody makes one
        """See `FeedbackBus.send`."""
        if self._producer is None or self._stopped or self._link.down:
            return False
        self._reports_open = True
        try:
            self._producer.produce(self._topic, payload, partition=0, on_delivery=self._on_delivery)
        except (BufferError, KafkaException):
            return False
        return True

    async def stop(self) -> None:
        """Close."""
        self._stopped = True
        if self._restoring is not None:
            self._restoring.cancel()
        if self._polling.ident is not None:
            await asyncio.to_thread(self._polling.join)
        await self._requests.stop()

    def _listen_from_now(self, consumer: Consumer) -> None:
        place = TopicPartition(self._topic, 0)
        try:
            _first, place.offset = consumer.get_watermark_offsets(place, timeout=self._timeout_s)
        except KafkaException:
            place.offset = OFFSET_END  # the broker has just gone: reports sent until it is back are skipped
        consumer.assign([place])

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
        if self._behind:
            self._behind = False
            consumer.assign([TopicPartition(self._topic, 0, OFFSET_END)])
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
        self._restoring = asyncio.create_task(self._create_topic(), name="restore feedback")

    async def _exists(self) -> bool:
        try:
            return bool(await self._requests.partitions(self._topic))
        except QueueNotFoundError:
            return False

    async def _create_topic(self) -> None:
        try:
            if (
                self._create and not await self._exists()
            ):  # a user without the right to create is refused even if the topic exists
                await create_topics(self._requests, [Topic(self._topic, 1, _RETENTION)])
        except TransportError:
            if self._producer is None:
                raise  # else the broker is away again, and this is repeated when it is back
