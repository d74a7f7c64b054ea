"""Consuming one queue with an acknowledgement for every message, on top of a log that has only offsets.

Messages may be settled in any order (see ``settled``). Prefetch counts unsettled deliveries; messages that were fetched
beyond it wait here. A requeued message is delivered again from here, because its partition belongs to this consumer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from backpressure.core.message import Delivery, Message
from backpressure.errors import NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import SubscriberListener
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.client import client_configuration
from backpressure.transports.kafka.failures import kafka_error
from backpressure.transports.kafka.group import Membership, weight_of
from backpressure.transports.kafka.records import content_of, dead_letter, message_from, topic_name
from backpressure.transports.kafka.settled import Commit, Mark, PartitionProgress

_log = logging.getLogger("backpressure")
COMMIT_AFTER_S = 0.05  # half the age of a probe's reading; each commit costs the broker a millisecond
_COMMIT_AGAIN_S = 0.2


@dataclass(order=True, slots=True)
class _Entry:
    """A fetched message; ``order`` is its position, which it keeps when it is requeued."""

    order: int
    partition: int
    epoch: int
    record: Record
    redelivered: bool = False
    requeued: bool = False


class KafkaSubscriber:
    """A `Subscriber` in the consumer group that stands for the queue."""

    round_trip_s: float | None = None

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, dead_letter: str) -> None:
        """``dead_letter`` is the queue for rejected messages."""
        self._broker = broker
        self._outage = outage
        self._name = name
        self._dead_letters = DeadLetterTopic(broker, f"{name}-dead-letters", dead_letter)
        self._listener: SubscriberListener
        self._membership: Membership
        self._queue = ""
        self._prefetch = 1
        self._paused = False
        self._stopping = False
        self._delivering = False
        self._epochs = itertools.count(1)
        self._orders = itertools.count()
        self._tags = itertools.count(1)
        self._partitions: dict[int, tuple[int, PartitionProgress]] = {}
        self._waiting: list[_Entry] = []  # a heap
        self._held: dict[int, _Entry] = {}
        self._going: set[int] = set()
        self._gone: Future[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._settled = 0  # by this member
        self._changed: set[int] = set()
        self._commit_timer: asyncio.TimerHandle | None = None

    async def start(self, listener: SubscriberListener, *, queue: str, prefetch: int) -> None:
        """See `Subscriber.start`; raises `QueueNotFoundError` for a topic that is not there.

        Raises `AccessRefusedError` for a group or a topic that is not for us, and `NotConnectedError` without waiting.
        """
        self._listener, self._queue, self._prefetch = listener, queue, prefetch
        self._membership = Membership(self._broker, self._outage, self._name, queue, self)
        await self._membership.join()

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """See `Subscriber.ack`; False when its partition is no longer ours."""
        if delivery.tag not in self._held:
            return False
        for tag in [tag for tag in self._held if tag == delivery.tag or (multiple and tag < delivery.tag)]:
            self._settle(self._held.pop(tag))
        self._check_wound_down()
        self._deliver()
        return True

    def nack(self, delivery: Delivery, *, requeue: bool) -> bool:
        """See `Subscriber.nack`; a dead letter is settled only when the dead-letter topic has it."""
        entry = self._held.pop(delivery.tag, None)
        if entry is None:
            return False
        if requeue:
            self._requeue(entry)
        else:
            task = asyncio.create_task(self._dead_letter(delivery, entry))
            self._leaving.add(task)
            task.add_done_callback(self._left)
        self._check_wound_down()
        self._deliver()
        return True

    def set_prefetch(self, count: int) -> None:
        """See `Subscriber.set_prefetch`."""
        self._prefetch = count
        self._deliver()

    async def pause(self) -> None:
        """See `Subscriber.pause`."""
        self._paused = True

    async def resume(self) -> None:
        """See `Subscriber.resume`."""
        self._paused = False
        self._deliver()

    async def stop(self) -> None:
        """See `Subscriber.stop`."""
        self._paused = self._stopping = True
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=self._broker.connect_timeout_s)
        if self._queue and not await self._membership.stop():
            _log.warning(
                "the broker at %s does not answer: it was not told that %d messages were settled, and may deliver them "
                "again",
                self._broker.address(),
                self._settled - self._membership.member.committed,
            )
        if self._commit_timer is not None:
            self._commit_timer.cancel()
        self._held.clear()

    # --- what the group says (GroupListener) --------------------------------------------------------------------------

    def on_assigned(self, marks: Mapping[int, Mark | None]) -> None:
        """See `GroupListener.on_assigned`."""
        for number, mark in marks.items():
            self._partitions[number] = (next(self._epochs), PartitionProgress(mark))
        if self._membership.assigned():
            self._listener.on_ready()

    def on_records(self, records: list[Record]) -> None:
        """See `GroupListener.on_records`."""
        self._membership.received()
        for record in records:
            number, offset = record.partition() or 0, record.offset() or 0
            if number not in self._partitions or number in self._going:
                self._membership.member.took(weight_of(record))  # fetched before it was revoked
                continue
            if self._partitions[number][1].restarted(offset):
                self._begin_anew(number)
            epoch, progress = self._partitions[number]
            if progress.receive(offset):
                heapq.heappush(self._waiting, _Entry(next(self._orders), number, epoch, record))
            else:
                self._membership.member.took(weight_of(record))
                self._commit_soon(number)
        self._deliver()

    def wind_down(self, partitions: Iterable[int], done: Future[None]) -> None:
        """See `GroupListener.wind_down`: so a rebalance costs no message a second processing."""
        self._going, self._gone = set(partitions), done
        self._forget_waiting(self._going)
        self._check_wound_down()

    def hand_back(self, partitions: Iterable[int]) -> Mapping[int, Commit]:
        """See `GroupListener.hand_back`; deliveries of these partitions settle nothing any more."""
        numbers = set(partitions)
        self._going -= numbers
        known = {number: self._partitions.pop(number) for number in numbers if number in self._partitions}
        if self._drop(numbers) and not self._held and not self._stopping:
            # The engine cannot settle what it holds any more, so it should not begin work on it.
            self._listener.on_lost(NotConnectedError(f"other consumers took over the partitions of {self._queue!r}"))
            self._listener.on_ready()
        commits = {number: progress.commit(held=False) for number, (_, progress) in known.items()}
        return {number: commit for number, commit in commits.items() if commit is not None}

    def on_missing(self) -> None:
        """See `GroupListener.on_missing`."""
        for number in self._partitions:
            self._begin_anew(number)
        self._listener.on_lost(QueueNotFoundError(self._queue))

    def on_present(self) -> None:
        """See `GroupListener.on_present`."""
        self._listener.on_ready()

    def on_commit_failed(self) -> None:
        """See `GroupListener.on_commit_failed`."""
        for number in self._partitions:
            self._commit_soon(number, _COMMIT_AGAIN_S)

    def on_refused(self, error: TransportError) -> None:
        """See `GroupListener.on_refused`."""
        self._membership.refused(error)

    def on_died(self, error: TransportError) -> None:
        """See `GroupListener.on_died`; a new member takes over."""
        partitions = set(self._partitions)
        self._partitions.clear()
        self._going.clear()
        self._settled = 0
        self._drop(partitions)
        if not self._stopping and self._membership.died(error):
            self._listener.on_lost(error)

    # ------------------------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Deliver as many messages as prefetch allows. A listener may settle at once, which must not recurse."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting and not self._paused and len(self._held) + len(self._leaving) < self._prefetch:
                entry = heapq.heappop(self._waiting)
                if not entry.requeued:
                    self._membership.member.took(weight_of(entry.record))
                self._listener.on_delivery(self._delivery(entry))
        finally:
            self._delivering = False

    def _delivery(self, entry: _Entry) -> Delivery:
        offset = entry.record.offset() or 0
        entry.redelivered |= self._partitions[entry.partition][1].deliver(offset)
        self._commit_soon(entry.partition)
        tag = next(self._tags)
        self._held[tag] = entry
        return Delivery(
            message=message_from(entry.record),
            tag=tag,
            epoch=entry.epoch,
            redelivered=entry.redelivered,
            routing_key=entry.record.topic() or "",
            received_ns=time.monotonic_ns(),
            native=entry.record,
        )

    def _settle(self, entry: _Entry) -> None:
        self._settled += 1
        self._partitions[entry.partition][1].settle(entry.record.offset() or 0)
        self._commit_soon(entry.partition)

    def _requeue(self, entry: _Entry) -> None:
        if entry.partition in self._going:
            return  # the next consumer will get it
        entry.redelivered = entry.requeued = True
        heapq.heappush(self._waiting, entry)

    async def _dead_letter(self, delivery: Delivery, entry: _Entry) -> None:
        try:
            await self._dead_letters.add(delivery, self._queue)
        except TransportError as error:
            _log.warning("cannot dead-letter %s (%s): it is delivered again", delivery.message.message_id, error)
            done: Callable[[_Entry], None] = self._requeue
        else:
            done = self._settle
        if self._is_current(entry):
            done(entry)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        self._check_wound_down()
        self._deliver()

    def _check_wound_down(self) -> None:
        busy = self._leaving or any(entry.partition in self._going for entry in self._held.values())
        if self._gone is not None and (self._stopping or not busy):
            self._gone.set_result(None)
            self._gone = None

    def _is_current(self, entry: _Entry) -> bool:
        return self._partitions.get(entry.partition, (0, None))[0] == entry.epoch

    def _begin_anew(self, partition: int) -> None:
        """The partition was emptied or created again: its deliveries cannot be settled any more."""
        self._drop({partition})
        self._partitions[partition] = (next(self._epochs), PartitionProgress(None))

    def _drop(self, partitions: set[int]) -> bool:
        """Forget the deliveries and messages of these partitions; return whether there were deliveries."""
        held = {tag: entry for tag, entry in self._held.items() if entry.partition not in partitions}
        any_held = len(held) < len(self._held)
        self._held = held
        self._forget_waiting(partitions)
        self._changed -= partitions
        return any_held

    def _forget_waiting(self, partitions: set[int]) -> None:
        for entry in self._waiting:
            if entry.partition in partitions and not entry.requeued:
                self._membership.member.took(weight_of(entry.record))
        self._waiting = [entry for entry in self._waiting if entry.partition not in partitions]
        heapq.heapify(self._waiting)

    def _commit_soon(self, partition: int, after_s: float = COMMIT_AFTER_S) -> None:
        self._changed.add(partition)
        if self._commit_timer is None:
            self._commit_timer = asyncio.get_running_loop().call_later(after_s, self._commit)

    def _commit(self) -> None:
        self._commit_timer = None
        commits = {number: self._partitions[number][1].commit(held=True) for number in self._changed}
        self._changed.clear()
        known = {number: commit for number, commit in commits.items() if commit is not None}
        self._membership.member.commit(known, self._settled)


class DeadLetterTopic:
    """The dead-letter topic, for messages that a subscriber rejects.

    It connects at the first message. Dead letters are rare, so each is written and awaited in a thread.
    """

    def __init__(self, broker: BrokerSettings, name: str, queue: str) -> None:
        self._broker = broker
        self._name = name
        self._queue = queue
        self._producer: Producer | None = None

    async def add(self, delivery: Delivery, source: str) -> None:
        """Write what was delivered, rejected from the queue ``source``; raises `TransportError`."""
        letter = dead_letter(delivery, source, {})
        if self._producer is None:
            configuration = client_configuration(self._broker, self._name)
            self._producer = Producer(configuration | {"enable.idempotence": True, "message.timeout.ms": 10_000})
        await asyncio.to_thread(self._write, self._producer, letter)

    def _write(self, producer: Producer, message: Message) -> None:
        outcome: list[KafkaError | None] = []

        def on_delivery(error: KafkaError | None, _record: Record) -> None:
            outcome.append(error)

        address, topic = self._broker.address(), topic_name(self._queue)
        try:
            producer.produce(topic, on_delivery=on_delivery, **content_of(message))
        except KafkaException as error:  # for instance, the new headers have made it too large
            raise kafka_error(error.args[0], address, self._queue) from error
        producer.flush()
        if not outcome:
            raise NotConnectedError(f"the broker at {address} did not answer for a dead letter")
        if outcome[0] is not None:
            raise kafka_error(outcome[0], address, self._queue)
