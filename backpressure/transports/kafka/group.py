"""The member of a consumer group: one librdkafka consumer, the thread that polls it, and how long it lasts.

The thread polls however long the work takes, so the group never takes this member for dead. What it fetches ahead is
bounded: while the buffer on the event loop is full it fetches nothing, and if that lasts it pauses the partitions.
Rebalances happen in the thread; before it gives up a partition it asks the event loop what to commit.

`Membership` waits until the group admits a member. When the thread of a member has ended, a new member joins after a
pause.
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

from backpressure.errors import NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage, pauses
from backpressure.transports.kafka.client import KafkaLink, client_configuration
from backpressure.transports.kafka.failures import MISSING, REFUSED, kafka_error
from backpressure.transports.kafka.fenced import FencedBrokers
from backpressure.transports.kafka.records import group_id, topic_name
from backpressure.transports.kafka.settled import Commit, Mark

SESSION_TIMEOUT_S = 6.0
"""A member that was killed keeps its partitions for this long: the shortest that brokers allow by default."""
POLL_S = 0.02  # a commit waits for the end of a poll, because only the polling thread may use the consumer
_BATCH = 100
_FULL, _LOW = 200, 100  # fetched but not delivered; a message counts once for each 64 KiB
_ASK_S = 5.0
_WIND_DOWN_S = 2.0
_LEAVE_WITHIN_S = 4.0
_LOOK_EVERY_S = 0.2
_NEW_TOPIC_LOOKS = 10
_OPTIONS = {
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",  # the others keep theirs when one joins or leaves
    "session.timeout.ms": int(SESSION_TIMEOUT_S * 1000),
    "heartbeat.interval.ms": 1000,
    "queued.max.messages.kbytes": 16_384,
    "fetch.queue.backoff.ms": 10,
}
_log = logging.getLogger("backpressure")
_JOIN_WITHIN_S = 30.0  # a group waits for 3 s by default when it is new, and 6 s for the session of a dead member


class GroupListener(Protocol):
    """The callbacks of a member, all on the event loop."""

    def on_assigned(self, marks: Mapping[int, Mark | None]) -> None:
        """These partitions are ours from now on, with the mark of each one's last commit; there may be none."""

    def on_records(self, records: list[Record]) -> None:
        """Messages were fetched; `GroupMember.took` counts those that have left the buffer."""

    def wind_down(self, partitions: Iterable[int], done: Future[None]) -> None:
        """These partitions will be revoked: deliver no more of them, and report when nothing of them is held."""

    def hand_back(self, partitions: Iterable[int]) -> Mapping[int, Commit]:
        """These partitions are revoked: return what to commit."""

    def on_missing(self) -> None:
        """The topic was deleted."""

    def on_present(self) -> None:
        """The topic is there again, empty."""

    def on_commit_failed(self) -> None:
        """A commit failed; a later one may succeed."""

    def on_refused(self, error: TransportError) -> None:
        """The broker does not let us join the group, or read the topic; called each time it refuses."""

    def on_died(self, error: TransportError) -> None:
        """The thread has failed: no more messages come, and nothing is committed."""


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
        self._fenced = FencedBrokers(broker)
        self._commits_open = self._committed = False
        self._polling = threading.Thread(target=self._run, name=name, daemon=True)
        self._stopped = False
        self._fetched = 0
        self._taken = 0
        self._room = threading.Event()
        self._to_commit: deque[tuple[Mapping[int, Commit], int]] = deque()
        self._sent: int | None = None  # settled with the commit whose answer is open
        self.committed = 0
        """How many of the settled messages the broker knows of; see `commit`."""
        self._halted = False
        self._missing = False
        self._look_at = 0.0

    async def start(self) -> None:
        """Connect; raises `QueueNotFoundError` and whatever `KafkaLink.dial` does.

        A broker of a cluster may hear of a new topic a moment later than the one where it was declared.
        """
        metadata = await self._link.dial(self._consumer)
        looks = _NEW_TOPIC_LOOKS if len(metadata.brokers) > 1 else 0
        while self._topic not in metadata.topics:
            if not looks:
                raise QueueNotFoundError(self._queue)
            looks -= 1
            await asyncio.sleep(_LOOK_EVERY_S)
            metadata = await self._link.dial(self._consumer)
        self._fenced.learn(metadata)
        self._polling.start()

    def took(self, weight: int) -> None:
        """Count what has left the buffer; see `weight_of`."""
        self._taken += weight
        if self._fetched - self._taken <= _LOW:
            self._room.set()

    def commit(self, commits: Mapping[int, Commit], settled: int) -> None:
        """Send these commits soon, without waiting for the answer; ``settled`` messages in all are known with them."""
        self._to_commit.append((commits, settled))

    async def stop(self) -> bool:
        """Hand back all partitions, commit, leave the group; return whether the broker answered in time.

        Where it did not, the thread is left behind: closing a consumer waits for the broker for as long as that takes.
        """
        self._stopped = True
        self._room.set()
        if self._polling.ident is not None:
            await asyncio.to_thread(self._polling.join, _LEAVE_WITHIN_S)
        return not self._polling.is_alive()

    def _run(self) -> None:
        try:
            self._poll_until_stopped()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it has to be reported
            with suppress(Exception):  # then the group notices when the session ends
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
            got = record is not None and not self._commits_open
            self._fenced.watch(answered=got or self._committed, waiting=self._commits_open or not self._halted)
            self._committed = False
            if self._missing:
                self._look_for_topic()
            if self._link.down:
                self._link.look_again(self._consumer)
        self._consumer.close()

    def _patience_s(self) -> float:
        """Wait for room in the buffer; return how long to wait for a message."""
        if self._is_full():
            self._room.clear()
            if self._is_full():  # checked again, now that no change can be missed
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
        """Check whether the topic exists: errors arrive late, and repeatedly."""
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
        """Send what is to be committed, unless an answer is open.

        librdkafka repeats a commit that failed, after a pause that differs each time. Of two, the earlier one could so
        come last, and the group would be set back.
        """
        if self._sent is not None:
            return
        commits: dict[int, Commit] = {}
        settled = 0
        while self._to_commit:
            later, settled = self._to_commit.popleft()
            commits |= later
        if commits:
            with suppress(KafkaException):  # the partition was revoked: what is not committed will be delivered again
                self._consumer.commit(offsets=self._offsets(commits), asynchronous=True)
                self._commits_open = True
                self._sent = settled

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with suppress(KafkaException):  # then it begins at the committed offsets without their metadata
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
        with suppress(TimeoutError):  # what is unfinished by then will be delivered to another consumer as well
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
        for _ in range(len(self._to_commit)):  # pending commits of these partitions are older
            earlier, settled = self._to_commit.popleft()
            self._to_commit.append(({number: earlier[number] for number in earlier if number not in numbers}, settled))
        return commits

    def _on_commit(self, error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
        settled, self._sent = self.committed if self._sent is None else self._sent, None
        if error is None:
            self._commits_open, self._committed, self.committed = False, True, settled
        if error is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._listener.on_commit_failed)

    def _offsets(self, commits: Mapping[int, Commit]) -> list[TopicPartition]:
        return [
            TopicPartition(self._topic, number, commit.offset, commit.metadata) for number, commit in commits.items()
        ]


def weight_of(record: Record) -> int:
    """Return how much of the buffer a record takes: large ones count more than once."""
    return 1 + len(record.value() or b"") // 65_536


class Membership:
    """Replaces a member that has failed, so there is always one."""

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
        """Connect, and return when the group has admitted us.

        Raises `TransportError` when it refuses, or when it takes long and ``broker.wait`` is off.
        """
        await self.member.start()
        while not (await asyncio.wait({self._joined}, timeout=_JOIN_WITHIN_S))[0]:
            error = NotConnectedError(
                f"the group {group_id(self._queue)!r} at {self._broker.address()} has admitted no consumer for "
                f"{_JOIN_WITHIN_S:g} s"
            )
            if not self._broker.wait:
                raise error
            _log.warning("%s: still waiting", error)
        self._joined.result()

    def assigned(self) -> bool:
        """The group has assigned partitions, or none; return whether this admitted us."""
        if self._joined.done():
            return False
        self._joined.set_result(None)
        self._outage.end()
        return True

    def refused(self, error: TransportError) -> None:
        """The broker does not let us join or read: an error while joining, later it is logged."""
        if not self._joined.done():
            self._joined.set_exception(error)
        elif not self._said_refused:
            self._said_refused = True
            _log.warning("%s", error)

    def received(self) -> None:
        """Messages arrive, so nothing is refused any more."""
        self._said_refused = False

    def died(self, error: TransportError) -> bool:
        """The member has failed: a new one joins if this one had joined; return whether it had."""
        if not self._joined.done():
            self._joined.set_exception(error)
            return False
        self._outage.begin(error)
        self._joined = asyncio.get_running_loop().create_future()
        self._rejoining = asyncio.create_task(self._rejoin(), name=f"rejoin {self._name}")
        return True

    async def stop(self) -> bool:
        """Leave the group; return whether the broker answered in time."""
        if self._rejoining is not None:
            self._rejoining.cancel()
        return await self.member.stop()

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
