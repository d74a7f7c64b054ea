"""What consumers hold, from the counters of their channels, and when these are not believed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backpressure.settings import Settings
from backpressure.transports.http_client import HttpAnswer, NoAnswerError
from backpressure.transports.rabbitmq import probe
from backpressure.transports.rabbitmq.probe import LiveCounters, unacked_of

METRICS = """\
# TYPE rabbitmq_detailed_channel_messages_acked_total counter
# HELP rabbitmq_detailed_channel_messages_acked_total Total number of messages acknowledged by consumers
rabbitmq_detailed_channel_messages_acked_total{channel="<0.9.0>",vhost="/",queue="q"} 61
rabbitmq_detailed_channel_messages_acked_total{channel="<0.8.0>",vhost="/",queue="q"} 5
rabbitmq_detailed_channel_messages_acked_total{channel="<0.8.0>",vhost="/",queue="other"} 400
rabbitmq_detailed_channel_messages_delivered_ack_total{channel="<0.9.0>",vhost="/",queue="q"} 70
rabbitmq_detailed_channel_messages_delivered_ack_total{channel="<0.8.0>",vhost="/",queue="q"} 9
rabbitmq_detailed_channel_get_ack_total{channel="<0.8.0>",vhost="/",queue="q"} 1
rabbitmq_detailed_channel_messages_delivered_total{channel="<0.9.0>",vhost="/",queue="q"} 1000
"""


def test_what_channels_hold_is_what_was_delivered_to_them_and_not_acknowledged() -> None:
    assert unacked_of(METRICS.splitlines(), "q") == 14
    assert unacked_of(METRICS.splitlines(), "nobody's") is None


def test_a_name_is_compared_as_it_is_written_in_metrics() -> None:
    line = r'rabbitmq_detailed_channel_get_ack_total{channel="<0.8.0>",vhost="/",queue="a\"b\\c"} 3'
    assert unacked_of([line], 'a"b\\c') == 3


@pytest.mark.parametrize("line", ["", "{", 'rabbitmq_detailed_channel_get_ack_total{queue="q"} many', "\ufffd{} 1"])
def test_what_is_no_metric_is_no_count(line: str) -> None:
    assert unacked_of([line], "q") is None


class Plugin:
    """Answers as it is told, in no time."""

    def __init__(self, *answers: HttpAnswer | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def request(self, _method: str, path: str) -> HttpAnswer:
        self.asked.append(path)
        answer = self.answers.pop(0)
        if answer is None:
            raise NoAnswerError("refused")
        return answer


def holding(unacked: int) -> HttpAnswer:
    name = "rabbitmq_detailed_channel_messages_delivered_ack_total"
    return HttpAnswer(200, f'{name}{{channel="<0.9.0>",vhost="/",queue="q"}} {unacked}\n'.encode())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    return clock


def counters(*plugins: Plugin) -> LiveCounters:
    nodes: Any = plugins
    return LiveCounters(nodes, "/", "q")


def test_all_nodes_are_asked_for_one_virtual_host(clock: Clock) -> None:
    plugins = Plugin(holding(3)), Plugin(holding(4))
    assert asyncio.run(counters(*plugins).unacked()) == (7, clock.now)
    assert plugins[0].asked == ["/metrics/detailed?family=channel_queue_metrics&vhost=%2F"]


@pytest.mark.parametrize("answer", [None, HttpAnswer(404), HttpAnswer(401)])
def test_where_the_plugin_is_not_is_looked_at_rarely(clock: Clock, answer: HttpAnswer | None) -> None:
    plugin = Plugin(answer, holding(1))
    live = counters(plugin)
    assert asyncio.run(live.unacked()) is None
    clock.now += 5
    assert asyncio.run(live.unacked()) is None
    assert len(plugin.asked) == 1
    clock.now += 30
    assert asyncio.run(live.unacked()) == (1, clock.now)


def believed(clock: Clock, held: int, counted: list[int]) -> list[bool]:
    """Whether counters that tell ``held`` are believed after each of the queue's own counts, five seconds apart."""
    live = counters(Plugin(*[holding(held)] * 10_000))
    believed = []
    for number in range(50 * len(counted)):
        clock.now += 0.1
        live.compare(number // 50 % 2, counted[number // 50], clock.now)  # ready changes, so that a count shows
        told = asyncio.run(live.unacked())
        if number % 50 == 49:
            believed.append(told is not None)
    return believed


def test_counters_that_differ_from_the_queues_own_counts_are_not_believed_until_they_agree_again(clock: Clock) -> None:
    assert believed(clock, 10, [10, 10, 11, 10]) == [True, True, True, True]
    assert believed(clock, 10, [60, 60, 60, 10, 10]) == [True, False, False, True, True]  # the first is of any age


def test_the_plugin_is_where_the_settings_say_or_beside_a_broker_on_the_default_port() -> None:
    def nodes(**broker: str) -> list[str]:
        live = LiveCounters.of(Settings.model_validate({"broker": broker}).broker, "q")
        return [node._address for node in live._nodes]

    assert nodes(url="amqp://a,b/") == ["http://a:15692", "http://b:15692"]
    assert nodes(url="amqp://a:5673/") == []
    assert nodes(url="kafka://a/") == []
    assert nodes(url="amqp://a:5673/", prometheus_url="https://m:99/x/") == ["https://m:99/x"]
