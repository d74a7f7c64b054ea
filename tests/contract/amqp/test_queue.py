"""AMQP class ``queue``: declaring, counting, purging, deleting, exclusiveness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands
from pika.exceptions import ChannelClosedByBroker, UnroutableError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


def test_declaring_counts_ready_messages_and_consumers(channel: BlockingChannel, queue: str, subscribe: Any) -> None:
    assert channel.queue_declare(queue, durable=True).method.message_count == 0
    for _ in range(3):
        channel.basic_publish("", queue, b"x")
    counted = channel.queue_declare(queue, passive=True).method
    assert (counted.queue, counted.message_count, counted.consumer_count) == (queue, 3, 0)


def test_a_passive_declare_does_not_count_unacknowledged_messages(channel: BlockingChannel, queue: str) -> None:
    for _ in range(3):
        channel.basic_publish("", queue, b"x")
    channel.basic_get(queue)
    assert channel.queue_declare(queue, passive=True).method.message_count == 2


def test_a_passive_declare_counts_consumers(
    connection: BlockingConnection, channel: BlockingChannel, queue: str, subscribe: Any
) -> None:
    subscribe(connection.channel(), queue)
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 1


def test_a_passive_declare_of_a_missing_queue_is_not_found(channel: BlockingChannel, refused: Any) -> None:
    with refused(404, "NOT_FOUND - no queue 'contract.missing' in vhost '/'"):
        channel.queue_declare("contract.missing", passive=True)


def test_a_passive_declare_ignores_other_arguments(channel: BlockingChannel, queue: str) -> None:
    channel.queue_declare(queue, passive=True, durable=False, arguments={"x-max-length": 1})


def test_the_server_names_a_queue_that_has_no_name(channel: BlockingChannel) -> None:
    first = channel.queue_declare("", exclusive=True).method.queue
    second = channel.queue_declare("", exclusive=True).method.queue
    assert first.startswith("amq.gen-")
    assert first != second


@pytest.mark.parametrize("queue", ["wörk queue #1", "tab\there", "q" * 255], ids=["words", "control", "long"])
def test_any_short_string_is_a_name(channel: BlockingChannel, queue: str) -> None:
    assert channel.queue_declare(queue, exclusive=True).method.queue == queue
    channel.basic_publish("", queue, b"x")
    assert channel.basic_get(queue, auto_ack=True)[0].routing_key == queue


def test_an_empty_name_means_the_last_declared_queue(channel: BlockingChannel) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"x")
    assert channel.basic_get("", auto_ack=True)[2] == b"x"


def test_an_empty_name_without_a_declared_queue_is_not_found(channel: BlockingChannel, refused: Any) -> None:
    with refused(404, "NOT_FOUND - no previously declared queue"):
        channel.queue_purge("")


def test_reserved_names_are_refused(channel: BlockingChannel, refused: Any) -> None:
    with refused(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"):
        channel.queue_declare("amq.mine")


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ({"durable": False}, "inequivalent arg 'durable' for {0}: received 'false' but current is 'true'"),
        ({"auto_delete": True}, "inequivalent arg 'auto_delete' for {0}: received 'true' but current is 'false'"),
        (
            {"arguments": {"x-max-length": 7}},
            "inequivalent arg 'x-max-length' for {0}: received the value '7' of type 'signedint' but current is none",
        ),
        (
            {"arguments": {"x-dead-letter-exchange": "amq.fanout"}},
            (
                "inequivalent arg 'x-dead-letter-exchange' for {0}: received the value 'amq.fanout' of type 'longstr' "
                "but current is none"
            ),
        ),
        (
            {"arguments": {"x-message-ttl": 3_000_000_000}},
            (
                "inequivalent arg 'x-message-ttl' for {0}: received the value '3000000000' of type 'long' "
                "but current is none"
            ),
        ),
    ],
    ids=str,
)
def test_declaring_a_queue_differently_is_refused(
    channel: BlockingChannel, queue: str, refused: Any, second: Any, text: str
) -> None:
    expected = "PRECONDITION_FAILED - " + text.format(f"queue '{queue}' in vhost '/'")
    with refused(406, expected):
        channel.queue_declare(queue, **{"durable": True, **second})


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (
            {"x-max-length": 3},
            None,
            "inequivalent arg 'x-max-length' for {0}: received none but current is the value '3' of type 'signedint'",
        ),
        (
            {"x-max-length": 3},
            {"x-max-length": 4},
            "inequivalent arg 'x-max-length' for {0}: received '4' but current is '3'",
        ),
        (
            {"x-queue-version": 1},
            {"x-queue-version": 2},
            "inequivalent arg 'x-queue-version' for {0}: received '2' but current is '1'",
        ),
        (
            {"x-queue-mode": "lazy"},
            None,
            "inequivalent arg 'x-queue-mode' for {0}: received none but current is the value 'lazy' of type 'longstr'",
        ),
        (
            {"x-overflow": "reject-publish"},
            {"x-overflow": "drop-head"},
            "inequivalent arg 'x-overflow' for {0}: received 'drop-head' but current is 'reject-publish'",
        ),
    ],
    ids=str,
)
def test_changed_arguments_are_refused_and_named(
    channel: BlockingChannel, name: Callable[[], str], refused: Any, first: Any, second: Any, text: str
) -> None:
    queue = name()
    channel.queue_declare(queue, arguments=first)
    expected = "PRECONDITION_FAILED - " + text.format(f"queue '{queue}' in vhost '/'")
    with refused(406, expected):
        channel.queue_declare(queue, arguments=second)


def test_the_classic_type_is_the_same_as_none(channel: BlockingChannel, queue: str) -> None:
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "classic"})


def test_lazy_mode_is_accepted(channel: BlockingChannel, name: Callable[[], str]) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-queue-mode": "lazy"})
    channel.basic_publish("", queue, b"x")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"x"


@pytest.mark.parametrize("version", [1, 2])
def test_a_queue_has_one_of_two_versions(channel: BlockingChannel, name: Callable[[], str], version: int) -> None:
    queue = name()
    for _ in range(2):
        channel.queue_declare(queue, durable=True, arguments={"x-queue-version": version})
    channel.basic_publish("", queue, b"x")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"x"


def test_lazy_queues_and_their_leaders_are_nothing_special(
    broker: Any, janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str]
) -> None:
    """On 4 the mode of a queue has no effect; it is accepted, told and compared all the same."""
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-mode": "lazy"})
    assert janitor.get(f"/queues/%2F/{queue}").json()["arguments"]["x-queue-mode"] == "lazy"
    if broker.since_4("where a classic queue's leader is", expected=True, before=False):
        channel.queue_declare(name(), durable=True, arguments={"x-queue-leader-locator": "balanced"})


def test_unknown_arguments_are_accepted(channel: BlockingChannel, name: Callable[[], str]) -> None:
    channel.queue_declare(name(), arguments={"x-made-up": 1, "note": "mine"})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("x-max-length", -1, "invalid arg {0}: {{value_negative,-1}}"),
        ("x-max-length", "ten", 'invalid arg {0}: "expected integer, got longstr"'),
        ("x-max-length", True, 'invalid arg {0}: "expected integer, got bool"'),
        ("x-max-length-bytes", -1, "invalid arg {0}: {{value_negative,-1}}"),
        ("x-message-ttl", -1, "invalid arg {0}: {{value_negative,-1}}"),
        ("x-message-ttl", 2**40, "invalid arg {0}: {{value_too_large,1099511627776}}"),
        ("x-message-ttl", "soon", 'invalid arg {0}: "expected integer, got longstr"'),
        ("x-expires", 0, "invalid arg {0}: {{value_zero,0}}"),
        ("x-overflow", "explode", "invalid arg {0}: invalid_overflow"),
        ("x-overflow", 3, "invalid arg {0}: {{unacceptable_type,signedint}}"),
        ("x-queue-mode", "sleepy", "invalid arg {0}: \"unsupported queue mode 'sleepy'\""),
        ("x-queue-type", "hasty", "invalid arg {0}: \"unsupported queue type 'hasty'\""),
        ("x-dead-letter-routing-key", "k", "invalid arg {0}: routing_key_but_no_dlx_defined"),
        ("x-single-active-consumer", "x", "invalid arg {0}: {{unacceptable_type,longstr}}"),
        ("x-max-priority", 300, "invalid arg {0}: {{max_value_exceeded,300}}"),
        ("x-delivery-limit", 2, "invalid arg {0} of queue type rabbit_classic_queue"),
        ("x-delivery-limit", "few", "invalid arg {0} of queue type rabbit_classic_queue"),
        ("x-max-age", "1h", "invalid arg {0} of queue type rabbit_classic_queue"),
        ("x-max-in-memory-length", 5, "invalid arg {0} of queue type rabbit_classic_queue"),
        ("x-queue-version", 3, "invalid arg {0}: \"unsupported queue version '3'\""),
        ("x-queue-version", 0, "invalid arg {0}: \"unsupported queue version '0'\""),
        ("x-queue-version", -1, "invalid arg {0}: {{value_negative,-1}}"),
        ("x-queue-version", "2", 'invalid arg {0}: "expected integer, got longstr"'),
        ("x-message-ttl", 315_360_000_001, "invalid arg {0}: {{value_too_large,315360000001}}"),
        ("x-expires", 315_360_000_001, "invalid arg {0}: {{value_too_large,315360000001}}"),
        ("x-message-ttl", b"5", 'invalid arg {0}: "expected integer, got binary"'),
        ("x-single-active-consumer", 2**40, "invalid arg {0}: {{unacceptable_type,long}}"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    channel: BlockingChannel, name: Callable[[], str], refused: Any, key: str, value: Any, text: str
) -> None:
    queue = name()
    with refused(406, "PRECONDITION_FAILED - " + text.format(f"'{key}' for queue '{queue}' in vhost '/'")):
        channel.queue_declare(queue, arguments={key: value})


def test_a_dead_letter_exchange_must_be_a_string(
    channel: BlockingChannel, name: Callable[[], str], refused: Any
) -> None:
    queue = name()
    with refused(
        406,
        "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' "
        f"in queue '{queue}' in vhost '/'",
    ):
        channel.queue_declare(queue, arguments={"x-dead-letter-exchange": 5})


def test_purging_removes_ready_messages_only(channel: BlockingChannel, queue: str) -> None:
    for _ in range(5):
        channel.basic_publish("", queue, b"x")
    method, _, _ = channel.basic_get(queue)
    assert channel.queue_purge(queue).method.message_count == 4
    assert channel.queue_declare(queue, passive=True).method.message_count == 0
    channel.basic_nack(method.delivery_tag)
    assert channel.basic_get(queue)[2] == b"x"


def test_purging_a_missing_queue_is_not_found(channel: BlockingChannel, refused: Any) -> None:
    with refused(404, "NOT_FOUND - no queue 'contract.missing' in vhost '/'"):
        channel.queue_purge("contract.missing")


def test_deleting_counts_what_was_lost(channel: BlockingChannel, name: Callable[[], str]) -> None:
    queue = name()
    channel.queue_declare(queue)
    for _ in range(2):
        channel.basic_publish("", queue, b"x")
    assert channel.queue_delete(queue).method.message_count == 2


def test_deleting_a_missing_queue_is_no_error(channel: BlockingChannel) -> None:
    assert channel.queue_delete("contract.missing").method.message_count == 0


def test_a_queue_with_consumers_is_not_deleted_if_unused(
    connection: BlockingConnection, channel: BlockingChannel, queue: str, subscribe: Any, refused: Any
) -> None:
    subscribe(connection.channel(), queue)
    with refused(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"):
        channel.queue_delete(queue, if_unused=True)


def test_a_queue_with_messages_is_not_deleted_if_empty(channel: BlockingChannel, queue: str, refused: Any) -> None:
    channel.basic_publish("", queue, b"x")
    with refused(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"):
        channel.queue_delete(queue, if_empty=True)


def test_deleting_a_queue_removes_its_bindings(channel: BlockingChannel, name: Callable[[], str]) -> None:
    exchange, queue = name(), name()
    channel.exchange_declare(exchange, "fanout")
    for _ in range(2):
        channel.queue_declare(queue)
        channel.queue_bind(queue, exchange, "")
        channel.queue_delete(queue)
    channel.queue_declare(queue)
    channel.basic_publish(exchange, "", b"x")
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_an_exclusive_queue_is_locked_for_other_connections(
    channel: BlockingChannel, connect: Any, refused: Any
) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue
    with refused(
        405,
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration.",
    ):
        connect().channel().queue_declare(queue, passive=True)


def test_another_connection_may_publish_to_an_exclusive_queue(channel: BlockingChannel, connect: Any) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue
    other = connect().channel()
    other.confirm_delivery()
    other.basic_publish("", queue, b"hello", mandatory=True)
    assert channel.basic_get(queue, auto_ack=True)[2] == b"hello"


def test_an_exclusive_queue_goes_with_its_connection(
    channel: BlockingChannel, connect: Any, name: Callable[[], str], until: Any
) -> None:
    queue = name()
    owner = connect()
    owner.channel().queue_declare(queue, exclusive=True)
    owner.close()

    def exists() -> Any:
        try:
            channel.connection.channel().queue_declare(queue, passive=True)
        except ChannelClosedByBroker as closed:
            return closed.reply_code
        return 200

    assert until(exists, 404) == 404


def test_an_auto_delete_queue_waits_for_its_first_consumer_and_goes_with_the_last(
    channel: BlockingChannel, name: Callable[[], str], subscribe: Any, refused: Any
) -> None:
    queue = name()
    channel.queue_declare(queue, auto_delete=True)
    channel.basic_publish("", queue, b"x")
    assert channel.queue_declare(queue, passive=True).method.message_count == 1
    for tag in ("a", "b"):
        subscribe(channel, queue, consumer_tag=tag)
    channel.basic_cancel("a")
    channel.queue_declare(queue, passive=True)
    channel.basic_cancel("b")
    with refused(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
        channel.queue_declare(queue, passive=True)


def test_a_queue_expires_when_unused(channel: BlockingChannel, name: Callable[[], str], until: Any) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-expires": 100})

    def exists() -> Any:  # a mandatory publish looks without touching
        try:
            channel.basic_publish("", queue, b"", mandatory=True)
        except UnroutableError:
            return False
        return True

    assert until(exists, expected=False) is False


def test_a_queue_with_a_consumer_does_not_expire(
    connection: BlockingConnection, channel: BlockingChannel, name: Callable[[], str], subscribe: Any
) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-expires": 100})
    subscribe(channel, queue)
    connection.sleep(0.3)
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 1


def test_a_client_that_deletes_a_queue_has_the_answer_before_the_end_of_its_own_consumer(
    raw: Any, name: Callable[[], str]
) -> None:
    queue = name()
    raw.send(b"AMQP\x00\x00\x09\x01")
    raw.expect(commands.Connection.Start)
    told = {"capabilities": {"consumer_cancel_notify": True}}
    raw.send(commands.Connection.StartOk(told, "PLAIN", "\0guest\0guest"))
    raw.expect(commands.Connection.Tune)
    raw.send(commands.Connection.TuneOk(2047, 131072, 0), commands.Connection.Open("/"))
    raw.expect(commands.Connection.OpenOk)
    raw.open_channel()
    raw.send(commands.Queue.Declare(queue=queue), channel=1)
    raw.expect(commands.Queue.DeclareOk)
    raw.send(commands.Basic.Consume(queue=queue, consumer_tag="mine"), channel=1)
    raw.expect(commands.Basic.ConsumeOk)
    raw.send(commands.Queue.Delete(queue=queue), channel=1)
    raw.expect(commands.Queue.DeleteOk)
    assert raw.expect(commands.Basic.Cancel).consumer_tag == "mine"
