"""Everything a monitor knows at one moment, as plain data.

What is unknown is None, never a guess. Totals and rates come from the counters in feedback reports, depths from the
queue probe, the rest (other queues, connections, broker memory) from the management API where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport


class EventKind(StrEnum):
    """What a back-pressure event is about."""

    NACKED = "nacked"
    NACKS_OVER = "nacks_over"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    BREACHED = "breached"
    RECOVERED = "recovered"
    APPEARED = "appeared"
    VANISHED = "vanished"
    ENDED = "ended"
    RATE_CUT = "rate_cut"
    SOURCE_LOST = "source_lost"
    SOURCE_BACK = "source_back"

    @property
    def bad(self) -> bool:
        """Whether it is worth a warning."""
        return self in _BAD


_LARGEST_OFFER_PER_S = 1e9
_BAD = {EventKind.NACKED, EventKind.BLOCKED, EventKind.BREACHED, EventKind.VANISHED, EventKind.SOURCE_LOST}


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line: when (nanoseconds since the epoch), of what kind, in words."""

    at_ns: int
    kind: EventKind
    text: str


ADDRESS_UNKNOWN = "its address is not known"
"""The ``error`` of a source that nobody named."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where knowledge comes from, and whether it does: ``error`` is empty while it works.

    ``refused``: it answers, but not to this user. ``foreign``: it is another broker's.
    """

    name: str
    ok: bool
    error: str = ""
    refused: bool = False
    foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Where a queue is heading; None: not known.

    Attributes:
        growth_per_s: how fast ready and unacked messages together grow (below 0: shrink); 0 while that is only noise.
        wait_s: how long a message sent now waits until it is settled, backlog ÷ departure rate; infinite while messages
            wait and none leaves.
        full_in_s, empty_in_s: when the queue reaches its bound, or is empty, at this rate; None: not heading there.
        statistics_age_s: how old unacked and rates may be; None: as fresh as the depth.
        hidden: whether consumers acknowledge automatically: depth and wait lack what they hold.
        still_s: for how long none of its consumers has done anything, by their reports; 0: no longer than usual.
    """

    growth_per_s: float | None = None
    wait_s: float | None = None
    full_in_s: float | None = None
    empty_in_s: float | None = None
    statistics_age_s: float | None = None
    hidden: bool = False
    still_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """One queue. ``age_s`` is how old the counts are; None: not known.

    The rates count messages entering (``published``), handed to consumers and settled by them, from feedback where all
    parties report, else as the management API computes them. ``watched``: part of the experiment, read by the probe.
    ``lag_by_partition``: Kafka only; the messages not settled in partition 0, 1, …
    ``kind``: classic, quorum or stream; "": not known. ``fill``: the share of its bound that ready messages use; None:
    no bound, or not known. ``overflow``: what happens at the bound. ``outlook``: of watched queues only.
    """

    name: str
    ready: int
    unacked: int | None
    consumers: int | None
    age_s: float
    watched: bool = True
    kind: str = ""
    max_length: int | None = None
    fill: float | None = None
    overflow: str = ""
    outlook: Outlook | None = None
    published_per_s: float | None = None
    delivered_per_s: float | None = None
    acked_per_s: float | None = None
    memory_bytes: int | None = None
    lag_by_partition: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """Ready plus unacked; a lower bound where unacked is None."""
        return self.ready + (self.unacked or 0)

    @property
    def active(self) -> bool:
        """Whether messages go in or out."""
        return bool(self.published_per_s or self.delivered_per_s or self.acked_per_s)

    @property
    def worst_partition(self) -> int | None:
        """The partition that is furthest behind (the first of several); None where there are no partitions."""
        lags = self.lag_by_partition
        return lags.index(max(lags)) if lags else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Messages (and blocked periods) counted by all processes ever seen, the vanished ones included."""

    offered: int = 0
    published: int = 0
    confirmed: int = 0
    nacked: int = 0
    rejected: int = 0
    returned: int = 0
    republished: int = 0
    blocked_events: int = 0
    delivered: int = 0
    processed: int = 0
    failed: int = 0
    retried: int = 0
    dead_lettered: int = 0
    redelivered: int = 0
    duplicates: int = 0
    out_of_order: int = 0

    @property
    def discarded(self) -> int:
        """Given up after a refusal, or returned. What a queue drops is known when it is read, at the end of a run."""
        return self.rejected + self.returned


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Messages per second in the last second or so, all live processes; None while no process of the role was seen."""

    offered_per_s: float | None = None
    published_per_s: float | None = None
    confirmed_per_s: float | None = None
    nacked_per_s: float | None = None
    rejected_per_s: float | None = None
    returned_per_s: float | None = None
    republished_per_s: float | None = None
    delivered_per_s: float | None = None
    processed_per_s: float | None = None
    failed_per_s: float | None = None
    retried_per_s: float | None = None
    dead_lettered_per_s: float | None = None
    redelivered_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Durations in seconds of ``count`` messages; None when there were none."""

    count: int = 0
    mean_s: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None

    @classmethod
    def of(cls, histogram: Histogram) -> Quantiles:
        """Summarise ``histogram``."""
        p50, p95, p99 = (histogram.quantile_s(q) for q in (0.50, 0.95, 0.99))
        return cls(histogram.total, histogram.mean_s(), p50, p95, p99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """One live process: ``cpu_share`` is of one core, over about the last second; ``age_s`` since its last report.

    Programs in other languages need not report ``rss_bytes`` and the processor time; None: unknown.
    """

    role: str
    id: str
    host: str
    pid: int
    rss_bytes: int | None
    cpu_share: float | None
    age_s: float
    rate_per_s: float | None
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit of ``settings.monitor`` and where the value stands; None: unknown, so not breached."""

    name: str
    value: float | None
    limit: float
    unit: str

    @property
    def breached(self) -> bool:
        """Whether the value is above the limit."""
        return self.value is not None and self.value > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A client connection as the management API lists it."""

    name: str
    user: str
    peer: str
    state: str
    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A consumer of a queue as the management API lists it.

    ``prefetch`` is its own limit or, if it has none, that of its channel; 0: no limit is known. ``active``: whether the
    queue delivers to it. ``unacked`` is what it holds; None: not known.
    """

    tag: str
    queue: str
    peer: str
    prefetch: int
    ack_required: bool
    active: bool = True
    unacked: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerState:
    """The broker as its management API describes it; ``statistics_off``: it keeps no statistics."""

    product: str = ""
    version: str = ""
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    memory_alarm: bool = False
    disk_alarm: bool = False
    statistics_off: bool = False
    connections: tuple[Connection, ...] = ()
    consumers: tuple[Client, ...] = ()

    @property
    def memory_percent(self) -> float | None:
        """Memory used, in percent of the limit at which publishers are blocked."""
        if self.memory_bytes is None or not self.memory_limit_bytes:
            return None
        return 100 * self.memory_bytes / self.memory_limit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Overall:
    """All queues in one row; None: not known of at least one of them."""

    queues: int
    active: int
    consumers: int | None
    connections: int | None
    ready: int
    unacked: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """The part of a `Snapshot` that events come from: cheap enough for several times a second.

    Attributes:
        at_ns: when, nanoseconds since the epoch on the run's clock.
        sources: the broker itself and its management API (absent when there is none), and whether they answer.
        producers, consumers: the latest report of every live process; of those of the queues that the user named, if
            some were.
        thresholds: where depth, broker memory and queue wait stand against ``settings.monitor``.
    """

    at_ns: int
    sources: tuple[Source, ...]
    producers: tuple[ProducerReport, ...]
    consumers: tuple[ConsumerReport, ...]
    thresholds: tuple[Threshold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Glance):
    """One consistent view: a `Glance`, and all the rest.

    Attributes:
        address: the broker, without credentials.
        queues: by name: watched queues that exist, then all others the management API lists.
        work_queue: the one the charts, the bottleneck and the thresholds are about: of the queues that are published to
            or consumed, the deepest (it may not exist yet).
        processes: memory and CPU of the same processes.
        queue_wait, service, confirm_latency: of messages in the last two seconds.
        queue_wait_ever, service_ever, confirm_latency_ever: of all messages of all processes ever seen; None before the
        first process of the role, and where distributions were not asked for.
        target_rate_per_s: offered load of all live producers; None without one.
        pacing_rate_per_s: what their laws allow, at most what is offered; None without a producer.
        bottleneck_per_s: what the consumers can do: reported capacity, else the departure rate while the queue holds
            messages, else None.
        broker: from the management API; None without one.
        events: oldest first, the latest few hundred; ``event_counts`` counts all of them by kind.
        unreadable_reports: feedback from other versions or strangers, ignored.
        token_needed: whether the control APIs want a token, as far as the monitor's own settings tell.
        dead_letter_queue: where messages go that failed too often or were dropped; "": not known.
        asked: the queues that the user named; empty: those of settings and reports are watched.
        absent: why a queue that the user named, or a pattern, is not shown.
    """

    address: str
    queues: Mapping[str, QueueState]
    work_queue: str
    processes: tuple[ProcessState, ...]
    totals: Totals
    rates: Rates
    queue_wait: Quantiles
    service: Quantiles
    confirm_latency: Quantiles
    target_rate_per_s: float | None
    pacing_rate_per_s: float | None
    bottleneck_per_s: float | None
    broker: BrokerState | None
    events: tuple[Event, ...]
    queue_wait_ever: Histogram | None = None
    service_ever: Histogram | None = None
    confirm_latency_ever: Histogram | None = None
    event_counts: Mapping[EventKind, int] = field(default_factory=dict)
    unreadable_reports: int = 0
    token_needed: bool = False
    dead_letter_queue: str = ""
    asked: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def work(self) -> QueueState | None:
        """The work queue, when it exists."""
        return self.queues.get(self.work_queue)

    @property
    def dead_letters(self) -> int:
        """The messages in the dead-letter queue, or, where it is not seen, those that consumers gave up."""
        queue = self.queues.get(self.dead_letter_queue)
        return self.totals.dead_lettered if queue is None else queue.ready

    @property
    def overall(self) -> Overall:
        """The sums over all queues; ``active`` counts those that messages go into or out of."""
        queues = self.queues.values()
        return Overall(
            queues=len(queues),
            active=sum(queue.active for queue in queues),
            consumers=_sum(queue.consumers for queue in queues),
            connections=None if self.broker is None else len(self.broker.connections),
            ready=sum(queue.ready for queue in queues),
            unacked=_sum(queue.unacked for queue in queues),
        )

    @property
    def observed(self) -> tuple[QueueState, ...]:
        """The queues that advice is about: those the user asked for, else the work queue."""
        if self.asked:
            return tuple(self.queues[name] for name in self.asked if name in self.queues)
        return () if self.work is None else (self.work,)

    def clients_of(self, queue: str) -> tuple[Client, ...]:
        """Return the consumers of a queue as the management API lists them."""
        return () if self.broker is None else tuple(c for c in self.broker.consumers if c.queue == queue)

    @property
    def law(self) -> ProducerReport | None:
        """The live producer whose law holds it back most: its ``strategy`` and ``reason`` are worth showing."""
        return min(self.producers, key=_part_allowed, default=None)


def _part_allowed(producer: ProducerReport) -> float:
    """Return which part of what it offers the law lets a producer send; an offer without limit is larger than any."""
    offered_per_s = min(max(producer.target_rate_per_s, 1e-9), _LARGEST_OFFER_PER_S)
    return min(producer.pacing_rate_per_s, offered_per_s) / offered_per_s


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)
