"""The headers ``CC`` and ``BCC``: further routing keys that a publisher gives a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pika import BasicProperties
from pika.exceptions import UnroutableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel


@pytest.fixture
def queues(channel: BlockingChannel, name: Callable[[], str]) -> list[str]:
    """Three queues, bound to two exchanges by their names."""
    names = [name(), name(), name()]
    for queue in names:
        channel.queue_declare(queue)
        channel.queue_bind(queue, "amq.direct", queue)
        channel.queue_bind(queue, "amq.topic", f"{queue}.#")
    return names


@pytest.fixture
def publish(channel: BlockingChannel) -> Any:
    def _publish(exchange: str, routing_key: str, /, *, mandatory: bool = False, **headers: Any) -> None:
        channel.basic_publish(exchange, routing_key, b"x", BasicProperties(headers=headers), mandatory=mandatory)

    return _publish


@pytest.fixture
def received(channel: BlockingChannel, queues: list[str]) -> Any:
    """What each of the queues holds: routing keys and headers."""

    def _received() -> list[list[tuple[str, Any]]]:
        found: list[list[tuple[str, Any]]] = [[] for _ in queues]
        for queue, messages in zip(queues, found, strict=True):
            while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
                messages.append((got[0].routing_key, got[1].headers))
        return found

    return _received


@pytest.mark.parametrize(("exchange", "suffix"), [("", ""), ("amq.direct", ""), ("amq.topic", ".x")])
def test_a_message_reaches_the_queues_of_all_its_keys_once(
    queues: list[str], publish: Any, received: Any, exchange: str, suffix: str
) -> None:
    first, second, third = (queue + suffix for queue in queues)
    publish(exchange, first, CC=[second, first])
    copy = (first, {"CC": [second, first]})
    assert received() == [[copy], [copy], []]
    publish(exchange, "contract.missing", CC=[third])
    assert received() == [[], [], [("contract.missing", {"CC": [third]})]]


def test_blind_copies_are_hidden_from_all_consumers(queues: list[str], publish: Any, received: Any) -> None:
    first, second, third = queues
    publish("", first, BCC=[second], CC=[third], mine=1)
    assert received() == [[(first, {"CC": [third], "mine": 1})]] * 3


def test_keys_that_are_not_text_are_left_out(queues: list[str], publish: Any, received: Any) -> None:
    first, second, _ = queues
    publish("", first, CC=[1, second])
    assert [len(messages) for messages in received()] == [1, 1, 0]


@pytest.mark.parametrize(("header", "value", "kind"), [("CC", "text", "longstr"), ("BCC", None, "void")])
def test_copies_that_are_not_a_list_are_refused(
    queues: list[str], publish: Any, refused: Any, header: str, value: Any, kind: str
) -> None:
    reason = f'invalid message: {{unacceptable_type_in_header,"{header}",{kind}}}'
    with refused(406, f"PRECONDITION_FAILED - {reason}"):
        publish("", queues[0], **{header: value})


def test_a_message_that_no_key_routes_is_returned(publish: Any) -> None:
    with pytest.raises(UnroutableError):
        publish("", "contract.missing", CC=["contract.gone"], mandatory=True)


@pytest.mark.parametrize("key", [None, "second"])
def test_a_dead_letter_keeps_its_keys_unless_it_gets_another(
    broker: Any,
    channel: BlockingChannel,
    queues: list[str],
    name: Callable[[], str],
    publish: Any,
    received: Any,
    until: Any,
    key: str | None,
) -> None:
    first, second, third = queues
    dying = name()
    arguments = {"x-dead-letter-exchange": "amq.direct"}
    channel.queue_declare(dying, arguments=arguments | ({"x-dead-letter-routing-key": second} if key else {}))
    publish("", dying, CC=[first], BCC=[third])
    received()
    channel.basic_reject(channel.basic_get(dying)[0].delivery_tag, requeue=False)
    assert until(lambda: channel.queue_declare(second if key else third, passive=True).method.message_count, 1) == 1
    found = received()
    assert [len(messages) for messages in found] == ([0, 1, 0] if key else [1, 0, 1])
    headers = found[1 if key else 0][0][1]
    assert headers["x-death"][0]["routing-keys"] == [dying, first]
    assert ("CC" in headers) is broker.since_4("CC of a dead letter", expected=True, before=key is None)


def test_keys_that_a_dead_letter_keeps_but_did_not_go_by_are_not_those_of_its_next_death(
    channel: BlockingChannel, name: Callable[[], str], publish: Any, until: Any
) -> None:
    last, middle, first = name(), name(), name()
    channel.queue_declare(last)
    for queue, key in ((middle, last), (first, middle)):
        arguments = {"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": key}
        channel.queue_declare(queue, arguments=arguments)
    publish("", first, CC=["contract.nowhere"])
    assert until(lambda: channel.queue_declare(last, passive=True).method.message_count, 1) == 1
    deaths = channel.basic_get(last, auto_ack=True)[1].headers["x-death"]
    assert [death["routing-keys"] for death in deaths] == [[middle], [first, "contract.nowhere"]]
