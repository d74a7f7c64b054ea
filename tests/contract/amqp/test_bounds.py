"""Queue bounds, time to live and dead-lettering: RabbitMQ's extensions."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from pika import BasicProperties
from pika.exceptions import NackError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


@pytest.fixture
def declare(channel: BlockingChannel, name: Callable[[], str]) -> Any:
    def _declare(**arguments: Any) -> Any:
        queue = name()
        channel.queue_declare(queue, arguments={f"x-{key.replace('_', '-')}": v for key, v in arguments.items()})
        return queue

    return _declare


@pytest.fixture
def publish(channel: BlockingChannel) -> Any:
    """Publish numbers or bodies; the ones the broker refused."""

    def _publish(queue: str, bodies: Any, **properties: Any) -> Any:
        refused = []
        for body in bodies:
            encoded = body if isinstance(body, bytes) else str(body).encode()
            try:
                channel.basic_publish("", queue, encoded, BasicProperties(**properties))
            except NackError:
                refused.append(body)
        return refused

    return _publish


@pytest.fixture
def drain(channel: BlockingChannel) -> Any:
    def _drain(queue: str) -> Any:
        found = []
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(got[2].decode())
        return found

    return _drain


@pytest.fixture
def count(channel: BlockingChannel) -> Any:
    return lambda queue: channel.queue_declare(queue, passive=True).method.message_count


@pytest.fixture
def fetch(channel: BlockingChannel, until: Any) -> Any:
    """Wait for a message and take it: dead letters travel in the background."""

    def _fetch(queue: str, *, auto_ack: bool = True) -> Any:
        got = []
        until(lambda: got.append(channel.basic_get(queue, auto_ack=auto_ack)) or got[-1][0] is not None, expected=True)
        return got[-1]

    return _fetch


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_drop_head_keeps_the_youngest(declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(max_length=3)
    assert publish(queue, range(10)) == []
    assert drain(queue) == ["7", "8", "9"]


def test_reject_publish_keeps_the_oldest_and_nacks_the_rest(declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(max_length=3, overflow="reject-publish")
    assert publish(queue, range(10)) == [3, 4, 5, 6, 7, 8, 9]
    assert drain(queue) == ["0", "1", "2"]


def test_reject_publish_dlx_also_dead_letters_what_it_refuses(
    declare: Any, publish: Any, drain: Any, until: Any, count: Any
) -> None:
    dead = declare()
    queue = declare(max_length=3, overflow="reject-publish-dlx", dead_letter_exchange="", dead_letter_routing_key=dead)
    assert publish(queue, range(10)) == [3, 4, 5, 6, 7, 8, 9]
    until(lambda: count(dead), 7)
    assert drain(dead) == ["3", "4", "5", "6", "7", "8", "9"]
    assert drain(queue) == ["0", "1", "2"]


def test_drop_head_dead_letters_what_it_drops(declare: Any, publish: Any, drain: Any, until: Any, count: Any) -> None:
    dead = declare()
    queue = declare(max_length=2, dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(queue, range(5))
    until(lambda: count(dead), 3)
    assert drain(dead) == ["0", "1", "2"]
    assert drain(queue) == ["3", "4"]


def test_a_bound_in_bytes_counts_bodies_only(declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(max_length_bytes=30)
    publish(queue, [bytes([65 + i]) * 10 for i in range(5)], headers={"padding": "x" * 100})
    assert drain(queue) == ["C" * 10, "D" * 10, "E" * 10]


def test_a_bound_in_bytes_rejects_what_does_not_fit(declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(max_length_bytes=25, overflow="reject-publish")
    bodies = [b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 5]
    assert publish(queue, bodies) == [b"c" * 10]
    assert drain(queue) == ["a" * 10, "b" * 10, "d" * 5]


def test_unacknowledged_messages_do_not_count_for_the_bound(
    channel: BlockingChannel, declare: Any, publish: Any, drain: Any
) -> None:
    queue = declare(max_length=2, overflow="reject-publish")
    publish(queue, [0, 1])
    channel.basic_get(queue)
    assert publish(queue, [2, 3]) == [3]
    assert drain(queue) == ["1", "2"]


def test_a_length_of_zero_with_a_waiting_consumer_hands_over_directly(
    channel: BlockingChannel, connection: BlockingConnection, declare: Any, publish: Any, subscribe: Any, collect: Any
) -> None:
    queue = declare(max_length=0)
    inbox = subscribe(connection.channel(), queue, auto_ack=True)
    publish(queue, [1])
    assert len(collect(channel, inbox, 1)) == 1


def test_a_length_of_zero_drops_what_nobody_waits_for(declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(max_length=0)
    publish(queue, [1])
    assert drain(queue) == []


def test_a_fanout_is_nacked_when_one_of_its_queues_rejects(
    channel: BlockingChannel, name: Callable[[], str], declare: Any, count: Any
) -> None:
    exchange, full, roomy = name(), declare(max_length=0, overflow="reject-publish"), declare()
    channel.exchange_declare(exchange, "fanout")
    for queue in (full, roomy):
        channel.queue_bind(queue, exchange, "")
    with pytest.raises(NackError):
        channel.basic_publish(exchange, "", b"x")
    assert (count(full), count(roomy)) == (0, 1)


def test_a_requeue_beyond_the_bound_drops_the_head(
    channel: BlockingChannel, declare: Any, publish: Any, drain: Any
) -> None:
    queue = declare(max_length=2)
    publish(queue, [0, 1])
    tag = channel.basic_get(queue)[0].delivery_tag
    publish(queue, [2])
    channel.basic_nack(tag)
    assert drain(queue) == ["1", "2"]


# -- time to live ------------------------------------------------------------------------------------------------------


def test_a_message_expires_after_the_queues_ttl(declare: Any, publish: Any, until: Any, count: Any) -> None:
    queue = declare(message_ttl=50)
    publish(queue, range(3))
    assert until(lambda: count(queue), 0) == 0


def test_a_message_expires_after_its_own_ttl(declare: Any, publish: Any, until: Any, count: Any) -> None:
    queue = declare()
    publish(queue, [0], expiration="50")
    assert until(lambda: count(queue), 0) == 0


def test_the_shorter_ttl_rules(declare: Any, publish: Any, until: Any, count: Any) -> None:
    queue = declare(message_ttl=600_000)
    publish(queue, [0], expiration="50")
    assert until(lambda: count(queue), 0) == 0


def test_a_message_behind_one_that_lives_longer_waits_for_it(
    channel: BlockingChannel, declare: Any, publish: Any, drain: Any, count: Any
) -> None:
    queue = declare()
    publish(queue, ["long"], expiration="600000")
    publish(queue, ["short"], expiration="1")
    time.sleep(0.1)
    assert count(queue) == 2
    assert drain(queue) == ["long"]


def test_a_ttl_of_zero_expires_what_nobody_waits_for(declare: Any, publish: Any, count: Any) -> None:
    queue = declare(message_ttl=0)
    publish(queue, [1])
    assert count(queue) == 0


def test_a_ttl_of_zero_still_reaches_a_waiting_consumer(
    channel: BlockingChannel, connection: BlockingConnection, declare: Any, publish: Any, subscribe: Any, collect: Any
) -> None:
    queue = declare(message_ttl=0)
    inbox = subscribe(connection.channel(), queue, auto_ack=True)
    publish(queue, [1])
    assert len(collect(channel, inbox, 1)) == 1


@pytest.mark.parametrize(
    ("expiration", "problem"),
    [
        ("soon", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("1.5", '{leftover_string,".5"}'),
        ("99999999999999", "{value_too_large,99999999999999}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_an_expiration_that_is_not_a_time_is_refused(
    channel: BlockingChannel, queue: str, refused: Any, expiration: str, problem: str
) -> None:
    with refused(406, f"PRECONDITION_FAILED - invalid expiration '{expiration}': {problem}"):
        channel.basic_publish("", queue, b"x", BasicProperties(expiration=expiration))


# -- dead letters ------------------------------------------------------------------------------------------------------


def test_a_rejected_message_is_dead_lettered_with_its_history(
    channel: BlockingChannel, name: Callable[[], str], declare: Any, fetch: Any
) -> None:
    exchange, dead = name(), declare()
    channel.exchange_declare(exchange, "direct")
    channel.queue_bind(dead, exchange, "bad")
    queue = declare(dead_letter_exchange=exchange, dead_letter_routing_key="bad")
    before = int(time.time())
    channel.basic_publish("", queue, b"x", BasicProperties(headers={"mine": 1}, message_id="7", delivery_mode=2))
    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    method, properties, body = fetch(dead)
    assert (method.exchange, method.routing_key, body) == (exchange, "bad", b"x")
    assert (properties.message_id, properties.delivery_mode, properties.headers["mine"]) == ("7", 2, 1)
    (death,) = properties.headers["x-death"]
    died_at = death.pop("time")
    assert death == {"reason": "rejected", "count": 1, "queue": queue, "exchange": "", "routing-keys": [queue]}
    assert abs(died_at.timestamp() - before) <= 5
    assert properties.headers["x-first-death-reason"] == "rejected"
    assert properties.headers["x-first-death-queue"] == queue
    assert properties.headers["x-first-death-exchange"] == ""


def test_without_a_dead_letter_key_the_messages_own_is_kept(
    channel: BlockingChannel, name: Callable[[], str], declare: Any, fetch: Any
) -> None:
    exchange, dead = name(), declare()
    channel.exchange_declare(exchange, "fanout")
    channel.queue_bind(dead, exchange, "")
    queue = declare(dead_letter_exchange=exchange)
    channel.basic_publish("", queue, b"x")
    channel.basic_nack(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    assert fetch(dead)[0].routing_key == queue


def test_an_expired_message_is_dead_lettered_without_its_expiration(declare: Any, publish: Any, fetch: Any) -> None:
    dead = declare()
    queue = declare(dead_letter_exchange="", dead_letter_routing_key=dead)
    publish(queue, [1], expiration="20")
    properties = fetch(dead)[1]
    assert properties.expiration is None
    (death,) = properties.headers["x-death"]
    assert (death["reason"], death["original-expiration"]) == ("expired", "20")


def test_a_second_death_in_the_same_queue_counts_up(
    broker: Any, channel: BlockingChannel, declare: Any, fetch: Any
) -> None:
    dead = declare()
    queue = declare(dead_letter_exchange="", dead_letter_routing_key=dead)
    channel.basic_publish("", queue, b"x")
    for expected in broker.since_4("x-death of a client", (1, 1, 1), before=(1, 2, 3)):
        channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
        _, properties, body = fetch(dead)
        (death,) = properties.headers["x-death"]
        assert death["count"] == expected
        channel.basic_publish("", queue, body, properties)


def test_the_latest_death_comes_first(broker: Any, channel: BlockingChannel, declare: Any, fetch: Any) -> None:
    last = declare()
    middle = declare(dead_letter_exchange="", dead_letter_routing_key=last, message_ttl=1)
    queue = declare(dead_letter_exchange="", dead_letter_routing_key=middle)
    channel.basic_publish("", queue, b"x")
    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    headers = fetch(last)[1].headers
    assert [(d["queue"], d["reason"]) for d in headers["x-death"]] == [(middle, "expired"), (queue, "rejected")]
    assert (headers["x-first-death-queue"], headers["x-first-death-reason"]) == (queue, "rejected")
    last_death = [headers.get(f"x-last-death-{part}") for part in ("queue", "reason", "exchange")]
    assert last_death == broker.since_4("the last death", [middle, "expired", ""], before=[None] * 3)


def test_a_history_goes_on_within_the_broker(
    channel: BlockingChannel, name: Callable[[], str], declare: Any, fetch: Any
) -> None:
    queue, delay = name(), name()
    for one, other, more in ((queue, delay, {}), (delay, queue, {"x-message-ttl": 1})):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": other, **more}
        channel.queue_declare(one, arguments=arguments)
    channel.basic_publish("", queue, b"x")
    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    for expected in (1, 2, 3):
        method, properties, _ = fetch(queue, auto_ack=False)
        told = [(death["queue"], death["reason"], death["count"]) for death in properties.headers["x-death"]]
        assert told == [(delay, "expired", expected), (queue, "rejected", expected)]
        channel.basic_reject(method.delivery_tag, requeue=False)


@pytest.mark.parametrize("header", ["x-first-death-queue", "x-last-death-reason"])
def test_what_a_publisher_says_of_first_and_last_death_is_overwritten(
    broker: Any, channel: BlockingChannel, declare: Any, fetch: Any, header: str
) -> None:
    dead = declare()
    queue = declare(dead_letter_exchange="", dead_letter_routing_key=dead)
    forged = {"x-death": "nonsense", header: "mine", "other": 1}
    channel.basic_publish("", queue, b"x", BasicProperties(headers=forged))
    method, properties, _ = channel.basic_get(queue)
    assert properties.headers == forged
    channel.basic_reject(method.delivery_tag, requeue=False)
    headers = fetch(dead)[1].headers
    true = queue if header.endswith("queue") else "rejected"
    assert headers[header] == broker.since_4("x-death of a client", true, before="mine")
    assert ([death["count"] for death in headers["x-death"]], headers["other"]) == ([1], 1)


def test_a_circle_without_a_rejection_ends(
    channel: BlockingChannel, name: Callable[[], str], count: Any, until: Any
) -> None:
    one, two = name(), name()
    for queue, other in ((one, two), (two, one)):
        channel.queue_declare(
            queue,
            arguments={"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": other},
        )
    channel.basic_publish("", one, b"x")
    assert until(lambda: count(one) + count(two), 0) == 0


def test_a_queue_that_is_its_own_dead_letter_queue_lets_go_of_what_expires(
    channel: BlockingChannel, name: Callable[[], str], janitor: Any, until: Any
) -> None:
    queue = name()
    arguments = {"x-message-ttl": 20, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
    channel.queue_declare(queue, arguments=arguments)
    channel.basic_publish("", queue, b"x")
    assert until(lambda: channel.queue_declare(queue, passive=True).method.message_count, 0) == 0


def test_a_retry_through_a_delay_queue_with_the_received_headers_goes_on_forever(
    channel: BlockingChannel, name: Callable[[], str], fetch: Any
) -> None:
    work, delay = name(), name()
    channel.queue_declare(work)
    channel.queue_declare(
        delay, arguments={"x-message-ttl": 5, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": work}
    )
    channel.basic_publish("", work, b"x")
    for _ in range(4):
        _, properties, body = fetch(work)
        channel.basic_publish("", delay, body, properties)
    assert fetch(work)[2] == b"x"


FORGED = {
    "the source stands in it": ([("{queue}", "expired")], [("{queue}", "expired", 2)]),
    "the destination stands in it": ([("{dead}", "expired")], None),
    "a consumer rejected it there": (
        [("{dead}", "rejected")],
        [("{queue}", "expired", 1), ("{dead}", "rejected", 1)],
    ),
    "it stands there behind a rejection, and several entries are turned round": (
        [("x", "rejected"), ("{dead}", "expired")],
        None,
    ),
    "it stands there before a rejection": (
        [("{dead}", "expired"), ("x", "rejected")],
        [("{queue}", "expired", 1), ("x", "rejected", 1), ("{dead}", "expired", 1)],
    ),
    "several others": (
        [("a", "expired"), ("b", "rejected"), ("c", "maxlen")],
        [("{queue}", "expired", 1), ("c", "maxlen", 1), ("b", "rejected", 1), ("a", "expired", 1)],
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_history_that_a_publisher_sends_decides_where_the_dead_letter_may_go(
    broker: Any, channel: BlockingChannel, declare: Any, fetch: Any, case: str
) -> None:
    dead = declare()
    queue = declare(dead_letter_exchange="", dead_letter_routing_key=dead, message_ttl=5)
    sent, expected = FORGED[case]
    deaths = [{"queue": q.format(queue=queue, dead=dead), "reason": r, "count": 1} for q, r in sent]
    channel.basic_publish("", queue, b"forged", BasicProperties(headers={"x-death": deaths}))
    channel.basic_publish("", queue, b"plain")
    found = fetch(dead)
    expected = broker.since_4("x-death of a client", [("{queue}", "expired", 1)], before=expected)
    if expected is not None:
        assert found[2] == b"forged"
        history = [(d["queue"], d["reason"], d["count"]) for d in found[1].headers["x-death"]]
        assert history == [(q.format(queue=queue, dead=dead), r, n) for q, r, n in expected]
    else:
        assert found[2] == b"plain"


def test_a_dead_letter_exchange_that_does_not_exist_loses_the_message(channel: BlockingChannel, declare: Any) -> None:
    queue = declare(dead_letter_exchange="contract.missing")
    channel.basic_publish("", queue, b"x")
    channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)
    assert channel.basic_get(queue)[0] is None


def test_ten_years_are_the_longest_times(channel: BlockingChannel, declare: Any, publish: Any, drain: Any) -> None:
    queue = declare(message_ttl=315_360_000_000, expires=315_360_000_000)
    publish(queue, [1], expiration="315360000000")
    assert drain(queue) == ["1"]


@pytest.mark.parametrize("key", ["x-dead-letter-exchange", "x-dead-letter-routing-key"])
def test_a_dead_letter_name_that_fits_into_no_frame_is_refused_when_it_is_declared(
    broker: Any, channel: BlockingChannel, name: Callable[[], str], refused: Any, key: str
) -> None:
    queue, arguments = name(), {"x-dead-letter-exchange": "", key: "k" * 256}
    refusal = f"PRECONDITION_FAILED - invalid arg '{key}' for queue '{queue}' in vhost '/': more than 255 octets"
    with broker.by_kind(
        "dead-letter names that do not fit", embedded=refused(406, refusal), rabbitmq=contextlib.nullcontext()
    ):
        channel.queue_declare(queue, arguments=arguments)


def test_a_dead_letter_key_of_255_octets_is_used(
    channel: BlockingChannel, declare: Any, publish: Any, fetch: Any
) -> None:
    dead = declare()
    channel.queue_bind(dead, "amq.direct", "k" * 255)
    queue = declare(dead_letter_exchange="amq.direct", dead_letter_routing_key="k" * 255, max_length=0)
    publish(queue, [1])
    assert fetch(dead)[0].routing_key == "k" * 255
