"""Which broker a run uses, and with which names."""

from __future__ import annotations

import asyncio

import pytest

from backpressure.errors import ConfigError
from backpressure.experiments import library
from backpressure.experiments.brokers import RunBroker, parse_choice
from backpressure.experiments.cluster import KafkaBrokers
from backpressure.transports.kafka_node import PrivateKafka


@pytest.mark.parametrize("text", ["embedded", "rabbitmq"])
def test_private_brokers_are_named(text: str) -> None:
    assert (parse_choice(text).kind, parse_choice(text).label) == (text, text)


def test_a_cluster_is_named_with_its_nodes_and_has_quorum_queues_unless_told_otherwise() -> None:
    choice = parse_choice("rabbitmq:3")
    assert (choice.kind, choice.nodes, choice.label) == ("rabbitmq", 3, "rabbitmq:3")
    assert library.load("normal", defaults=choice.defaults).settings.queue.type == "quorum"
    assert library.load("normal", ("queue.type=classic",), defaults=choice.defaults).settings.queue.type == "classic"
    assert library.load("normal", defaults=parse_choice("rabbitmq").defaults).settings.queue.type == "classic"


def test_on_kafka_as_many_consumers_can_share_the_queue_as_the_scenario_has() -> None:
    choice = parse_choice("kafka:3")
    assert (choice.nodes, choice.label) == (3, "kafka:3")
    assert library.load("scale-consumers", defaults=choice.defaults).settings.queue.partitions == 3
    assert library.load("normal", ("queue.partitions=7",), defaults=choice.defaults).settings.queue.partitions == 7


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, ["stop 1"]), (2, ["stop 2", "kill 1"]), (3, ["stop 3", "stop 2", "kill 1"])],
)
def test_kafka_brokers_that_no_majority_lets_go_are_not_waited_for(size: int, expected: list[str]) -> None:
    said: list[str] = []

    class Broker(PrivateKafka):
        def __init__(self, number: int) -> None:
            super().__init__(0, None)
            self.number = number

        async def stop(self) -> None:
            said.append(f"stop {self.number}")

        def kill(self) -> None:
            said.append(f"kill {self.number}")

    asyncio.run(KafkaBrokers([Broker(number) for number in range(1, size + 1)]).stop())
    assert said == expected


@pytest.mark.parametrize("text", ["rabbitmq:", "rabbitmq:0", "rabbitmq:8", "kafka:two", "embedded:3"])
def test_a_cluster_of_an_impossible_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"embedded has no cluster|expected (rabbitmq|kafka):3, with 1 to 7 nodes"):
        parse_choice(text)


def test_a_url_is_a_shared_broker_and_its_password_is_not_shown() -> None:
    choice = parse_choice("amqp://user:secret@example.org:5673/lab")
    assert choice.kind == "external"
    assert choice.url == "amqp://user:secret@example.org:5673/lab"
    assert choice.label == "amqp://example.org:5673/lab"


@pytest.mark.parametrize(
    ("text", "hint"),
    [("rabitmq", "did you mean rabbitmq"), ("nats", "expected embedded"), ("http://u:secret@x", "expected embedded")],
)
def test_anything_else_is_refused_without_repeating_a_password(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        parse_choice(text)
    assert "secret" not in str(caught.value)


def test_on_a_private_broker_names_are_the_usual_ones() -> None:
    keys = RunBroker("amqp://localhost", "http://localhost", private=True).settings("run-1")
    assert set(keys) == {"broker.url", "broker.management_url"}


def test_on_a_shared_broker_every_name_belongs_to_the_run() -> None:
    keys = RunBroker("amqp://localhost", "", private=False).settings("run-1")
    names = {key: value for key, value in keys.items() if not key.startswith("broker.")}
    assert set(names) == {"queue.exchange", "queue.work", "queue.dead_letter", "queue.audit", "feedback.exchange"}
    assert all("run-1" in str(name) for name in names.values())
    again = RunBroker("amqp://localhost", "", private=False).settings("run-1")
    assert not set(names.values()) & set(again.values())  # a folder elsewhere may have the same name
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("url", "given", "management_url"),
    [
        ("amqp://localhost", "", "http://localhost:15672"),
        ("amqp://localhost:5673", "", ""),
        ("amqp://localhost:5673", "http://localhost:1", "http://localhost:1"),
        ("kafka://a:9092,b:9092", "", ""),
    ],
)
def test_processes_behind_a_proxy_are_told_where_the_management_api_is(
    url: str, given: str, management_url: str
) -> None:
    assert RunBroker(url, given, private=False).settings("run-1")["broker.management_url"] == management_url


def test_a_predeclared_queue_of_a_shared_broker_keeps_its_names() -> None:
    keys = RunBroker("amqp://localhost", "", private=False).settings("run-1", predeclared=True)
    assert str(keys["feedback.exchange"]).startswith("pace.run-1.")
    assert not [key for key in keys if key.startswith("queue.")]
