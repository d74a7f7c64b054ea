"""AMQP class ``exchange``: declaring, deleting, binding, and how each type routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pika import BasicProperties

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel


@pytest.fixture
def routes(channel: BlockingChannel, name: Callable[[], str]) -> Any:
    """Declare an exchange, bind one queue per binding, publish, and say which bindings got the message."""

    def _routes(kind: str, bindings: Any, key: str, headers: Any = None) -> Any:
        exchange = name()
        channel.exchange_declare(exchange, kind)
        queues = []
        for binding in bindings:
            arguments = binding if isinstance(binding, dict) else None
            queues.append(channel.queue_declare("", exclusive=True).method.queue)
            channel.queue_bind(queues[-1], exchange, "" if arguments else binding, arguments=arguments)
        channel.basic_publish(exchange, key, b"x", BasicProperties(headers=headers))
        got = [channel.queue_declare(queue, passive=True).method.message_count for queue in queues]
        return [binding for binding, count in zip(bindings, got, strict=True) if count]

    return _routes


def test_a_direct_exchange_routes_by_equal_keys(routes: Any) -> None:
    assert routes("direct", ["red", "green"], "green") == ["green"]


def test_a_fanout_exchange_ignores_the_key(routes: Any) -> None:
    assert routes("fanout", ["red", "green"], "blue") == ["red", "green"]


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*", "a.", True),
        ("*", "", False),
        ("#", "", True),
        ("#", "a.b.c", True),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "a.b", False),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("#.b.#", "a.b.c", True),
        ("#.b.#", "a.c", False),
        ("*.*", "a.b", True),
        ("#.*", "", False),
        ("a..b", "a..b", True),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_a_topic_exchange_matches_words(routes: Any, pattern: str, key: str, matches: bool) -> None:
    assert bool(routes("topic", [pattern], key)) is matches


def test_a_topic_exchange_routes_many_patterns_at_once(routes: Any) -> None:
    patterns = ["stock.*.nyse", "stock.#", "#", "bond.*"]
    assert routes("topic", patterns, "stock.usd.nyse") == ["stock.*.nyse", "stock.#", "#"]


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 2}, True),
        ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": "x"}, {"b": "x"}, True),
        ({"x-match": "any", "a": 1, "b": "x"}, {"b": "y"}, False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, None, False),
        ({"x-match": "all"}, {"anything": 1}, True),
        ({"x-match": "any"}, {"anything": 1}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 0}, {"a": False}, False),
        ({"a": 1}, {"a": 2**40}, False),
        ({"a": 2**40}, {"a": 2**40}, True),
        ({"a": "ab"}, {"a": b"ab"}, True),
        ({"a": "42"}, {"a": 42}, False),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 2}}, True),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}, False),
        ({"a": None}, {"a": 3}, True),
        ({"a": None}, {"b": 3}, False),
        ({"a": 3}, {"a": None}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 2}, False),
        ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
    ],
)
def test_a_headers_exchange_compares_headers(routes: Any, arguments: Any, headers: Any, matches: bool) -> None:
    assert bool(routes("headers", [arguments], "", headers)) is matches


def test_two_bindings_of_a_queue_deliver_one_copy(
    channel: BlockingChannel, name: Callable[[], str], queue: str
) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "topic")
    channel.queue_bind(queue, exchange, "a.*")
    channel.queue_bind(queue, exchange, "*.b")
    channel.basic_publish(exchange, "a.b", b"once")
    assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_binding_twice_is_one_binding(channel: BlockingChannel, name: Callable[[], str], queue: str) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "direct")
    for _ in range(2):
        channel.queue_bind(queue, exchange, "k")
    channel.queue_unbind(queue, exchange, "k")
    channel.basic_publish(exchange, "k", b"nowhere")
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_unbinding_what_is_not_bound_is_not_an_error(
    channel: BlockingChannel, name: Callable[[], str], queue: str
) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "direct")
    channel.queue_unbind(queue, exchange, "never")


@pytest.mark.parametrize(
    ("exchange", "kind"),
    [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ],
)
def test_the_standard_exchanges_exist(channel: BlockingChannel, exchange: str, kind: str) -> None:
    channel.exchange_declare(exchange, kind, passive=True)
    channel.exchange_declare(exchange, kind, durable=True)


def test_the_default_exchange_routes_to_the_queue_of_that_name(channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"direct")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"direct"


def test_declaring_the_same_exchange_again_is_fine(channel: BlockingChannel, name: Callable[[], str]) -> None:
    exchange = name()
    for _ in range(2):
        channel.exchange_declare(exchange, "topic", durable=True)


def test_a_passive_declare_of_a_missing_exchange_is_not_found(channel: BlockingChannel, refused: Any) -> None:
    with refused(404, "NOT_FOUND - no exchange 'contract.missing' in vhost '/'"):
        channel.exchange_declare("contract.missing", passive=True)


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ({"exchange_type": "fanout"}, "inequivalent arg 'type' for {0}: received 'fanout' but current is 'direct'"),
        ({"durable": True}, "inequivalent arg 'durable' for {0}: received 'true' but current is 'false'"),
        ({"auto_delete": True}, "inequivalent arg 'auto_delete' for {0}: received 'true' but current is 'false'"),
        ({"internal": True}, "inequivalent arg 'internal' for {0}: received 'true' but current is 'false'"),
        (
            {"arguments": {"alternate-exchange": "amq.fanout"}},
            (
                "inequivalent arg 'alternate-exchange' for {0}: received the value 'amq.fanout' of type 'longstr' "
                "but current is none"
            ),
        ),
    ],
    ids=str,
)
def test_declaring_an_exchange_differently_is_refused(
    channel: BlockingChannel, name: Callable[[], str], refused: Any, second: Any, text: str
) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "direct")
    expected = "PRECONDITION_FAILED - " + text.format(f"exchange '{exchange}' in vhost '/'")
    with refused(406, expected):
        channel.exchange_declare(exchange, **{"exchange_type": "direct", **second})


def test_an_unknown_exchange_type_is_refused(broker: Any, channel: BlockingChannel, kicked: Any, refused: Any) -> None:
    in_4 = refused(406, "PRECONDITION_FAILED - unknown exchange type 'nonsense'")
    in_3 = kicked(503, "COMMAND_INVALID - unknown exchange type 'nonsense'")
    with broker.since_4("an unknown exchange type", in_4, before=in_3):
        channel.exchange_declare("contract.x", "nonsense")


def test_reserved_names_are_refused(channel: BlockingChannel, refused: Any) -> None:
    with refused(403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'"):
        channel.exchange_declare("amq.mine", "direct")


@pytest.mark.parametrize("action", ["declare", "delete", "bind"])
def test_the_default_exchange_is_out_of_bounds(channel: BlockingChannel, queue: str, refused: Any, action: str) -> None:
    with refused(403, "ACCESS_REFUSED - operation not permitted on the default exchange"):
        match action:
            case "declare":
                channel.exchange_declare("", "direct", durable=True)
            case "delete":
                channel.exchange_delete("")
            case "bind":
                channel.queue_bind(queue, "", "k")


def test_the_standard_exchanges_cannot_be_deleted(channel: BlockingChannel, refused: Any) -> None:
    with refused(403, "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed"):
        channel.exchange_delete("amq.topic")


def test_deleting_a_missing_exchange_is_not_an_error(channel: BlockingChannel) -> None:
    channel.exchange_delete("contract.missing")


def test_an_exchange_in_use_is_not_deleted_if_unused(
    channel: BlockingChannel, name: Callable[[], str], queue: str, refused: Any
) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "direct")
    channel.queue_bind(queue, exchange, "k")
    with refused(406, f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use"):
        channel.exchange_delete(exchange, if_unused=True)


def test_an_auto_delete_exchange_goes_with_its_last_binding(
    channel: BlockingChannel, name: Callable[[], str], queue: str, refused: Any
) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    channel.queue_bind(queue, exchange, "k")
    channel.queue_unbind(queue, exchange, "k")
    with refused(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"):
        channel.exchange_declare(exchange, passive=True)


def test_an_internal_exchange_takes_no_publishes(
    channel: BlockingChannel, name: Callable[[], str], refused: Any
) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "fanout", internal=True)
    with refused(403, f"ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'"):
        channel.basic_publish(exchange, "k", b"x")


def test_an_exchange_bound_to_another_passes_messages_on(
    channel: BlockingChannel, name: Callable[[], str], queue: str
) -> None:
    source, destination = name(), name()
    channel.exchange_declare(source, "topic")
    channel.exchange_declare(destination, "fanout")
    channel.exchange_bind(destination, source, "a.#")
    channel.queue_bind(queue, destination, "")
    channel.basic_publish(source, "a.b", b"through")
    channel.basic_publish(source, "b.a", b"not")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"through"
    assert channel.basic_get(queue)[0] is None
    channel.exchange_unbind(destination, source, "a.#")
    channel.basic_publish(source, "a.b", b"no more")
    assert channel.basic_get(queue)[0] is None


def test_exchanges_bound_in_a_circle_deliver_once(
    channel: BlockingChannel, name: Callable[[], str], queue: str
) -> None:
    one, two = name(), name()
    for exchange in (one, two):
        channel.exchange_declare(exchange, "fanout")
    channel.exchange_bind(one, two)
    channel.exchange_bind(two, one)
    channel.queue_bind(queue, two, "")
    channel.basic_publish(one, "", b"once")
    assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_an_alternate_exchange_takes_what_cannot_be_routed(
    channel: BlockingChannel, name: Callable[[], str], queue: str
) -> None:
    alternate, exchange = name(), name()
    channel.exchange_declare(alternate, "fanout")
    channel.exchange_declare(exchange, "direct", arguments={"alternate-exchange": alternate})
    channel.queue_bind(queue, alternate, "")
    channel.basic_publish(exchange, "nowhere", b"caught", mandatory=True)
    assert channel.basic_get(queue, auto_ack=True)[2] == b"caught"


def test_binding_to_what_does_not_exist_is_not_found(channel: BlockingChannel, queue: str, refused: Any) -> None:
    with refused(404, "NOT_FOUND - no exchange 'contract.missing' in vhost '/'"):
        channel.queue_bind(queue, "contract.missing", "k")
