"""The real scripts on a queue that somebody else's client has declared: it is paced, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from pika import BlockingConnection, URLParameters

from backpressure.transports.rabbitmq_node import find_rabbitmq, private_node

pytestmark = pytest.mark.slow

Wait = Callable[[Callable[[], object], str], None]


@pytest.fixture(scope="module", params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def any_broker(request: pytest.FixtureRequest, go_without: Callable[[str, str], NoReturn]) -> Iterator[Any]:
    """The embedded broker, and a private RabbitMQ node."""
    if request.param == "embedded":
        yield request.getfixturevalue("broker")
        return
    if find_rabbitmq() is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")
    with private_node() as node:
        yield node


def definitions(broker: Any) -> list[str]:
    """Return everything that somebody has declared on the broker, as the management API exports it."""
    answer = httpx.get(f"{broker.management_url}/api/definitions", auth=("guest", "guest"), trust_env=False, timeout=60)
    parts = answer.raise_for_status().json()
    return sorted(str(entry) for part in ("queues", "exchanges", "bindings", "policies") for entry in parts[part])


def depth(broker: Any, queue: str) -> int:
    connection = BlockingConnection(URLParameters(broker.url))
    count = connection.channel().queue_declare(queue, passive=True).method.message_count
    connection.close()
    return int(count)


@pytest.fixture
def orders(any_broker: Any) -> Iterator[str]:
    """A quorum queue (where the broker has them) with a time to live, bound to a topic exchange."""
    connection = BlockingConnection(URLParameters(any_broker.url))
    channel = connection.channel()
    channel.exchange_declare("shop", "topic", durable=True)
    arguments = {"x-message-ttl": 3_600_000, "x-queue-type": "quorum"}
    channel.queue_declare("orders", durable=True, arguments=arguments)
    channel.queue_bind("orders", "shop", "order.*")
    channel.exchange_declare("news", "fanout", durable=True)
    channel.queue_bind("orders", "news")
    channel.basic_publish("shop", "order.old", b"theirs")
    yield "orders"
    channel.queue_delete("orders")
    channel.exchange_delete("shop")
    channel.exchange_delete("news")
    connection.close()


def test_producer_and_consumer_share_a_queue_that_a_foreign_client_declared(
    start: Any, any_broker: Any, orders: str, wait_until: Wait
) -> None:
    before = definitions(any_broker)
    where = ("--url", any_broker.url, "--queue", orders, "--predeclared")
    api = {"PACE_BROKER__MANAGEMENT_URL": any_broker.management_url}
    consumer = start("slow_consumer.py", *where, "--no-api", "--rate", "200", "--expect", "101", **api)
    consumer.says("orders.dlq")  # says what becomes of a message that fails too often
    to = ("--exchange", "shop", "--routing-key", "order.new", "--count", "100")
    producer = start("fast_producer.py", *where, *to, "--no-api", **api)
    assert producer.ends() == 0, producer.text
    assert "confirmed=100, rejected=0, returned=0" in producer.text
    assert consumer.ends() == 0, consumer.text
    assert "consumed=101" in consumer.text  # theirs, and ours
    wait_until(lambda: definitions(any_broker) == before, "the definitions are as they were")
    wait_until(lambda: depth(any_broker, orders) == 0, "the queue is empty")


def test_without_an_exchange_the_queue_is_reached_by_its_name(
    start: Any, any_broker: Any, orders: str, wait_until: Wait
) -> None:
    where = ("--url", any_broker.url, "--queue", orders, "--predeclared")
    producer = start("fast_producer.py", *where, "--count", "5", "--no-api", "--strategy", "unbounded")
    assert producer.ends() == 0, producer.text
    assert "confirmed=5, rejected=0, returned=0" in producer.text
    wait_until(lambda: depth(any_broker, orders) == 6, "the queue holds theirs and ours")


def test_a_job_whose_messages_come_back_does_not_end_as_if_it_had_delivered_them(
    start: Any, any_broker: Any, orders: str
) -> None:
    where = ("--url", any_broker.url, "--queue", orders, "--predeclared", "--count", "3", "--no-api")
    lost = start("fast_producer.py", *where, "--exchange", "shop", "--routing-key", "elsewhere")
    assert lost.ends() == 4, lost.text
    assert "3 of 3 messages were returned: no queue is bound for them" in lost.text
    assert "Traceback" not in lost.text
    unkeyed = start("fast_producer.py", *where, "--exchange", "shop", "--routing-key", "")
    assert unkeyed.ends() == 4, unkeyed.text
    assert "exchange shop (key '')" in unkeyed.text
    fanned_out = start("fast_producer.py", *where, "--exchange", "news", "--routing-key", "")
    assert fanned_out.ends() == 0, fanned_out.text
    assert "confirmed=3, rejected=0, returned=0" in fanned_out.text


def test_mistakes_end_in_one_line_and_leave_nothing_behind(
    start: Any, any_broker: Any, orders: str, wait_until: Wait
) -> None:
    before = definitions(any_broker)
    for script, flags, named in (
        ("fast_producer.py", ("--queue", "order", "--predeclared"), "queue 'order' does not exist: --predeclared"),
        ("slow_consumer.py", ("--queue", "order", "--predeclared"), "queue 'order' does not exist: --predeclared"),
        ("fast_producer.py", ("--queue", orders, "--predeclared", "--exchange", "shap"), "exchange 'shap' does not"),
        ("fast_producer.py", ("--queue", orders, "--predeclared", "--purge"), "producer.purge"),
        ("fast_producer.py", ("--queue", orders), "1. to use it as it is and declare nothing: --predeclared"),
        ("cleanup", ("--yes",), "queue.predeclared"),
    ):
        settings = {"PACE_QUEUE__PREDECLARED": "true"} if script == "cleanup" else {}
        failed = start(script, "--url", any_broker.url, *flags, **settings)
        assert failed.ends() in {2, 3}, failed.text
        assert named in failed.text
        assert "Traceback" not in failed.text
    assert definitions(any_broker) == before
    wait_until(lambda: depth(any_broker, orders) == 1, "the queue holds what it held")


def test_the_doctor_and_a_read_only_check_change_nothing(
    start: Any, any_broker: Any, orders: str, wait_until: Wait
) -> None:
    where = ("--url", any_broker.url, "--queue", orders, "--predeclared")
    paused = {"PACE_PRODUCER__START_PAUSED": "true"}
    producer = start("fast_producer.py", *where, "--api-port", "0", **paused)
    url = producer.says(r"control API (http://\S+)")[1]
    before = definitions(any_broker)
    check = start("check", "--read-only", "--url", url, "--consumer-url", "", "--monitor-url", "")
    assert check.ends() == 0, check.text
    assert "producer metrics" in check.text
    assert "single message" not in check.text
    doctor = start(
        "doctor", "--url", any_broker.url, PACE_QUEUE__WORK=orders, PACE_QUEUE__PREDECLARED="true", COLUMNS="300"
    )
    doctor.ends()
    assert "orders exists, and is used as it is" in doctor.text
    assert definitions(any_broker) == before
    wait_until(lambda: depth(any_broker, orders) == 1, "the queue holds what it held")
    answer = httpx.post(f"{url}/admin/config", json={"max_queue_size": 5}, trust_env=False, timeout=60)
    assert answer.status_code == 409
    assert "whoever declared it" in answer.json()["detail"]
    assert httpx.post(f"{url}/admin/clear-queue", trust_env=False, timeout=60).status_code == 409


RUN = """
name = "orders"
summary = "A short run on a queue of others."
producer.rate = 200
producer.limit = 100
consumer.rate = 400
[[phase]]
name = "all"
duration_s = 60
until = "consumed"
"""


def test_a_run_uses_an_empty_queue_as_it_is_and_refuses_one_in_use(
    start: Any, any_broker: Any, orders: str, tmp_path: Path, wait_until: Wait
) -> None:
    scenario = tmp_path / "orders.toml"
    scenario.write_text(RUN)
    flags = ("--broker", any_broker.url, "--predeclared", orders)
    before = definitions(any_broker)
    refused = start("run", str(scenario), *flags)
    assert refused.ends() == 3, refused.text
    assert "queue 'orders' is in use" in " ".join(refused.text.split())
    assert definitions(any_broker) == before
    wait_until(lambda: depth(any_broker, orders) == 1, "the queue holds what it held")
    with BlockingConnection(URLParameters(any_broker.url)) as connection:
        connection.channel().queue_purge(orders)
    done = start("run", str(scenario), *flags)
    assert done.ends() == 0, done.text
    assert "confirmed 100" in done.text
    assert "lost 0" in done.text
    wait_until(lambda: definitions(any_broker) == before, "the definitions are as they were")


def test_a_run_takes_its_own_messages_back_and_leaves_those_of_others(
    start: Any, any_broker: Any, orders: str, tmp_path: Path, wait_until: Wait
) -> None:
    scenario = tmp_path / "orders.toml"
    scenario.write_text(
        RUN.replace('"consumed"', '"published"') + 'consumer.count = 0\nproducer.strategy = "unbounded"\n'
    )
    connection = BlockingConnection(URLParameters(any_broker.url))
    channel = connection.channel()
    channel.queue_purge(orders)
    run = start("run", str(scenario), "--broker", any_broker.url, "--predeclared", orders)
    wait_until(lambda: depth(any_broker, orders) > 0, "the run has begun")
    channel.basic_publish("shop", "order.new", b"theirs")
    connection.close()
    assert run.ends() in {0, 1}, run.text
    assert "left in queue 100" in run.text
    assert "lost 0" in run.text
    wait_until(lambda: depth(any_broker, orders) == 1, "theirs is still there")


@pytest.mark.parametrize("flags", [(), ("--broker", "kafka"), ("--broker", "kafka://127.0.0.1:1")])
def test_a_run_on_a_predeclared_queue_needs_the_url_of_a_rabbitmq(start: Any, flags: tuple[str, ...]) -> None:
    refused = start("run", "normal", "--predeclared", "orders", *flags)
    assert refused.ends() == 2, refused.text
    assert "queue.predeclared" in refused.text


def test_a_monitor_shows_a_queue_of_others_and_creates_nothing(
    start: Any, any_broker: Any, orders: str, tmp_path: Path, wait_until: Wait
) -> None:
    connection = BlockingConnection(URLParameters(any_broker.url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=7)
    channel.basic_consume(orders, lambda *_: None)  # takes the message, and never acknowledges it
    api = f"{any_broker.management_url}/api/consumers"
    wait_until(lambda: httpx.get(api, auth=("guest", "guest"), trust_env=False, timeout=60).json(), "it is listed")
    before = definitions(any_broker)
    where = ("--url", any_broker.url, "--host", any_broker.management_url)
    once = start("monitor.py", *where, "--once", "--queue", "orders*", "--queue", "ordres", COLUMNS="100")
    assert once.ends() == 3, once.text
    assert "error: not shown: ordres" in once.text
    assert "orders (quorum)" in once.text or "orders (classic)" in once.text
    assert "1 with prefetch 7, manual ack" in once.text
    assert "ordres cannot be shown: queue 'ordres' does not exist. Is it orders?" in once.text
    assert definitions(any_broker) == before
    announced = tmp_path / "monitor.json"
    monitor = start(
        "monitor.py", *where, "--queue", orders, "--port", "0", "--no-ui", PACE_PROCESS__ANNOUNCE_FILE=str(announced)
    )
    url = monitor.says(r"live page and metrics at (http://\S+)")[1]

    def told() -> bool:
        connection.process_data_events(0)
        return 'pace_queue_consumer_terms{ack="manual",prefetch="7",queue="orders"} 1.0' in metrics()

    def metrics() -> str:
        return httpx.get(f"{url}metrics", trust_env=False, timeout=60).text

    wait_until(told, "the metrics tell the consumer's terms")
    assert 'pace_queue_expected_wait_seconds{queue="orders"}' in metrics()
    seen = httpx.get(f"{url}api/snapshot", trust_env=False, timeout=60).json()
    assert seen["asked"] == ["orders"]
    assert seen["queues"]["orders"]["outlook"]["statistics_age_s"] > 0
    assert definitions(any_broker) == before
    connection.close()
