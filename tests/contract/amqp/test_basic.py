"""AMQP class ``basic``: publish, get, consume, qos, acknowledgements and returns."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands
from pika import BasicProperties, PlainCredentials
from pika.exceptions import NackError, UnroutableError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


def publish(channel: BlockingChannel, queue: str, *bodies: Any, **properties: Any) -> Any:
    for body in bodies:
        channel.basic_publish("", queue, body.encode(), BasicProperties(**properties))


def bodies(inbox: Any) -> Any:
    return [body.decode() for _, _, body in inbox]


# -- publish ---------------------------------------------------------------------------------------------------------


def test_every_property_arrives_as_it_was_sent(channel: BlockingChannel, queue: str) -> None:
    sent = BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"n": 1, "big": 2**40, "text": "x", "yes": True, "list": [1, "two"], "table": {"k": "v"}, "no": None},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
    )
    channel.basic_publish("", queue, b"body", sent)
    _, received, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"body"
    assert received == sent


@pytest.mark.parametrize("size", [0, 1, 4096, 131_064, 131_065, 1_000_000])
def test_a_body_of_any_size_arrives_whole(channel: BlockingChannel, queue: str, size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    channel.basic_publish("", queue, body)
    assert channel.basic_get(queue, auto_ack=True)[2] == body


def test_a_message_of_more_than_16_mib_is_refused(
    broker: Any, channel: BlockingChannel, queue: str, refused: Any
) -> None:
    most = 16 * 1024 * 1024
    if broker.since_4("the largest message", expected=False, before=True):
        pytest.skip("128 MiB are allowed there")
    with refused(406, f"PRECONDITION_FAILED - message size {most + 1} is larger than configured max size {most}"):
        channel.basic_publish("", queue, bytes(most + 1))


def test_a_binary_body_is_not_touched(channel: BlockingChannel, queue: str) -> None:
    body = bytes(range(256)) + b"\xce" * 10
    channel.basic_publish("", queue, body)
    assert channel.basic_get(queue, auto_ack=True)[2] == body


def test_a_mandatory_message_without_a_queue_is_returned(channel: BlockingChannel) -> None:
    with pytest.raises(UnroutableError) as caught:
        channel.basic_publish("", "contract.nowhere", b"back", BasicProperties(message_id="7"), mandatory=True)
    (returned,) = caught.value.messages
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.method.exchange, returned.method.routing_key) == ("", "contract.nowhere")
    assert (returned.properties.message_id, returned.body) == ("7", b"back")


def test_a_mandatory_message_with_a_queue_is_not_returned(channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"x", mandatory=True)


def test_a_forged_user_id_is_refused(channel: BlockingChannel, queue: str, refused: Any) -> None:
    with refused(406, "PRECONDITION_FAILED - user_id property set to 'mallory' but authenticated user was 'guest'"):
        channel.basic_publish("", queue, b"x", BasicProperties(user_id="mallory"))


def test_an_impersonator_may_name_another_user(connect: Any, janitor: httpx.Client, queue: str) -> None:
    name = f"{queue}-impersonator"
    janitor.put(f"/users/{name}", json={"password": "secret", "tags": "impersonator"}).raise_for_status()
    janitor.put(f"/permissions/%2F/{name}", json={"configure": ".*", "write": ".*", "read": ".*"}).raise_for_status()
    try:
        channel = connect(credentials=PlainCredentials(name, "secret")).channel()
        channel.basic_publish("", queue, b"x", BasicProperties(user_id="mallory"))
        _, properties, _ = channel.basic_get(queue, auto_ack=True)
        assert properties.user_id == "mallory"
    finally:
        janitor.delete(f"/users/{name}")


# -- get -------------------------------------------------------------------------------------------------------------


def test_get_from_an_empty_queue_says_so(channel: BlockingChannel, queue: str) -> None:
    assert channel.basic_get(queue) == (None, None, None)


def test_get_says_how_many_are_left_and_where_the_message_came_from(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, "a", "b", "c")
    method, _, body = channel.basic_get(queue)
    assert body == b"a"
    assert (method.message_count, method.redelivered) == (2, False)
    assert (method.exchange, method.routing_key) == ("", queue)


def test_get_without_acknowledgement_removes_at_once(
    connection: BlockingConnection, channel: BlockingChannel, queue: str
) -> None:
    publish(channel, queue, "a")
    other = connection.channel()
    other.basic_get(queue, auto_ack=True)
    other.close()
    assert channel.basic_get(queue)[0] is None


def test_get_from_a_missing_queue_is_not_found(channel: BlockingChannel, refused: Any) -> None:
    with refused(404, "NOT_FOUND - no queue 'contract.missing' in vhost '/'"):
        channel.basic_get("contract.missing")


def test_get_ignores_the_prefetch(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=1)
    publish(channel, queue, "a", "b")
    assert [channel.basic_get(queue)[2] for _ in range(2)] == [b"a", b"b"]


# -- consume ---------------------------------------------------------------------------------------------------------


def test_messages_arrive_in_the_order_they_were_published(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(50)))
    inbox = subscribe(channel, queue)
    publish(channel, queue, *map(str, range(50, 100)))
    assert bodies(collect(channel, inbox, 100)) == [str(i) for i in range(100)]


def test_delivery_tags_count_from_one_per_channel(
    connection: BlockingConnection, channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, "a", "b", "c")
    consumer = connection.channel()
    inbox = subscribe(consumer, queue)
    assert [method.delivery_tag for method, _, _ in collect(consumer, inbox, 3)] == [1, 2, 3]


def test_a_delivery_names_consumer_exchange_and_key(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    channel.queue_bind(queue, "amq.topic", "contract.#")
    inbox = subscribe(channel, queue, consumer_tag="mine")
    channel.basic_publish("amq.topic", "contract.key", b"x")
    method = collect(channel, inbox, 1)[0][0]
    assert (method.consumer_tag, method.exchange, method.routing_key) == ("mine", "amq.topic", "contract.key")


def test_the_server_names_a_consumer_that_has_no_tag(raw_open: Any, queue: str) -> None:
    raw_open.send(commands.Basic.Consume(queue=queue), channel=1)
    assert raw_open.expect(commands.Basic.ConsumeOk).consumer_tag.startswith("amq.ctag-")


def test_a_consumer_tag_cannot_be_used_twice(raw_open: Any, queue: str) -> None:
    for _ in range(2):
        raw_open.send(commands.Basic.Consume(queue=queue, consumer_tag="t"), channel=1)
    raw_open.expect(commands.Basic.ConsumeOk)
    closed = raw_open.expect(commands.Connection.Close)
    assert (closed.reply_code, closed.reply_text) == (530, "NOT_ALLOWED - attempt to reuse consumer tag 't'")


def test_consuming_from_a_missing_queue_is_not_found(channel: BlockingChannel, subscribe: Any, refused: Any) -> None:
    with refused(404, "NOT_FOUND - no queue 'contract.missing' in vhost '/'"):
        subscribe(channel, "contract.missing")


def test_an_exclusive_consumer_keeps_others_out(
    connection: BlockingConnection, channel: BlockingChannel, queue: str, subscribe: Any, refused: Any
) -> None:
    subscribe(channel, queue, exclusive=True)
    with refused(403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"):
        subscribe(connection.channel(), queue)


def test_exclusive_access_is_refused_where_others_consume(
    connection: BlockingConnection, channel: BlockingChannel, queue: str, subscribe: Any, refused: Any
) -> None:
    subscribe(channel, queue)
    with refused(403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"):
        subscribe(connection.channel(), queue, exclusive=True)


def test_consumers_take_turns(
    channel: BlockingChannel, connection: BlockingConnection, queue: str, subscribe: Any, collect: Any
) -> None:
    inboxes = [subscribe(connection.channel(), queue, auto_ack=True) for _ in range(2)]
    publish(channel, queue, *"abcdef")
    collect(channel, inboxes, 6)
    assert sorted(map(len, inboxes)) == [3, 3]


def test_a_consumer_of_higher_priority_is_served_first(
    channel: BlockingChannel, connection: BlockingConnection, queue: str, subscribe: Any, collect: Any
) -> None:
    low = subscribe(connection.channel(), queue, auto_ack=True)
    first = connection.channel()
    first.basic_qos(prefetch_count=2)
    high = subscribe(first, queue, arguments={"x-priority": 10})
    publish(channel, queue, *"abc")
    collect(channel, high, 2)
    collect(channel, low, 1)
    assert (bodies(high), bodies(low)) == (["a", "b"], ["c"])


def test_only_the_first_consumer_of_a_single_active_queue_is_served(
    channel: BlockingChannel, connection: BlockingConnection, name: Callable[[], str], subscribe: Any, collect: Any
) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-single-active-consumer": True})
    one, two = connection.channel(), connection.channel()
    first = subscribe(one, queue, auto_ack=True)
    second = subscribe(two, queue, auto_ack=True)
    publish(channel, queue, *"abc")
    assert bodies(collect(channel, first, 3)) == ["a", "b", "c"]
    one.close()
    publish(channel, queue, "d")
    assert bodies(collect(channel, second, 1)) == ["d"]


def test_a_cancelled_consumer_gets_no_more_and_may_still_acknowledge(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, "a")
    inbox = subscribe(channel, queue, consumer_tag="t")
    (method, _, _) = collect(channel, inbox, 1)[0]
    channel.basic_cancel("t")
    publish(channel, queue, "b")
    assert len(collect(channel, inbox, 1)) == 1
    channel.basic_ack(method.delivery_tag)
    assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_cancelling_an_unknown_consumer_is_not_an_error(raw_open: Any) -> None:
    raw_open.send(commands.Basic.Cancel("nobody"), channel=1)
    assert raw_open.expect(commands.Basic.CancelOk).consumer_tag == "nobody"


def test_a_consumer_learns_when_its_queue_is_deleted(
    connection: BlockingConnection, channel: BlockingChannel, queue: str, subscribe: Any, until: Any
) -> None:
    consumer = connection.channel()
    cancelled = []
    consumer.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    subscribe(consumer, queue, consumer_tag="t")
    channel.queue_delete(queue)
    until(lambda: connection.process_data_events(time_limit=0.01) or cancelled, ["t"])
    assert cancelled == ["t"]


def test_without_acknowledgement_the_prefetch_does_not_apply(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    channel.basic_qos(prefetch_count=1)
    publish(channel, queue, *"abc")
    assert bodies(collect(channel, subscribe(channel, queue, auto_ack=True), 3)) == ["a", "b", "c"]


# -- qos -------------------------------------------------------------------------------------------------------------


def test_the_prefetch_bounds_unacknowledged_deliveries(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(20)))
    channel.basic_qos(prefetch_count=5)
    inbox = subscribe(channel, queue)
    assert len(collect(channel, inbox, 5)) == 5


def test_acknowledging_several_at_once_makes_room_for_as_many(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(20)))
    channel.basic_qos(prefetch_count=5)
    inbox = subscribe(channel, queue)
    collect(channel, inbox, 5)
    channel.basic_ack(3, multiple=True)
    assert len(collect(channel, inbox, 8)) == 8


def test_each_consumer_has_a_prefetch_of_its_own(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(20)))
    channel.basic_qos(prefetch_count=3)
    first = subscribe(channel, queue)
    channel.basic_qos(prefetch_count=4)
    second = subscribe(channel, queue)
    collect(channel, (first, second), 7)
    assert (len(first), len(second)) == (3, 4)


def test_a_channel_wide_prefetch_is_shared_by_its_consumers(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(20)))
    channel.basic_qos(prefetch_count=5, global_qos=True)
    first, second = subscribe(channel, queue), subscribe(channel, queue)
    collect(channel, (first, second), 5)
    assert len(first) + len(second) == 5
    channel.basic_ack(2, multiple=True)
    collect(channel, (first, second), 7)
    assert len(first) + len(second) == 7


def test_both_kinds_of_prefetch_hold_together(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(20)))
    channel.basic_qos(prefetch_count=4)
    channel.basic_qos(prefetch_count=6, global_qos=True)
    first, second = subscribe(channel, queue), subscribe(channel, queue)
    collect(channel, (first, second), 6)
    assert len(first) + len(second) == 6
    assert max(len(first), len(second)) <= 4


def test_a_prefetch_for_each_consumer_ends_that_of_the_channel(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(20)))
    channel.basic_qos(prefetch_count=2, global_qos=True)
    inbox = subscribe(channel, queue)
    assert len(collect(channel, inbox, 2)) == 2
    channel.basic_qos(prefetch_count=3)
    assert len(collect(channel, inbox, 20)) == 20


def test_a_changed_prefetch_leaves_existing_consumers_as_they_are(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *map(str, range(20)))
    channel.basic_qos(prefetch_count=2)
    inbox = subscribe(channel, queue)
    collect(channel, inbox, 2)
    channel.basic_qos(prefetch_count=10)
    assert len(collect(channel, inbox, 2)) == 2


def test_a_prefetch_in_bytes_is_not_implemented(channel: BlockingChannel, kicked: Any) -> None:
    with kicked(540, "NOT_IMPLEMENTED - prefetch_size!=0 (100)"):
        channel.basic_qos(prefetch_size=100)


# -- acknowledgements --------------------------------------------------------------------------------------------------


def test_an_acknowledged_message_is_gone(connection: BlockingConnection, channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, "a")
    other = connection.channel()
    other.basic_ack(other.basic_get(queue)[0].delivery_tag)
    other.close()
    assert channel.basic_get(queue)[0] is None


@pytest.mark.parametrize("tag", [0, 1, 99])
def test_acknowledging_what_was_never_delivered_is_refused(
    channel: BlockingChannel, queue: str, refused: Any, tag: int
) -> None:
    with refused(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        channel.basic_ack(tag)
        channel.queue_declare(queue, passive=True)


def test_acknowledging_twice_is_refused(channel: BlockingChannel, queue: str, refused: Any) -> None:
    publish(channel, queue, "a")
    tag = channel.basic_get(queue)[0].delivery_tag
    with refused(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        channel.basic_ack(tag)
        channel.basic_ack(tag)
        channel.queue_declare(queue, passive=True)


def test_acknowledging_many_beyond_the_last_delivery_is_refused(
    channel: BlockingChannel, queue: str, refused: Any
) -> None:
    publish(channel, queue, "a")
    channel.basic_get(queue)
    with refused(406, "PRECONDITION_FAILED - unknown delivery tag 5"):
        channel.basic_ack(5, multiple=True)
        channel.queue_declare(queue, passive=True)


def test_acknowledging_tag_zero_and_multiple_settles_everything(
    connection: BlockingConnection, channel: BlockingChannel, queue: str
) -> None:
    publish(channel, queue, *"abc")
    other = connection.channel()
    for _ in range(3):
        other.basic_get(queue)
    other.basic_ack(0, multiple=True)
    other.close()
    assert channel.basic_get(queue)[0] is None


def test_acknowledging_everything_when_there_is_nothing_is_not_an_error(channel: BlockingChannel, queue: str) -> None:
    channel.basic_ack(0, multiple=True)
    channel.queue_declare(queue, passive=True)


def test_a_requeued_message_returns_to_its_place_and_says_so(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abcd")
    first, second = (channel.basic_get(queue)[0].delivery_tag for _ in range(2))
    channel.basic_nack(second)
    channel.basic_nack(first)
    seen = [channel.basic_get(queue, auto_ack=True) for _ in range(4)]
    assert [body for _, _, body in seen] == [b"a", b"b", b"c", b"d"]
    assert [method.redelivered for method, _, _ in seen] == [True, True, False, False]


def test_nacking_many_requeues_them_in_order(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"abcd")
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(3)]
    channel.basic_nack(tags[-1], multiple=True)
    assert [channel.basic_get(queue, auto_ack=True)[2] for _ in range(4)] == [b"a", b"b", b"c", b"d"]


def test_a_rejected_message_without_a_dead_letter_exchange_is_gone(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, *"ab")
    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    assert channel.basic_get(queue)[2] == b"b"


def test_reject_can_requeue(channel: BlockingChannel, queue: str) -> None:
    publish(channel, queue, "a")
    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=True)
    method, _, body = channel.basic_get(queue)
    assert (body, method.redelivered) == (b"a", True)


def test_a_lost_connection_requeues_what_it_held(
    channel: BlockingChannel, connect: Any, queue: str, until: Any
) -> None:
    publish(channel, queue, "a")
    other = connect()
    other.channel().basic_get(queue)
    other.close()
    assert until(lambda: channel.queue_declare(queue, passive=True).method.message_count, 1) == 1
    assert channel.basic_get(queue)[0].redelivered is True


def test_recover_requeues_everything_unacknowledged(
    channel: BlockingChannel, queue: str, subscribe: Any, collect: Any
) -> None:
    publish(channel, queue, *"ab")
    inbox = subscribe(channel, queue)
    collect(channel, inbox, 2)
    channel.basic_recover(requeue=True)
    assert bodies(collect(channel, inbox, 4)) == ["a", "b", "a", "b"]
    assert [method.redelivered for method, _, _ in inbox] == [False, False, True, True]


def test_recover_to_the_same_consumer_is_not_implemented(channel: BlockingChannel, kicked: Any) -> None:
    with kicked(540, "NOT_IMPLEMENTED - requeue=false"):
        channel.basic_recover(requeue=False)


def test_a_refused_publish_is_nacked(channel: BlockingChannel, name: Callable[[], str]) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    publish(channel, queue, "a")
    with pytest.raises(NackError):
        publish(channel, queue, "b")


def test_a_full_channel_wide_window_holds_back_consumers_without_acknowledgements_too(
    connection: BlockingConnection, channel: BlockingChannel, name: Callable[[], str], subscribe: Any, collect: Any
) -> None:
    first, second = name(), name()
    consuming = connection.channel()
    consuming.basic_qos(prefetch_count=1, global_qos=True)
    for queue in (first, second):
        channel.queue_declare(queue)
        channel.basic_publish("", queue, b"x")
    held = subscribe(consuming, first)
    collect(consuming, held, 1)
    waiting = subscribe(consuming, second, auto_ack=True)
    assert collect(consuming, waiting, 0) == []
    consuming.basic_ack(held[0][0].delivery_tag)
    assert len(collect(consuming, waiting, 1)) == 1


def test_a_channel_wide_window_is_shared_among_the_queues(
    connection: BlockingConnection, channel: BlockingChannel, name: Callable[[], str]
) -> None:
    queues, served = [name(), name(), name()], Counter[str]()
    count = 40  # RabbitMQ draws lots which queue is next (rabbit_limiter): of nine deliveries, one may get none
    for queue in queues:
        channel.queue_declare(queue)
        for _ in range(count):
            channel.basic_publish("", queue, b"x")
    consuming = connection.channel()
    consuming.basic_qos(prefetch_count=1, global_qos=True)

    def take(_: Any, method: Any, _properties: Any, _body: bytes) -> None:
        served[method.consumer_tag] += 1
        if served.total() < count:
            consuming.basic_ack(method.delivery_tag)

    for queue in queues:
        consuming.basic_consume(queue, take, consumer_tag=queue)
    deadline = time.monotonic() + 60
    while served.total() < count and time.monotonic() < deadline:
        connection.process_data_events(time_limit=0.05)
    assert served.total() == count
    assert all(served[queue] for queue in queues)
