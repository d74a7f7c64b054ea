"""Quorum queues, and what RabbitMQ 4 does with them otherwise than 3.10: limit of deliveries, priorities, order."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from pika import BasicProperties

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


@pytest.fixture
def declare(channel: BlockingChannel, name: Callable[[], str]) -> Callable[..., str]:
    """Declare a quorum queue."""

    def _declare(**arguments: Any) -> str:
        queue = name()
        named = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", **named})
        return queue

    return _declare


@pytest.fixture
def publish(channel: BlockingChannel) -> Callable[..., None]:
    """Publish messages of these priorities, numbered from 0."""

    def _publish(queue: str, *priorities: int | None) -> None:
        for number, priority in enumerate(priorities):
            properties = BasicProperties(delivery_mode=2, priority=priority)
            channel.basic_publish("", queue, str(number).encode(), properties)

    return _publish


@pytest.fixture
def fetch(channel: BlockingChannel, until: Any) -> Callable[[str], Any]:
    """Take a message as soon as there is one: a quorum queue takes messages back in the background."""

    def _fetch(queue: str) -> Any:
        got: list[Any] = []

        def arrived() -> bool:
            got.append(channel.basic_get(queue))
            return got[-1][0] is not None

        until(arrived, expected=True)
        return got[-1]

    return _fetch


@pytest.fixture
def drain(fetch: Any) -> Callable[[str, int], list[int]]:
    """Take so many messages; their numbers."""
    return lambda queue, count: [int(fetch(queue)[2]) for _ in range(count)]


@pytest.mark.parametrize(
    ("wrong", "properties"),
    [
        ("non-durable", {"durable": False}),
        ("auto-delete", {"auto_delete": True}),
        ("exclusive-owner", {"exclusive": True}),
    ],
)
def test_a_quorum_queue_is_durable_and_for_all(
    channel: BlockingChannel, name: Callable[[], str], refused: Any, wrong: str, properties: dict[str, bool]
) -> None:
    queue = name()
    with refused(406, f"PRECONDITION_FAILED - invalid property '{wrong}' for queue '{queue}' in vhost '/'"):
        channel.queue_declare(queue, **{"durable": True, **properties}, arguments={"x-queue-type": "quorum"})


@pytest.mark.parametrize("key", ["x-max-priority", "x-queue-mode", "x-queue-version"])
def test_what_only_classic_queues_have_is_refused(
    channel: BlockingChannel, name: Callable[[], str], refused: Any, key: str
) -> None:
    queue = name()
    expected = f"invalid arg '{key}' for queue '{queue}' in vhost '/' of queue type rabbit_quorum_queue"
    with refused(406, f"PRECONDITION_FAILED - {expected}"):
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", key: 2})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("x-queue-leader-locator", "odd", "invalid_queue_locator_arg"),
        ("x-dead-letter-strategy", "odd", "invalid_dlx_strategy"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    channel: BlockingChannel, name: Callable[[], str], refused: Any, key: str, value: str, reason: str
) -> None:
    queue = name()
    with refused(406, f"PRECONDITION_FAILED - invalid arg '{key}' for queue '{queue}' in vhost '/': {reason}"):
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", key: value})


def test_arguments_that_concern_a_cluster_are_accepted_and_compared(
    channel: BlockingChannel, declare: Any, refused: Any
) -> None:
    queue = declare(queue_leader_locator="balanced", quorum_initial_group_size=1, dead_letter_strategy="at-most-once")
    arguments = {"x-queue-type": "quorum", "x-queue-leader-locator": "client-local"}
    expected = (
        f"inequivalent arg 'x-queue-leader-locator' for queue '{queue}' in vhost '/': received 'client-local' but "
        "current is 'balanced'"
    )
    with refused(406, f"PRECONDITION_FAILED - {expected}"):
        channel.queue_declare(
            queue,
            durable=True,
            arguments={**arguments, "x-quorum-initial-group-size": 1, "x-dead-letter-strategy": "at-most-once"},
        )


def test_it_keeps_and_delivers(declare: Any, publish: Any, drain: Any) -> None:
    queue = declare()
    publish(queue, None)
    assert drain(queue, 1) == [0]


def test_a_channel_wide_prefetch_does_not_go_with_it(
    channel: BlockingChannel, declare: Any, subscribe: Any, kicked: Any
) -> None:
    queue = declare()
    channel.basic_qos(prefetch_count=5, global_qos=True)
    with kicked(540, f"NOT_IMPLEMENTED - queue '{queue}' in vhost '/' does not support global qos"):
        subscribe(channel, queue)


# -- the limit of deliveries -------------------------------------------------------------------------------------------


def test_it_counts_deliveries_and_gives_up_at_its_limit(
    broker: Any, channel: BlockingChannel, name: Callable[[], str], declare: Any, publish: Any, fetch: Any
) -> None:
    graveyard = name()
    channel.queue_declare(graveyard)
    queue = declare(delivery_limit=2, dead_letter_exchange="", dead_letter_routing_key=graveyard)
    publish(queue, None)
    counts = []
    for _ in range(3):
        method, properties, _ = fetch(queue)
        counts.append((properties.headers or {}).get("x-delivery-count"))
        channel.basic_nack(method.delivery_tag)
    assert counts == [broker.since_4("x-delivery-count", None, before=0), 1, 2]
    death = fetch(graveyard)[1].headers["x-death"][0]
    assert (death["reason"], death["count"]) == ("delivery_limit", 1)


@pytest.mark.parametrize(
    ("argument", "policy", "limit", "limit_of_3_10"),
    [
        (None, None, 20, None),
        (-1, None, None, 0),
        (3, None, 3, 3),
        (None, 2, 2, 2),
        (3, 2, 2, 2),
        (-1, 2, 2, 0),
        (2, 3, 2, 2),
        (30, None, 30, 30),
    ],
)
def test_the_smaller_limit_of_argument_and_policy_holds(
    broker: Any,
    janitor: httpx.Client,
    channel: BlockingChannel,
    name: Callable[[], str],
    declare: Any,
    publish: Any,
    fetch: Any,
    argument: int | None,
    policy: int | None,
    limit: int | None,
    limit_of_3_10: int | None,
) -> None:
    """How often it is delivered is told by the dead letter, or by more than 30 deliveries."""
    graveyard = name()
    channel.queue_declare(graveyard)
    if policy is not None:
        document = {"pattern": "^contract\\.", "definition": {"delivery-limit": policy}, "apply-to": "queues"}
        assert janitor.put("/policies/%2F/contract.limit", json=document).status_code == 201
    try:
        arguments = {} if argument is None else {"delivery_limit": argument}
        queue = declare(dead_letter_exchange="", dead_letter_routing_key=graveyard, **arguments)
        publish(queue, None)
        expected = broker.since_4("the delivery limit", limit, before=limit_of_3_10)
        for _ in range(33 if expected is None else expected + 1):
            channel.basic_nack(fetch(queue)[0].delivery_tag)
        at = queue if expected is None else graveyard
        assert fetch(at)[0] is not None
        assert channel.basic_get(graveyard if expected is None else queue)[0] is None
    finally:
        janitor.delete("/policies/%2F/contract.limit")


def test_a_lost_channel_counts_as_a_delivery(
    connection: BlockingConnection, channel: BlockingChannel, declare: Any, publish: Any, fetch: Any
) -> None:
    queue = declare()
    publish(queue, None)
    other = connection.channel()
    assert other.basic_get(queue)[0] is not None
    other.close()
    assert fetch(queue)[1].headers["x-delivery-count"] == 1


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priorities", "order"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [5, 6, 0, 7, 8, 1, 9, 10, 2, 11, 3, 4]),
        ([None, None, None, 5, 5, 5, 5], [3, 4, 0, 5, 6, 1, 2]),
        ([9, 9, 9, 9, 0, 0], [0, 1, 2, 3, 4, 5]),
        ([4, 4, 9], [2, 0, 1]),
    ],
)
def test_two_of_high_priority_go_for_each_normal_one(
    broker: Any, declare: Any, publish: Any, drain: Any, priorities: list[int | None], order: list[int]
) -> None:
    queue = declare()
    publish(queue, *priorities)
    expected = broker.since_4("priorities of quorum queues", order, before=sorted(order))
    assert drain(queue, len(priorities)) == expected


def test_the_bound_drops_what_would_go_next(
    broker: Any, channel: BlockingChannel, name: Callable[[], str], declare: Any, publish: Any, drain: Any
) -> None:
    graveyard = name()
    channel.queue_declare(graveyard)
    queue = declare(max_length=4, dead_letter_exchange="", dead_letter_routing_key=graveyard)
    publish(queue, *[0, 9] * 4)
    dead, left = broker.since_4(
        "priorities of quorum queues", ([1, 3, 0, 5], [7, 2, 4, 6]), before=([0, 1, 2, 3], [4, 5, 6, 7])
    )
    assert drain(graveyard, 4) == dead
    assert drain(queue, 4) == left


def test_what_it_takes_back_goes_next_in_the_order_of_its_return(
    channel: BlockingChannel, declare: Any, publish: Any, fetch: Any, drain: Any
) -> None:
    queue = declare(delivery_limit=5)
    publish(queue, *[None] * 5)
    tags = [fetch(queue)[0].delivery_tag for _ in range(3)]
    for index in (2, 0, 1):
        channel.basic_nack(tags[index])
    assert drain(queue, 5) == [2, 0, 1, 3, 4]


@pytest.mark.parametrize("limit", [None, -1])
def test_without_a_limit_of_deliveries_it_puts_what_it_takes_back_behind_all_others(
    broker: Any, channel: BlockingChannel, declare: Any, publish: Any, fetch: Any, drain: Any, limit: int | None
) -> None:
    if broker.since_4("the delivery limit", expected=False, before=limit == -1):
        pytest.skip("there the limit of -1 has been reached with the first delivery")
    queue = declare(**({} if limit is None else {"delivery_limit": limit}))
    publish(queue, None, None, None)
    channel.basic_nack(fetch(queue)[0].delivery_tag)
    in_4 = [0, 1, 2] if limit is None else [1, 2, 0]
    assert drain(queue, 3) == broker.since_4("what a quorum queue takes back", in_4, before=[1, 2, 0])


# -- the single active consumer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_single_active_consumer_makes_way_for_one_of_a_higher_priority_in_a_quorum_queue(
    broker: Any,
    channel: BlockingChannel,
    connection: BlockingConnection,
    declare: Any,
    publish: Any,
    subscribe: Any,
    collect: Any,
    kind: str,
) -> None:
    queue = declare(queue_type=kind, single_active_consumer=True)
    consuming = connection.channel()
    consuming.basic_qos(prefetch_count=2)
    low = subscribe(consuming, queue)
    publish(queue, *[None] * 6)
    collect(consuming, low, 2)
    high = subscribe(consuming, queue, arguments={"x-priority": 5})
    takes_over = broker.since_4("the single active consumer", kind == "quorum", before=False)
    consuming.basic_ack(low[0][0].delivery_tag)
    collect(consuming, low, 2 if takes_over else 3)  # it still holds one
    assert (len(low), len(high)) == ((2, 0) if takes_over else (3, 0))
    for method, _, _ in low[1:]:
        consuming.basic_ack(method.delivery_tag)
    collect(consuming, [low, high], 4 if takes_over else 5)
    assert [int(body) for _, _, body in high] == ([2, 3] if takes_over else [])


# -- the default type --------------------------------------------------------------------------------------------------


@pytest.fixture
def default_is_quorum(janitor: httpx.Client) -> Any:
    assert janitor.put("/vhosts/%2F", json={"default_queue_type": "quorum"}).status_code in {201, 204}
    yield
    janitor.put("/vhosts/%2F", json={"default_queue_type": "classic"})


@pytest.mark.usefixtures("default_is_quorum")
def test_the_virtual_host_has_a_type_for_queues_that_are_declared_without_one(
    broker: Any, janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str], until: Any
) -> None:
    quorum = broker.since_4("the default queue type", "quorum", before="classic")
    for properties, expected in (
        ({"durable": True}, quorum),
        ({}, "classic"),
        ({"durable": True, "exclusive": True}, "classic"),
        ({"durable": True, "auto_delete": True}, "classic"),
        ({"durable": True, "arguments": {"x-queue-type": "classic"}}, "classic"),
    ):
        queue = name()
        channel.queue_declare(queue, **properties)
        channel.queue_declare(queue, **properties)
        assert until(lambda queue=queue: janitor.get(f"/queues/%2F/{queue}").json().get("type"), expected) == expected
        channel.queue_delete(queue)  # an exclusive one, nobody else may delete
    queue = name()
    assert janitor.put(f"/queues/%2F/{queue}", json={"durable": True}).status_code == 201
    assert until(lambda: janitor.get(f"/queues/%2F/{queue}").json().get("type"), quorum) == quorum
    told = broker.since_4("the default queue type", "quorum", before="undefined")
    assert janitor.get("/vhosts/%2F").json()["default_queue_type"] == told


@pytest.mark.usefixtures("default_is_quorum")
def test_what_the_default_type_cannot_have_is_refused(
    broker: Any, channel: BlockingChannel, name: Callable[[], str], refused: Any
) -> None:
    queue = name()
    expected = f"invalid arg 'x-max-priority' for queue '{queue}' in vhost '/' of queue type rabbit_quorum_queue"
    in_4 = refused(406, f"PRECONDITION_FAILED - {expected}")
    with broker.since_4("the default queue type", in_4, before=nullcontext()):
        channel.queue_declare(queue, durable=True, arguments={"x-max-priority": 3})


def test_a_type_that_does_not_exist_is_no_default(broker: Any, janitor: httpx.Client) -> None:
    refused = janitor.put("/vhosts/%2F", json={"default_queue_type": "odd"}).status_code
    janitor.put("/vhosts/%2F", json={"default_queue_type": "classic"})
    taken = {201, 204}
    assert refused in broker.by_kind("a default queue type that does not exist", embedded={400}, rabbitmq=taken)


@pytest.mark.parametrize(("first", "second"), [("classic", "quorum"), ("quorum", None), (None, "quorum")])
def test_a_queue_keeps_its_type(
    broker: Any, channel: BlockingChannel, name: Callable[[], str], refused: Any, first: str | None, second: str | None
) -> None:
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": first} if first else {})
    in_4 = f"received '{second or 'classic'}' but current is '{first or 'classic'}'"
    if first and second:
        in_3 = in_4
    elif first:
        in_3 = f"received none but current is the value '{first}' of type 'longstr'"
    else:
        in_3 = f"received the value '{second}' of type 'longstr' but current is none"
    text = broker.since_4("the queue's type", in_4, before=in_3)
    with refused(
        406, f"PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue '{queue}' in vhost '/': {text}"
    ):
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": second} if second else {})
