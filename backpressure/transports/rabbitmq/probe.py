"""Reading queue depths, ten times a second and more.

A passive declare tells ready messages and consumers, but not what consumers hold. The connection never publishes, so a
memory alarm does not block it.

What consumers hold is in the management API; for quorum queues, which count rarely, also in the counters of channels.
Where there is no API, or none for this user, the probe works without, and its readings say what is missing and what to
do. The API is asked no more often than its answers are cheap.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Self
from urllib.parse import quote, unquote

from backpressure.core.addresses import BrokerAddress, bracketed
from backpressure.core.evidence import ConsumerTerms, QueueStatistics, Steps
from backpressure.core.filters import Timeline
from backpressure.errors import (
    AccessRefusedError,
    AnotherBrokerError,
    BrokerUnavailableError,
    QueueNotFoundError,
    TransportError,
)
from backpressure.settings import BrokerSettings
from backpressure.transports.base import NamesItsBroker, QueueReading
from backpressure.transports.connecting import Outage
from backpressure.transports.http_client import HttpClient, NoAnswerError
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.management_models import ConsumerInfo, QueueTotals
from backpressure.transports.rabbitmq.link import RabbitMQRequests

_PATIENCE_S = 0.05  # what arrives later is used in the next reading
_COST = 20  # the pause before the next request, in times that the last answers took
_AMQP_PORT, _PORT = 5672, 15692
_LONGEST_S = 0.1  # with longer answers, the counters would be read too rarely
_NODE_PATIENCE_S = 1.0
_AGAIN_S = 30.0
_HISTORY_S = 30.0
_AROUND_S = 0.3
_TOLERANCE = 2.0
_TOLERANCE_PART = 0.25
_BELIEVED = 1
_MOST_BELIEVED = 2
_LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_OK = 200
_ANSWERS = 10
_TERMS_EVERY_S = 5.0
_ENTERED_EVERY_S = 1.0
_TERMS_AGAIN_S = 0.5
_RETRY_S = 10.0
_LEADERLESS_S = 0.5  # another one is elected soon
_LIVE_S = 3.0
_TOLD_FOR_S = 0.5  # several that read one queue all have it by then
_HOW_TO_SEE = "give broker.management_url and a user who may use the API (tag management), or let the consumers report"


class RabbitMQProbe:
    """A `QueueProbe`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._broker = broker
        self._name = name
        self._requests = RabbitMQRequests(broker, outage, name, timeout_s=broker.connect_timeout_s, switches=True)
        self._management: ManagementClient | None = None
        self._held: dict[str, _HeldByConsumers] = {}

    async def start(self) -> None:
        """See `QueueProbe.start`."""
        await self._requests.link.start()

    async def read(self, queue: str, *, exactly: bool = False) -> QueueReading:
        """See `QueueProbe.read`."""
        if not exactly:
            return await self._declare(queue)
        if queue not in self._held:
            self._management = self._management or ManagementClient.of(self._broker)
            live = LiveCounters.of(self._broker, queue)
            self._held[queue] = _HeldByConsumers(self._management, queue, live, self.owns)
        held = self._held[queue]
        held.ask()
        reading = await self._declare(queue)
        await held.answer()
        return held.added_to(reading)

    async def stop(self) -> None:
        """Close."""
        for held in self._held.values():
            await held.stop()
        if self._management is not None:
            await self._management.close()
        await self._requests.link.stop()

    async def owns(self, management: NamesItsBroker) -> bool:
        """See `QueueProbe.owns`.

        Nodes of one cluster may have different names; then they know our connection, some seconds after it was made.
        """
        try:
            ours = (self._requests.link.connection.server_properties or {}).get("cluster_name", "")
            if not ours or len(self._broker.servers()) > 1 or await management.cluster_name() in {"", ours}:
                return True
            return any(each.client_name == self._name for each in await management.connections())
        except (AccessRefusedError, BrokerUnavailableError):
            raise
        except TransportError:  # it does not tell its name
            return True

    async def _declare(self, queue: str) -> QueueReading:
        asked_at = time.monotonic()
        reply = await self._requests.call("queue_declare", queue=queue, passive=True)
        round_trip_s = time.monotonic() - asked_at
        return QueueReading(reply.message_count, None, reply.consumer_count, round_trip_s=round_trip_s)


class _HeldByConsumers:
    """What the management API tells of one queue's consumers: asked beside the passive declare, never waited for."""

    def __init__(
        self,
        management: ManagementClient | None,
        queue: str,
        live: LiveCounters,
        is_ours: Callable[[ManagementClient], Awaitable[bool]],
    ) -> None:
        self._management = management
        self._queue = queue
        self._live = live
        self._is_ours = is_ours
        self._known_as_ours = False
        self._live_unacked: tuple[int, float] | None = None
        self._live_at = -inf
        self._asking: asyncio.Task[None] | None = None
        self._ask_at = -inf
        self._took_s: deque[float] = deque(maxlen=_ANSWERS)
        self._round_trips_s: deque[float] = deque(maxlen=_ANSWERS)
        self._statistics: QueueStatistics | None = None
        self._terms: ConsumerTerms | None = None
        self._terms_at = -inf
        self._entered: int | None = None
        self._entered_ask_at = -inf
        self._consumers = 0
        self._missing = "" if management else f"no management API is known; {_HOW_TO_SEE}"

    def ask(self) -> None:
        """Ask, unless an answer is under way or it is too early."""
        if self._management is not None and self._asking is None and time.monotonic() >= self._ask_at:
            self._asking = asyncio.create_task(self._ask(self._management), name="totals")

    async def answer(self) -> None:
        """Wait a moment for the answer."""
        asking = self._asking
        if asking is not None:
            await asyncio.wait({asking}, timeout=_PATIENCE_S)
            if asking.done() and self._asking is asking:  # others who read this queue wait for it, too
                self._asking = None
                asking.result()

    def added_to(self, reading: QueueReading) -> QueueReading:
        """Return ``reading`` with what the API has told since the last one."""
        self._consumers = reading.consumers or 0
        if reading.round_trip_s is not None:
            self._round_trips_s.append(reading.round_trip_s)
        now = time.monotonic()
        # Several may read this queue, and each gets what was told lately; who has it already knows it by its moment.
        statistics, live = self._statistics, self._live_unacked
        if statistics is not None and now - statistics.arrived_s > _TOLD_FOR_S:
            statistics = None
        if live is not None and now - live[1] <= _TOLD_FOR_S and reading.ready is not None:
            statistics = QueueStatistics(ready=reading.ready, unacked=live[0], arrived_s=live[1], fresh=True)
            self._live_at = live[1]
        elif now - self._live_at < _LIVE_S:
            statistics = None  # older than what channels told lately
        return QueueReading(
            ready=reading.ready,
            unacked=None,
            consumers=reading.consumers,
            statistics=statistics,
            entered=self._entered,
            terms=self._terms,
            missing=self._missing,
            round_trip_s=reading.round_trip_s,
        )

    async def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._live.close()

    async def _ask(self, management: ManagementClient) -> None:
        try:
            self._known_as_ours = self._known_as_ours or await self._is_ours(management)
            if not self._known_as_ours:
                self._lose(str(AnotherBrokerError(management.url)))
                return
            asked_at = time.monotonic()
            totals = await management.totals(self._queue)
            answered_at = time.monotonic()
            self._took_s.append(answered_at - asked_at)
            # One slow answer is no sign of cost, least of all the first, which includes connecting.
            cost = min(_COST, 2 ** len(self._took_s))
            way_s = min(self._round_trips_s, default=0.0)  # which costs the broker nothing
            self._ask_at = asked_at + cost * max(0.0, min(self._took_s) - way_s) - _PATIENCE_S
            self._take(totals, (asked_at + answered_at) / 2)
            if not self._missing and not totals.counted_now:
                self._live_unacked = await self._live.unacked()
            await self._ask_for_terms(management, answered_at)
            await self._ask_what_entered(management)
        except QueueNotFoundError:
            self._lose(f"the management API at {management.url} does not know this queue: it is another broker's")
        except AccessRefusedError as error:
            self._lose(f"the management API refuses this user ({error}); {_HOW_TO_SEE}")
        except BrokerUnavailableError as error:
            self._lose(f"{error}; enable rabbitmq_management, or let the consumers report")
        except TransportError as error:
            self._lose(f"the management API is of no use ({error}); let the consumers report")

    def _take(self, totals: QueueTotals, counted_at: float) -> None:
        if totals.type == "stream":
            self._lose("it is a stream: consumers take nothing out of it; use a classic or a quorum queue")
        elif totals.type == "quorum" and totals.ready is None:
            self._lose("no node tells what this queue holds, as long as it has no leader", again_s=_LEADERLESS_S)
        elif totals.ready is None or totals.unacked is None:
            self._lose("this broker does not tell what consumers hold; let them report")
        else:
            self._missing = ""
            self._statistics = QueueStatistics(
                ready=totals.ready,
                unacked=totals.unacked,
                arrived_s=counted_at,
                fresh=totals.counted_now,
                collected=totals.collected,
            )
            if not totals.counted_now:
                self._live.compare(totals.ready, totals.unacked, counted_at)

    async def _ask_for_terms(self, management: ManagementClient, now: float) -> None:
        """The list of consumers is up to some seconds late, and long where there are many."""
        settled = self._terms is not None and self._terms.count == self._consumers
        if now - self._terms_at < (_TERMS_EVERY_S if settled else _TERMS_AGAIN_S):
            return
        try:
            consumers = [each for each in await management.consumers() if each.queue == self._queue]
        except BrokerUnavailableError:
            raise
        except TransportError:  # no rights, or the broker has its statistics disabled; the counts are no worse for it
            self._terms = None
        else:
            self._terms = terms_of(consumers)
        self._terms_at = time.monotonic()
        self._terms_at += _COST * (self._terms_at - now)

    async def _ask_what_entered(self, management: ManagementClient) -> None:
        """It shows what others send, and changes as rarely as the broker collects its statistics."""
        asked_at = time.monotonic()
        if asked_at < self._entered_ask_at:
            return
        try:
            self._entered = await management.entered(self._queue)
        except BrokerUnavailableError:
            raise
        except TransportError:
            self._entered = None
        took_s = time.monotonic() - asked_at
        self._entered_ask_at = asked_at + max(_ENTERED_EVERY_S, _COST * took_s)

    def _lose(self, missing: str, *, again_s: float = _RETRY_S) -> None:
        self._entered = None
        self._missing, self._ask_at = missing, time.monotonic() + again_s


def terms_of(consumers: list[ConsumerInfo]) -> ConsumerTerms:
    """Return on what terms the consumers of a queue get messages; those that only wait for their turn get none."""
    limits = [each.prefetch_count for each in consumers if each.ack_required and each.active]
    return ConsumerTerms(
        count=len(consumers),
        prefetch=sum(limits) if all(limits) else None,
        auto_ack=sum(not each.ack_required for each in consumers),
    )


class LiveCounters:
    """What consumers hold of a queue whose own counts are seconds old, from the counters of their channels.

    A quorum queue counts once in five seconds. But every channel counts each delivery and each acknowledgement at once,
    and the plugin ``rabbitmq_prometheus`` tells these counters as they are:

        unacked = Σ deliveries that need an acknowledgement − Σ acknowledgements, over the channels that are open

    This misses what was rejected or requeued, and channels on nodes that are not asked. So each of the queue's own
    counts is compared with what the channels told at its moment. While the two differ, the channels are not believed.
    """

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
                nodes.append(HttpClient(address, url.username, url.password, timeout_s=_NODE_PATIENCE_S))
        elif broker.parts().scheme == "amqp" and all(port == _AMQP_PORT for _, port in broker.servers()):
            for host, _ in broker.servers():
                nodes.append(HttpClient(f"http://{bracketed(host)}:{_PORT}", "", "", timeout_s=_NODE_PATIENCE_S))
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
