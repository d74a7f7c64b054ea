"""The member of a consumer group: one librdkafka consumer, the thread that polls it, and how long it lasts.

The thread never stops polling, however long the work takes, so the group never takes this member for dead. What it
fetches ahead is bounded: while the buffer on the event loop is full it fetches nothing, and if that lasts it pauses the
partitions. Rebalances happen in the thread; before it gives up a partition it asks the event loop what to commit.

`Membership` waits until the group lets a member in. When the thread of a member has ended, another one takes its place
after a pause.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from backpressure.core.kafka_names import group_id, topic_name
from backpressure.errors import NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.client import KafkaLink, client_configuration
from backpressure.transports.kafka.failures import MISSING, REFUSED, kafka_error
from backpressure.transports.kafka.settled import Commit, Mark
from backpressure.transports.outage import Outage, pauses

__all__ = ["POLL_S", "SESSION_TIMEOUT_S", "GroupListener", "GroupMember", "Membership", "weight_of"]

SESSION_TIMEOUT_S = 6.0
"""A member that was killed keeps its partitions for this long: the shortest that brokers allow by default."""
POLL_S = 0.02  # a commit waits for the end of a poll: only the thread that polls a consumer may do anything with it
_BATCH = 100
_FULL, _LOW = 200, 100  # fetched and not delivered: messages, of 64 KiB at most
_ASK_S = 5.0
_WIND_DOWN_S = 2.0
_LOOK_EVERY_S = 0.2
_OPTIONS = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",  # who joins or leaves takes nothing from those who stay
    "session.timeout.ms": int(SESSION_TIMEOUT_S * 1000),
    "heartbeat.interval.ms": 1000,
    "queued.max.messages.kbytes": 16_384,
    "fetch.queue.backoff.ms": 10,
}
_log = logging.getLogger("backpressure")
_JOIN_WITHIN_S = 30.0  # a new group waits for 3 s by default, and for a dead member's session, 6 s


class GroupListener(Protocol):
    """What the member tells; all on the event loop."""

    def on_assigned(self, marks: Mapping[int, Mark | None]) -> None:
        """These partitions are ours from now on, with what the last commit of each says; none is an answer too."""

    def on_records(self, records: list[Record]) -> None:
        """Messages were fetched; `GroupMember.took` counts those that have left the buffer."""

    def wind_down(self, partitions: Iterable[int], done: Future[None]) -> None:
        """These partitions are about to go: deliver nothing more of them, and say when nothing of them is held."""

    def hand_back(self, partitions: Iterable[int]) -> Mapping[int, Commit]:
        """These partitions are ours no longer: return what is to be committed."""

    def on_missing(self) -> None:
        """The topic was deleted."""

    def on_present(self) -> None:
        """The topic is there again, empty."""

    def on_commit_failed(self) -> None:
        """A commit did not get through; a later one will do."""

    def on_refused(self, error: TransportError) -> None:
        """The broker does not let us into the group, or not read the topic; told as often as it is."""

    def on_died(self, error: TransportError) -> None:
        """The thread has ended by a failure of its own: nothing more comes, nothing is committed."""


class GroupMember:
    """Consumes the queue's topic as one of its group until stopped."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, queue: str, listener: GroupListener) -> None:
        self._queue = queue
        self._topic = topic_name(queue)
        self._listener = listener
        self._link = KafkaLink(broker, outage)
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer(
            client_configuration(broker, name)
            | _OPTIONS
            | {"group.id": group_id(queue), "error_cb": self._link.on_error, "on_commit": self._on_commit}
        )
        self._polling = threading.Thread(target=self._run, name=name, daemon=True)
        self._stopped = False
        self._fetched = 0
        self._taken = 0
        self._room = threading.Event()
        self._to_commit: deque[Mapping[int, Commit]] = deque()
        self._halted = False
        self._missing = False
        self._look_at = 0.0

    async def start(self) -> None:
        """Connect; raises `QueueNotFoundError` and whatever `KafkaLink.dial` does."""
        metadata = await self._link.dial(self._consumer)
        if self._topic not in metadata.topics:
            raise QueueNotFoundError(self._queue)
        self._polling.start()

    def took(self, weight: int) -> None:
        """Take note that so much has left the buffer; see `weight_of`."""
        self._taken += weight
        if self._fetched - self._taken <= _LOW:
            self._room.set()

    def commit(self, commits: Mapping[int, Commit]) -> None:
        """Send these commits in a moment, without waiting for the answer."""
        self._to_commit.append(commits)

    async def stop(self) -> None:
        """Hand back all partitions, commit, leave the group."""
        self._stopped = True
        self._room.set()
        if self._polling.ident is not None:
            await asyncio.to_thread(self._polling.join)

    def _run(self) -> None:
        try:
            self._poll_until_stopped()
        except Exception as error:  # noqa: BLE001 -- whatever it is, somebody has to learn of it
            with suppress(Exception):  # the group learns of it after the session, then
                self._consumer.close()
            if not self._loop.is_closed():
                death = NotConnectedError(f"the consumer at {self._link.address} cannot go on ({error!r})")
                self._loop.call_soon_threadsafe(self._listener.on_died, death)

    def _poll_until_stopped(self) -> None:
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        while not self._stopped:
            record = self._consumer.poll(self._patience_s())
            if record is not None:
                self._hand_over([record, *self._consumer.consume(_BATCH, timeout=0)])
            self._send_commits()
            if self._missing:
                self._look_for_topic()
            if self._link.down:
                self._link.look_again(self._consumer)
        self._consumer.close()

    def _patience_s(self) -> float:
        """Wait for room in the buffer; return how long to wait for a message then."""
        if self._is_full():
            self._room.clear()
            if self._is_full():  # asked again, now that a change cannot be missed
                self._room.wait(POLL_S)
        full = self._is_full()
        if full != self._halted:
            self._halted = full
            with suppress(KafkaException):  # revoked meanwhile
                (self._consumer.pause if full else self._consumer.resume)(self._consumer.assignment())
        return 0.0 if full else POLL_S

    def _is_full(self) -> bool:
        return self._fetched - self._taken > (_LOW if self._halted else _FULL)

    def _hand_over(self, records: list[Record]) -> None:
        errors = {error.code(): error for record in records if (error := record.error()) is not None}
        good = [record for record in records if record.error() is None]
        self._fetched += sum(map(weight_of, good))
        if good:
            self._loop.call_soon_threadsafe(self._listener.on_records, good)
        if errors.keys() & MISSING and not self._missing:
            self._look_for_topic()
        for code in errors.keys() & REFUSED:
            refusal = kafka_error(errors[code], self._link.address, self._queue)
            self._loop.call_soon_threadsafe(self._listener.on_refused, refusal)

    def _look_for_topic(self) -> None:
        """See whether the topic is there: errors arrive late, and repeatedly."""
        if time.monotonic() < self._look_at:
            return
        try:
            missing = self._consumer.list_topics(self._topic, timeout=_ASK_S).topics[self._topic].error is not None
        except KafkaException:
            return
        if missing != self._missing:
            self._loop.call_soon_threadsafe(self._listener.on_missing if missing else self._listener.on_present)
        self._missing = missing
        self._look_at = time.monotonic() + (_LOOK_EVERY_S if missing else 0.0)

    def _send_commits(self) -> None:
        commits: dict[int, Commit] = {}
        while self._to_commit:
            commits |= self._to_commit.popleft()
        if commits:
            with suppress(KafkaException):  # not ours any more: what is not committed will be delivered again
                self._consumer.commit(offsets=self._offsets(commits), asynchronous=True)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with suppress(KafkaException):  # it begins at the committed offsets all the same, only without their metadata
            partitions = consumer.committed(partitions, timeout=_ASK_S) if partitions else []
        consumer.incremental_assign([TopicPartition(self._topic, each.partition, each.offset) for each in partitions])
        if self._halted:
            consumer.pause(partitions)
        marks = {each.partition: Mark.parse(each.metadata) for each in partitions}
        self._loop.call_soon_threadsafe(self._listener.on_assigned, marks)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        done: Future[None] = Future()
        numbers = [each.partition for each in partitions]
        self._loop.call_soon_threadsafe(self._listener.wind_down, numbers, done)
        with suppress(TimeoutError):  # what is not finished by then will be delivered to somebody else as well
            done.result(_WIND_DOWN_S)
        commits = self._hand_back(partitions)
        if commits:
            with suppress(KafkaException):  # then the messages come again
                consumer.commit(offsets=self._offsets(commits), asynchronous=False)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._hand_back(partitions)

    def _hand_back(self, partitions: list[TopicPartition]) -> Mapping[int, Commit]:
        answer: Future[Mapping[int, Commit]] = Future()
        numbers = [each.partition for each in partitions]
        self._loop.call_soon_threadsafe(lambda: answer.set_result(self._listener.hand_back(numbers)))
        commits = answer.result(_ASK_S)
        for _ in range(len(self._to_commit)):  # what was to be committed for these is older
            earlier = self._to_commit.popleft()
            self._to_commit.append({number: earlier[number] for number in earlier if number not in numbers})
        return commits

    def _on_commit(self, error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
        if error is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._listener.on_commit_failed)

    def _offsets(self, commits: Mapping[int, Commit]) -> list[TopicPartition]:
        return [
            TopicPartition(self._topic, number, commit.offset, commit.metadata) for number, commit in commits.items()
        ]


def weight_of(record: Record) -> int:
    """Return what a record counts for in the buffer: large ones for more than one."""
    return 1 + len(record.value() or b"") // 65_536


class Membership:
    """One member after the other; there is always one to ask."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, queue: str, listener: GroupListener) -> None:
        self._broker = broker
        self._outage = outage
        self._name = name
        self._queue = queue
        self._listener = listener
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pauses = pauses(broker.reconnect_min_s, broker.reconnect_max_s)
        self._rejoining: asyncio.Task[None] | None = None
        self._said_refused = False
        self.member = self._new_member()

    async def join(self) -> None:
        """Connect, and return when the group has let us in.

        Raises `TransportError` when it refuses, or when it takes its time and nobody is to wait.
        """
        await self.member.start()
        while not (await asyncio.wait({self._joined}, timeout=_JOIN_WITHIN_S))[0]:
            error = NotConnectedError(
                f"the group {group_id(self._queue)!r} at {self._broker.address()} has let nobody in for "
                f"{_JOIN_WITHIN_S:g} s"
            )
            if not self._broker.wait:
                raise error
            _log.warning("%s: still waiting", error)
        self._joined.result()

    def assigned(self) -> bool:
        """The group has given us partitions, or told that there are none; return whether that let us in."""
        if self._joined.done():
            return False
        self._joined.set_result(None)
        self._outage.end()
        return True

    def refused(self, error: TransportError) -> None:
        """The broker lets us not join, or not read: final for who waits to join, and worth a line later."""
        if not self._joined.done():
            self._joined.set_exception(error)
        elif not self._said_refused:
            self._said_refused = True
            _log.warning("%s", error)

    def received(self) -> None:
        """Messages come: nobody refuses anything."""
        self._said_refused = False

    def died(self, error: TransportError) -> bool:
        """The member cannot go on: another one joins, if this one had; return whether that was so."""
        if not self._joined.done():
            self._joined.set_exception(error)
            return False
        self._outage.begin(error)
        self._joined = asyncio.get_running_loop().create_future()
        self._rejoining = asyncio.create_task(self._rejoin(), name=f"rejoin {self._name}")
        return True

    async def stop(self) -> None:
        """Leave the group."""
        if self._rejoining is not None:
            self._rejoining.cancel()
        await self.member.stop()

    async def _rejoin(self) -> None:
        while True:
            await asyncio.sleep(next(self._pauses))
            self.member = self._new_member()
            try:
                await self.join()
            except TransportError as error:
                _log.warning("%s: joining again", error)
                await self.member.stop()
                self._joined = asyncio.get_running_loop().create_future()
            else:
                return

    def _new_member(self) -> GroupMember:
        return GroupMember(self._broker, self._outage, self._name, self._queue, self._listener)
