"""Priorities of messages in classic queues: ``x-max-priority``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pika import BasicProperties
from pika.exceptions import NackError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel


@pytest.fixture
def declare(channel: BlockingChannel, name: Callable[[], str]) -> Any:
    def _declare(highest: int = 10, **arguments: Any) -> str:
        queue = name()
        others = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        channel.queue_declare(queue, arguments={"x-max-priority": highest, **others})
        return queue

    return _declare


@pytest.fixture
def publish(channel: BlockingChannel) -> Any:
    """Publish messages of these priorities, numbered from 0."""

    def _publish(queue: str, *priorities: int | None) -> None:
        for number, priority in enumerate(priorities):
            channel.basic_publish("", queue, str(number).encode(), BasicProperties(priority=priority))

    return _publish


@pytest.fixture
def drain(channel: BlockingChannel) -> Any:
    def _drain(queue: str) -> list[int]:
        found = []
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(int(got[2]))
        return found

    return _drain


def test_the_highest_priority_goes_first_and_equal_ones_in_order(declare: Any, publish: Any, drain: Any) -> None:
    queue = declare()
    publish(queue, None, 1, 5, 0, 5, 200, 10, 1)
    assert drain(queue) == [5, 6, 2, 4, 1, 7, 0, 3]


def test_a_requeued_message_returns_to_its_place_in_its_priority(
    channel: BlockingChannel, declare: Any, publish: Any, drain: Any
) -> None:
    queue = declare()
    publish(queue, 1, 5, 5, 1)
    for _ in range(3):
        channel.basic_get(queue)
    channel.basic_nack(0, multiple=True, requeue=True)
    assert drain(queue) == [1, 2, 0, 3]


def test_a_full_queue_drops_the_highest_priority(declare: Any, publish: Any, drain: Any) -> None:
    dead = declare()
    queue = declare(max_length=2, dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(queue, 1, 5, 9, 0)
    assert sorted(drain(dead)) == [1, 2]
    assert drain(queue) == [0, 3]


def test_a_full_queue_rejects_any_priority(channel: BlockingChannel, declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(max_length=1, overflow="reject-publish")
    publish(queue, 1)
    with pytest.raises(NackError):
        channel.basic_publish("", queue, b"9", BasicProperties(priority=9))
    assert drain(queue) == [0]


def test_what_has_expired_leaves_only_from_the_head(
    broker: Any, channel: BlockingChannel, declare: Any, drain: Any, until: Any
) -> None:
    dead = declare()
    queue = declare(dead_letter_exchange="", dead_letter_routing_key=dead)
    for body, priority, expiration in ((b"0", 1, "5"), (b"1", 5, None), (b"2", 6, "10")):
        channel.basic_publish("", queue, body, BasicProperties(priority=priority, expiration=expiration))
    time.sleep(0.05)  # both have expired; when RabbitMQ looks at its head by itself is its own affair
    left = drain(queue)
    if broker.by_kind("expiry behind a priority", embedded=False, rabbitmq=True) and left == [2, 1]:
        left, also = [1], []
    else:
        also = [2]
    assert left == [1]
    assert until(lambda: channel.queue_declare(dead, passive=True).method.message_count, len(also) + 1) == len(also) + 1
    assert drain(dead) == [*also, 0]


def test_a_single_priority_makes_no_difference(broker: Any, declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(highest=0)
    publish(queue, 0, 9, None)
    assert drain(queue) == broker.since_4("priorities without a highest", [1, 0, 2], before=[0, 1, 2])


@pytest.mark.parametrize("waits", [True, False])
def test_a_bound_of_nothing_lets_messages_through_to_a_consumer_that_waits(
    channel: BlockingChannel, name: Callable[[], str], subscribe: Any, collect: Any, waits: bool
) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-length": 0})
    inbox = subscribe(channel, queue, auto_ack=True) if waits else []
    channel.basic_publish("", queue, b"x")  # confirmed
    assert len(collect(channel, inbox, int(waits))) == int(waits)
    assert channel.queue_declare(queue, passive=True).method.message_count == 0
