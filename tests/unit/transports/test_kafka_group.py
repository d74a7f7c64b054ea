"""Joining a consumer group: in time or not at all, and again after the polling thread has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from confluent_kafka import KafkaError
from virtual_time import run_virtually

from backpressure.errors import AccessRefusedError, NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage
from backpressure.transports.kafka.group import GroupMember, Membership
from backpressure.transports.kafka.settled import Commit
from backpressure.transports.kafka.subscriber import KafkaSubscriber


class FakeMember:
    """A member that does nothing; the group's part is played by the test."""

    made: list[FakeMember]

    def __init__(self, *_: object) -> None:
        self.made.append(self)

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> bool:
        """Nothing to leave."""
        return True


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeMember]:
    FakeMember.made = []
    monkeypatch.setattr("backpressure.transports.kafka.group.GroupMember", FakeMember)
    return FakeMember.made


class Log:
    """A `SubscriberListener` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def on_ready(self) -> None:
        self.told.append("ready")

    def on_lost(self, error: Exception) -> None:
        self.told.append(error)


BROKER = BrokerSettings(url="kafka://broker")


def subscriber() -> KafkaSubscriber:
    return KafkaSubscriber(BROKER, Outage("kafka://broker:9092"), "me", "dead")


def joining(one: KafkaSubscriber, log: Any) -> asyncio.Task[None]:
    return asyncio.create_task(one.start(log, queue="work", prefetch=1))


@pytest.mark.parametrize("wait", [True, False])
def test_a_refused_consumer_does_not_wait(wait: bool) -> None:
    async def story() -> None:
        one = KafkaSubscriber(BROKER.model_copy(update={"wait": wait}), Outage("kafka://broker:9092"), "me", "dead")
        start = joining(one, Log())
        await asyncio.sleep(1)
        one.on_refused(AccessRefusedError("kafka://broker:9092", "group authorization failed"))
        await start

    with pytest.raises(AccessRefusedError, match="group authorization failed"):
        run_virtually(story())


@pytest.mark.parametrize("wait", [True, False])
def test_a_group_without_room_is_waited_for_or_given_up(wait: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> bool:
        membership = Membership(
            BROKER.model_copy(update={"wait": wait}), Outage("kafka://broker:9092"), "me", "work", subscriber()
        )
        join = asyncio.create_task(membership.join())
        await asyncio.sleep(100)
        if wait:
            assert membership.assigned()
        await join
        return membership.assigned()

    if wait:
        assert not run_virtually(story())
        assert caplog.text.count("kafka://broker:9092 has admitted no consumer for 30 s: still waiting") == 3
    else:
        with pytest.raises(NotConnectedError, match=r"'pace\.work' at kafka://broker:9092 has admitted no consumer"):
            run_virtually(story())


def test_when_the_polling_thread_has_ended_that_is_a_loss_and_another_member_joins(made: list[FakeMember]) -> None:
    async def story() -> list[object]:
        one, log = subscriber(), Log()
        start = joining(one, log)
        await asyncio.sleep(1)
        one.on_assigned({0: None})
        await start
        one.on_died(NotConnectedError("the consumer cannot go on"))
        await asyncio.sleep(60)
        one.on_assigned({0: None})
        await asyncio.sleep(1)
        await one.stop()
        return log.told

    ready, lost, again = run_virtually(story())
    assert (ready, str(lost), again) == ("ready", "the consumer cannot go on", "ready")
    assert len(made) == 2


def test_a_thread_that_ends_before_it_has_joined_is_an_error_of_the_start() -> None:
    async def story() -> None:
        one = subscriber()
        start = joining(one, Log())
        await asyncio.sleep(1)
        one.on_died(NotConnectedError("the consumer cannot go on"))
        await start

    with pytest.raises(NotConnectedError, match="cannot go on"):
        run_virtually(story())


class Refused:
    """What librdkafka hands over instead of a message."""

    def error(self) -> KafkaError:
        return KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)


def test_what_the_polling_thread_is_refused_or_ends_by_reaches_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: GroupMember) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(GroupMember, "_poll_until_stopped", fail)

    async def story() -> list[TransportError]:
        told: list[TransportError] = []
        listener: Any = subscriber()
        listener.on_refused = listener.on_died = told.append
        member = GroupMember(BROKER, Outage("kafka://broker:9092"), "me", "work", listener)
        member._hand_over([Refused()])  # type: ignore[list-item]  # it is asked for nothing else
        member._run()
        await asyncio.sleep(0)
        return told

    refused, died = asyncio.run(story())
    assert isinstance(refused, AccessRefusedError)
    assert "cannot go on (ValueError('a bug'))" in str(died)


class Dialled:
    """Replaces `KafkaLink`: each dial returns the next metadata."""

    told: list[Any]

    def __init__(self, *_: object, **__: object) -> None:
        self.on_error = None

    async def dial(self, _client: object) -> Any:
        return self.told.pop(0) if len(self.told) > 1 else self.told[0]


def cluster(brokers: int, *topics: str) -> Any:
    listed = {number: SimpleNamespace(host="a", port=number) for number in range(brokers)}
    return SimpleNamespace(brokers=listed, topics=dict.fromkeys(topics))


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch) -> Callable[[], GroupMember]:
    monkeypatch.setattr("backpressure.transports.kafka.group.KafkaLink", Dialled)
    monkeypatch.setattr("backpressure.transports.kafka.group.Consumer", lambda _configuration: None)
    monkeypatch.setattr(
        "backpressure.transports.kafka.group.threading", SimpleNamespace(Thread=MagicMock(), Event=MagicMock())
    )
    return lambda: GroupMember(BROKER, Outage("kafka://broker:9092"), "me", "work", MagicMock())


def test_a_topic_that_a_broker_of_a_cluster_has_not_heard_of_yet_is_waited_for(
    member: Callable[[], GroupMember],
) -> None:
    async def story() -> None:
        Dialled.told = [cluster(3), cluster(3, "other"), cluster(3, "other", "work")]
        await member().start()
        assert len(Dialled.told) == 1

    run_virtually(story())


@pytest.mark.parametrize(("brokers", "most_s"), [(1, 0.0), (3, 3.0)])
def test_a_topic_that_is_not_there_is_an_error_soon(
    member: Callable[[], GroupMember], brokers: int, most_s: float
) -> None:
    async def story() -> float:
        Dialled.told = [cluster(brokers, "other")]
        began = asyncio.get_running_loop().time()
        with pytest.raises(QueueNotFoundError):
            await member().start()
        return asyncio.get_running_loop().time() - began

    assert run_virtually(story()) <= most_s


def test_a_commit_waits_for_the_answer_to_the_one_before_so_that_none_sets_the_group_back(
    member: Callable[[], GroupMember], monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = MagicMock()
    monkeypatch.setattr("backpressure.transports.kafka.group.Consumer", lambda _configuration: consumer)

    def sent() -> list[int]:
        return [place.offset for call in consumer.commit.call_args_list for place in call.kwargs["offsets"]]

    async def story() -> None:
        one = member()
        one.commit({0: Commit(10, "")}, 10)
        one._send_commits()
        for offset in (20, 30):
            one.commit({0: Commit(offset, "")}, offset)
            one._send_commits()
        assert sent() == [10]
        one._on_commit(KafkaError(KafkaError.NOT_COORDINATOR), [])
        one._send_commits()
        assert (sent(), one.committed) == ([10, 30], 0)
        one._on_commit(None, [])
        assert one.committed == 30

    run_virtually(story())
