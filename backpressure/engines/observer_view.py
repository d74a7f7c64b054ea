"""From reports, readings and the listings of a management API to states: pure functions.

Feedback is preferred to the management API, because it is fresher (a tenth of a second instead of seconds), as long as
it explains what the broker counts: programs that do not report may use the same queue. Nothing here reads a clock or
knows the sources; ``now`` is monotonic seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, TypeVar

from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.core.snapshot import (
    BrokerState,
    Client,
    Connection,
    ProcessState,
    QueueState,
    Rates,
    Threshold,
    Totals,
)
from backpressure.engines.rates import RATE_WINDOW_S, WAIT_WINDOW_S, ProcessKey, ReportSeries
from backpressure.settings import MonitorSettings
from backpressure.transports.base import NamesItsBroker, QueueReading
from backpressure.transports.management_models import (
    ChannelInfo,
    ConnectionInfo,
    ConsumerInfo,
    NodeInfo,
    Overview,
    QueueInfo,
)

_COUNTERS = {spec.name for spec in fields(Totals)}
PRODUCER_COUNTERS = tuple(spec.name for spec in fields(ProducerReport) if spec.name in _COUNTERS)
CONSUMER_COUNTERS = tuple(spec.name for spec in fields(ConsumerReport) if spec.name in _COUNTERS)
_RATED = {spec.name.removesuffix("_per_s") for spec in fields(Rates)}
_SETTLED = ("processed", "dead_lettered")
_KNOWN_FOR_S = 10.0  # an older count says nothing about the present

Producers = Mapping[ProcessKey, ReportSeries[ProducerReport]]
Consumers = Mapping[ProcessKey, ReportSeries[ConsumerReport]]
R = TypeVar("R", ProducerReport, ConsumerReport)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the probe read of a queue, and when.

    Attributes:
        at: when.
        queue: what it read.
        entered_per_s, left_per_s: from the totals of a broker that tells those (Kafka).
        balance_per_s: what entered by what is in the queue and what its consumers report; None: not all of them do.
        sent_is_all, done_is_all: whether the reports of producers, and of consumers, explain what the broker counts.
    """

    at: float
    queue: QueueReading
    entered_per_s: float | None = None
    left_per_s: float | None = None
    balance_per_s: float | None = None
    sent_is_all: bool = True
    done_is_all: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """What the management API listed last, and when."""

    at: float = 0.0
    queues: Mapping[str, QueueState] = field(default_factory=dict)

    def only(self, names: Iterable[str]) -> Listing:
        """Return the part about the queues with these names."""
        return Listing(self.at, {name: self.queues[name] for name in names if name in self.queues})


_UNLISTED = QueueState(name="", ready=0, unacked=None, consumers=None, age_s=0.0)


def queue_states(
    readings: Mapping[str, Reading],
    listing: Listing,
    producers: Producers,
    consumers: Consumers,
    now: float,
) -> dict[str, QueueState]:
    """Return the queues the probe read within the last ten seconds, then the others listed."""
    states = {}
    for name, reading in readings.items():
        if now - reading.at > _KNOWN_FOR_S:
            continue
        listed = listing.queues.get(name, _UNLISTED)
        sending, left = of_queue(producers, name), left_per_s(reading, listed)
        reporting = of_queue(consumers, name)
        states[name] = QueueState(
            name=name,
            ready=reading.queue.ready,
            unacked=_unacked(reading.queue, reporting, listed),
            consumers=reading.queue.consumers,
            age_s=now - reading.at,
            published_per_s=_entering(reading, sending, entered_per_s(reading, listed), now),
            delivered_per_s=_settled(reading, reporting, ("delivered",), listed.delivered_per_s, now),
            acked_per_s=_settled(reading, reporting, _SETTLED, left, now),
            memory_bytes=listed.memory_bytes,
            kind=listed.kind,
            max_length=listed.max_length,
            fill=reading.queue.ready / listed.max_length if listed.max_length else listed.fill,
            overflow=listed.overflow,
            lag_by_partition=reading.queue.lag_by_partition,
        )
    for name, listed in listing.queues.items():
        states.setdefault(name, replace(listed, age_s=now - listing.at))
    return states


def rates(seen: bool, counters: tuple[str, ...], live: Producers | Consumers, now: float) -> dict[str, float]:
    """Return each counter's rate by the name of its field in `Rates`; nothing while no process was ever ``seen``."""
    if not seen:
        return {}
    spans = [series.span(RATE_WINDOW_S, now) for series in live.values()]
    return {f"{name}_per_s": float(sum(span.rate_per_s(name) for span in spans)) for name in counters if name in _RATED}


def recorded(live: Producers | Consumers, histogram: str, now: float) -> Histogram:
    """Return what all processes recorded in the last two seconds."""
    return Histogram.merged(series.span(WAIT_WINDOW_S, now).recorded(histogram) for series in live.values())


def process_state(
    role: str, series: ReportSeries[ProducerReport] | ReportSeries[ConsumerReport], work: str, now: float
) -> ProcessState:
    """Return the state of one process; ``work`` is the counter of its main work."""
    latest = series.latest
    span = series.span(RATE_WINDOW_S, now)
    return ProcessState(
        role=role,
        id=latest.id,
        host=latest.host,
        pid=latest.pid,
        rss_bytes=latest.rss_bytes or None,
        cpu_share=span.rate_per_s("cpu_s") if latest.cpu_s and span.elapsed_s > 0 else None,
        age_s=now - series.arrived,
        rate_per_s=span.rate_per_s(work) if span.elapsed_s > 0 else None,
        queue=latest.queue,
    )


def bottleneck_per_s(consumers: Consumers, work: QueueState | None) -> float | None:
    """Return what the consumers can do: the capacity they report, else what leaves a queue that holds messages.

    Reported capacity is not all of it when foreign consumers share the queue.
    """
    capacities = [0.0 if s.latest.paused else s.latest.capacity_per_s for s in consumers.values()]
    known = [capacity for capacity in capacities if capacity is not None]
    ours = work is None or _all_report(work.consumers, of_queue(consumers, work.name))
    if known and len(known) == len(capacities) and ours:
        return sum(known)
    return work.acked_per_s if work is not None and work.depth > 0 else None


def thresholds(
    limits: MonitorSettings, work: QueueState | None, broker: BrokerState | None, wait_p99_s: float | None
) -> tuple[Threshold, ...]:
    """Return where depth, broker memory and queue wait stand against their limits."""
    depth = None if work is None else float(work.depth)
    memory = None if broker is None else broker.memory_percent
    wait_ms = None if wait_p99_s is None else 1000 * wait_p99_s
    return (
        Threshold("depth", depth, limits.depth_threshold, "messages"),
        Threshold("broker memory", memory, limits.memory_threshold_percent, "%"),
        Threshold("queue wait p99", wait_ms, limits.latency_threshold_ms, "ms"),
    )


def of_queue(live: Mapping[ProcessKey, ReportSeries[R]], name: str) -> Mapping[ProcessKey, ReportSeries[R]]:
    """Return the processes of one queue."""
    return {key: series for key, series in live.items() if series.latest.queue == name}


def entered_per_s(reading: Reading, listed: QueueState | None) -> float | None:
    """Return what the broker counts entering, whoever sends it; None: nothing tells."""
    told = None if listed is None else listed.published_per_s
    return next((rate for rate in (reading.entered_per_s, told, reading.balance_per_s) if rate is not None), None)


def left_per_s(reading: Reading, listed: QueueState | None) -> float | None:
    """Return what the broker counts leaving, whoever takes it; None: nothing tells."""
    return reading.left_per_s if reading.left_per_s is not None or listed is None else listed.acked_per_s


def sent_per_s(sending: Producers, now: float) -> tuple[float, float]:
    """Return what producers sent into the queue, the least and the most that a broker may count of it.

    RabbitMQ also counts messages that a full queue refuses.
    """
    return _grown(sending, ("confirmed",), now), _grown(sending, ("confirmed", "nacked"), now)


def done_per_s(reporting: Consumers, now: float) -> tuple[float, float]:
    """Return what consumers took out of the queue, the least and the most that a broker may count of it.

    What they gave up was rejected or acknowledged; what they try again may be acknowledged and published.
    """
    least, most = ("processed",), (*_SETTLED, "failed", "retried")
    return _grown(reporting, least, now), _grown(reporting, most, now)


def done(reporting: Consumers) -> tuple[int, float | None]:
    """Return what consumers have done since they began, and how long they take for a message together; None: unknown.

    Paused ones are not counted on.
    """
    latest = [series.latest for series in reporting.values()]
    processed, work_s = sum(each.processed for each in latest), sum(each.service_sum_s for each in latest)
    working = sum(not each.paused for each in latest)
    known = processed > 0 and work_s > 0 and working > 0
    return processed + sum(each.dead_lettered for each in latest), work_s / processed / working if known else None


def all_report(queue: QueueReading, reporting: Consumers) -> bool:
    """Return whether reports tell everything about the consumers of a queue, of which there are some."""
    return bool(reporting) and queue.consumers is not None and _all_report(queue.consumers, reporting)


def _all_report(consumers: int | None, reporting: Consumers) -> bool:
    """Return whether none of the queue's ``consumers`` is foreign; paused ones report, but no broker counts them."""
    return consumers is None or len(reporting) >= consumers


def _grown(live: Producers | Consumers, counters: tuple[str, ...], now: float) -> float:
    spans = [series.span(RATE_WINDOW_S, now) for series in live.values()]
    return sum(span.rate_per_s(name) for span in spans for name in counters)


def _entering(reading: Reading, sending: Producers, counted: float | None, now: float) -> float | None:
    if not sending:
        return counted
    least, most = sent_per_s(sending, now)
    if reading.sent_is_all:
        return least
    # Others send too. What the queue refused is no part of it, as far as it is known.
    return None if counted is None else max(least, counted - (most - least))


def _settled(
    reading: Reading, reporting: Consumers, counters: tuple[str, ...], listed: float | None, now: float
) -> float | None:
    consumers = reading.queue.consumers
    if reporting and reading.done_is_all and _all_report(consumers, reporting):
        return _grown(reporting, counters, now)
    return 0.0 if consumers == 0 else listed  # the listing's averages outlive the last consumer by seconds


def _unacked(reading: QueueReading, reporting: Consumers, listed: QueueState) -> int | None:
    fresh = unacked_now(reading, reporting)
    return listed.unacked if fresh is None else fresh


def unacked_now(reading: QueueReading, reporting: Consumers) -> int | None:
    """Return the unacked messages of this moment; None: only late statistics tell."""
    if reading.unacked is not None:
        return reading.unacked
    if reading.consumers is not None and _all_report(reading.consumers, reporting):
        return sum(series.latest.held for series in reporting.values())
    return None


class ManagementReader(NamesItsBroker, Protocol):
    """The part of the management API that the observer reads; every call may raise `TransportError`."""

    @property
    def url(self) -> str:
        """Its address."""

    async def overview(self) -> Overview:
        """Return the broker's name and version."""

    async def nodes(self) -> list[NodeInfo]:
        """Return the nodes of the cluster."""

    async def queues(self) -> list[QueueInfo]:
        """Return all queues of the virtual host."""

    async def connections(self) -> list[ConnectionInfo]:
        """Return all connections."""

    async def consumers(self) -> list[ConsumerInfo]:
        """Return all consumers of the virtual host."""

    async def channels(self) -> list[ChannelInfo]:
        """Return all channels that the user may see."""


def listed_queues(queues: Iterable[QueueInfo], *, counted: bool = True) -> dict[str, QueueState]:
    """Return the queues by name, without exclusive ones, on which processes receive the feedback.

    Without ``counted`` the broker keeps no statistics: the rates are unknown.
    """
    return {
        queue.name: QueueState(
            name=queue.name,
            ready=queue.messages_ready,
            unacked=queue.messages_unacknowledged,
            consumers=queue.consumers,
            age_s=0.0,
            watched=False,
            kind=queue.type,
            max_length=queue.limit("max-length"),
            fill=_fill(queue),
            overflow=queue.overflow,
            published_per_s=queue.publish_rate if counted else None,
            delivered_per_s=queue.deliver_rate if counted else None,
            acked_per_s=queue.departure_rate if counted else None,
            memory_bytes=queue.memory_bytes,
        )
        for queue in queues
        if not queue.exclusive
    }


def broker_state(
    overview: Overview,
    nodes: list[NodeInfo],
    connections: Iterable[ConnectionInfo],
    consumers: Iterable[ConsumerInfo],
    channels: Iterable[ChannelInfo] = (),
) -> BrokerState:
    """Return the broker; of a cluster, the memory of the node nearest to its limit.

    With its ``channels`` it is also known what each consumer holds, and the limit of a whole channel.
    """
    consumers = list(consumers)
    seen = {channel.name: channel for channel in channels}
    sharing = Counter(consumer.channel_name for consumer in consumers)
    measured = [node for node in nodes if node.memory_limit_bytes]
    fullest = max(measured, key=lambda node: node.memory_bytes / node.memory_limit_bytes, default=None)
    return BrokerState(
        product=overview.product,
        version=overview.version,
        memory_bytes=fullest.memory_bytes if fullest else None,
        memory_limit_bytes=fullest.memory_limit_bytes if fullest else None,
        memory_alarm=any(node.memory_alarm for node in nodes),
        disk_alarm=any(node.disk_alarm for node in nodes),
        statistics_off=overview.statistics_off,
        connections=tuple(
            Connection(
                name=connection.client_name or connection.name,
                user=connection.user,
                peer=_peer(connection),
                state=connection.state,
                channels=connection.channels,
            )
            for connection in connections
        ),
        consumers=tuple(
            _client(consumer, seen.get(consumer.channel_name), alone=sharing[consumer.channel_name] == 1)
            for consumer in consumers
        ),
    )


def _client(consumer: ConsumerInfo, channel: ChannelInfo | None, *, alone: bool) -> Client:
    return Client(
        tag=consumer.consumer_tag,
        queue=consumer.queue,
        peer=_peer(consumer),
        prefetch=consumer.prefetch_count or (channel.global_prefetch_count if channel else 0),
        ack_required=consumer.ack_required,
        active=consumer.active,
        unacked=channel.messages_unacknowledged if channel and alone else None,
    )


def _fill(queue: QueueInfo) -> float | None:
    """Return the share of its bound that the queue uses; only ready messages count."""
    limits = ((queue.messages_ready, queue.limit("max-length")), (queue.ready_bytes, queue.limit("max-length-bytes")))
    return max((used / limit for used, limit in limits if limit), default=None)


def _peer(info: ConnectionInfo | ConsumerInfo) -> str:
    return f"{info.peer_host}:{info.peer_port}" if info.peer_host else ""
