"""What consumers hold of a queue whose own counts are seconds old, from the counters of their channels.

A quorum queue counts once in five seconds. But every channel counts each delivery and each acknowledgement at once, and
the plugin ``rabbitmq_prometheus`` tells these counters as they are:

    unacked = Σ deliveries that need an acknowledgement − Σ acknowledgements, over the channels that are open

This misses what was rejected or requeued, and channels on nodes that are not asked. So each of the queue's own counts
is compared with what the channels told at its moment. While the two differ, the channels are not believed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from math import inf
from typing import Self
from urllib.parse import quote, unquote

from backpressure.core.addresses import BrokerAddress, bracketed
from backpressure.core.evidence import Steps
from backpressure.core.filters import Timeline
from backpressure.settings import BrokerSettings
from backpressure.transports.http_client import HttpClient, NoAnswerError

__all__ = ["LiveCounters", "unacked_of"]

_AMQP_PORT, _PORT = 5672, 15692
_COST = 20  # it is asked again after this many times as long as its answers take
_LONGEST_S = 0.1  # with longer answers, the counters would be read too rarely
_PATIENCE_S = 1.0
_AGAIN_S = 30.0
_HISTORY_S = 30.0
_AROUND_S = 0.3
_TOLERANCE = 2.0
_TOLERANCE_PART = 0.25
_BELIEVED = 1
_MOST_BELIEVED = 2
_LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_OK = 200


class LiveCounters:
    """Reads the counters of one queue, and knows whether to believe them."""

    def __init__(self, nodes: Sequence[HttpClient], virtual_host: str, queue: str) -> None:
        """``nodes`` are those that clients may be connected to."""
        self._nodes = nodes
        self._path = f"/metrics/detailed?family=channel_queue_metrics&vhost={quote(virtual_host, safe='')}"
        self._queue = queue
        self._told = Timeline(_HISTORY_S)
        self._told_from = inf
        self._steps = Steps()
        self._compared = -inf
        self._belief = _BELIEVED
        self._ask_at = -inf if nodes else inf

    @classmethod
    def of(cls, broker: BrokerSettings, queue: str) -> Self:
        """Return those of a queue of ``broker``.

        Where its nodes have the plugin is guessed for brokers on the default port, like the management API. The
        broker's password is not for the plugin, which asks for none unless told to.
        """
        nodes: list[HttpClient] = []
        if broker.prometheus_url:
            url = BrokerAddress.parse(broker.prometheus_url.rstrip("/"))
            for host, port in url.servers:
                address = f"{url.scheme}://{bracketed(host)}:{_PORT if port is None else port}{url.path}"
                nodes.append(HttpClient(address, url.username, url.password, timeout_s=_PATIENCE_S))
        elif broker.parts().scheme == "amqp" and all(port == _AMQP_PORT for _, port in broker.servers()):
            for host, _ in broker.servers():
                nodes.append(HttpClient(f"http://{bracketed(host)}:{_PORT}", "", "", timeout_s=_PATIENCE_S))
        return cls(nodes, unquote(broker.parts().path[1:]) or "/", queue)

    async def unacked(self) -> tuple[int, float] | None:
        """Return how many messages consumers hold, and when; None: not known, not believed, or it is too early."""
        asked_at = time.monotonic()
        if asked_at < self._ask_at:
            return None
        lines: list[str] = []
        for node in self._nodes:
            try:
                answer = await node.request("GET", self._path)
            except NoAnswerError:
                answer = None
            if answer is None or answer.status != _OK:
                self._ask_at = time.monotonic() + _AGAIN_S
                return None
            lines += answer.content.decode("utf-8", "replace").splitlines()
        answered_at = time.monotonic()
        took_s = answered_at - asked_at
        self._ask_at = asked_at + _COST * took_s if took_s <= _LONGEST_S * len(self._nodes) else answered_at + _AGAIN_S
        found = unacked_of(lines, self._queue)
        if found is None:
            return None
        counted_at = (asked_at + answered_at) / 2
        self._told.record(counted_at, found)
        self._told_from = min(self._told_from, counted_at)
        return (found, counted_at) if self._belief >= _BELIEVED else None

    def compare(self, ready: int, unacked: int, arrived_s: float) -> None:
        """Take in the queue's own count, as it was told at ``arrived_s``; unchanged ones too."""
        moment_s = self._steps.see((ready, unacked), arrived_s)
        if moment_s is None or moment_s <= self._compared or moment_s - _AROUND_S < self._told_from:
            return
        if arrived_s - moment_s < _AROUND_S:
            return  # what came after it is not told yet
        self._compared = moment_s
        around = [self._told.at(moment_s + shift_s) for shift_s in (-_AROUND_S, 0.0, _AROUND_S)]
        room = _TOLERANCE + _TOLERANCE_PART * max(around)
        agrees = min(around) - room <= unacked <= max(around) + room
        self._belief = max(0, min(_MOST_BELIEVED, self._belief + (1 if agrees else -1)))

    async def close(self) -> None:
        """Close the connections."""
        for node in self._nodes:
            await node.close()


def unacked_of(lines: Iterable[str], queue: str) -> int | None:
    """Return deliveries minus acknowledgements of ``queue`` in a text of metrics; None where no channel has any."""
    signs = {
        "rabbitmq_detailed_channel_messages_delivered_ack_total": 1,
        "rabbitmq_detailed_channel_get_ack_total": 1,
        "rabbitmq_detailed_channel_messages_acked_total": -1,
    }
    total, found = 0.0, False
    for line in lines:
        name, brace, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        if not brace or name not in signs or dict(_LABELS.findall(labels)).get("queue") != _escaped(queue):
            continue
        try:
            total += signs[name] * float(value)
        except ValueError:
            return None
        found = True
    return max(0, round(total)) if found else None


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
