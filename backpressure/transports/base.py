"""What the engines know of a broker: a small family of protocols, the same for every broker.

All objects live on one asyncio event loop and call their listener on it; a callback must not block. A transport keeps
its connections alive: after a loss it tells the listener and reconnects with exponential back-off and jitter, forever.
With ``wait=False`` the first attempt must succeed. A transport never publishes or acknowledges a message again: the
engine decides what to do about messages in flight.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from backpressure.core.evidence import ConsumerTerms, OffsetReading, QueueStatistics
from backpressure.core.message import Delivery, Destination, HeaderValue, Message
from backpressure.settings import QueueSettings
from backpressure.transports.management_models import ConnectionInfo


@dataclass(frozen=True, slots=True)
class BrokerIdentity:
    """Which broker this is: ``product`` (such as "RabbitMQ"), ``version``, and the address without credentials."""

    product: str
    version: str
    address: str


@dataclass(frozen=True, slots=True)
class QueueReading:
    """A queue at one moment. ``unacked`` is None where the broker does not report it (AMQP passive declare).

    ``lag_by_partition``: Kafka only; the unsettled messages of each partition. ``entered``, ``left``: totals of
    messages published to it and settled, where the broker counts them for everybody (Kafka's offsets).

    What was counted at other moments, where the consumers do not report: ``statistics``, ``offsets`` (Kafka: what they
    have committed), and on what ``terms`` consumers get messages. ``missing`` says why what consumers hold is not
    known, and what to do. ``round_trip_s``: how long the broker took to answer one question, where that is known.
    """

    ready: int
    unacked: int | None
    consumers: int | None
    lag_by_partition: tuple[int, ...] = ()
    entered: int | None = None
    left: int | None = None
    statistics: QueueStatistics | None = None
    offsets: OffsetReading | None = None
    terms: ConsumerTerms | None = None
    missing: str = ""
    round_trip_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FoundQueue:
    """What is known of a queue that somebody else has declared.

    Attributes:
        dead_letters: whether what is rejected from it reaches another queue; None: unknown.
        has_dead_letter_queue: whether the queue exists that we would publish dead letters to.
        unknown_because: why something is not known; "" when everything is.
    """

    dead_letters: bool | None
    has_dead_letter_queue: bool
    unknown_because: str = ""


class Cause(Enum):
    """Why a broker refuses a message."""

    FULL = "full"
    FAILED = "failed"
    TOO_LARGE = "too large"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a nack means. AMQP's gives no reason; as a rule the queue is full."""

    cause: Cause
    reason: str

    @property
    def final(self) -> bool:
        """Whether the same message would be refused again, however often it is sent."""
        return self.cause not in {Cause.FULL, Cause.FAILED}


FULL = Refusal(Cause.FULL, "the queue is full")


class PublisherListener(Protocol):
    """What a publisher tells its engine."""

    def on_ready(self) -> None:
        """A (new) channel is open in confirm mode; tags count from 1 again."""

    def on_confirmed(self, tag: int, multiple: bool) -> None:
        """The broker accepted message ``tag`` (``multiple``: and every earlier one)."""

    def on_nacked(self, tag: int, multiple: bool, refusal: Refusal = FULL) -> None:
        """The broker refused message ``tag`` (``multiple``: and every earlier one still open)."""

    def on_returned(self, message_id: str | None, reason: str) -> None:
        """The message could not be routed; its confirm follows."""

    def on_blocked(self, reason: str) -> None:
        """The broker has stopped reading from this connection (an alarm)."""

    def on_unblocked(self) -> None:
        """The alarm is over."""

    def on_lost(self, error: Exception) -> None:
        """The channel is lost, and nothing in flight on it will be settled. Reconnecting has begun."""


class Publisher(Protocol):
    """Publishes with confirms, without waiting for them."""

    @property
    def ready(self) -> bool:
        """Whether `publish` may be called now."""

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes accepted by `publish` that the socket has not taken yet."""

    async def start(self, listener: PublisherListener) -> None:
        """Connect; returns when ready. Raises `TransportError` only when the transport does not wait for a broker."""

    def publish(self, message: Message, *, exchange: str, routing_key: str) -> int:
        """Send one message (mandatory) and return its tag.

        Raises `NotConnectedError`, or `ValueError` for a message that this broker can never carry.
        """

    async def stop(self) -> None:
        """Send what is buffered, close, stop reconnecting."""


class SubscriberListener(Protocol):
    """What a subscriber tells its engine."""

    def on_ready(self) -> None:
        """Consuming from the queue has (again) begun."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A message arrived; its ``received_ns`` is on the monotonic clock."""

    def on_lost(self, error: Exception) -> None:
        """The channel is lost: unsettled deliveries will come again with ``redelivered`` set."""


class Subscriber(Protocol):
    """Consumes one queue with manual acknowledgements and a bounded prefetch.

    Attributes:
        round_trip_s: within what time the broker answered when consuming began; None: not known.
    """

    round_trip_s: float | None

    async def start(self, listener: SubscriberListener, *, queue: str, prefetch: int) -> None:
        """Connect and consume; returns when ready. Raises as `Publisher.start` does."""

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """Acknowledge; False when the channel of the delivery is lost (the message will be redelivered)."""

    def nack(self, delivery: Delivery, *, requeue: bool) -> bool:
        """Return to the queue, or to its dead-letter exchange; False when the channel of the delivery is lost."""

    def set_prefetch(self, count: int) -> None:
        """Allow ``count`` unsettled deliveries from now on."""

    async def pause(self) -> None:
        """Stop new deliveries; those that have arrived can still be settled."""

    async def resume(self) -> None:
        """Consume again."""

    async def stop(self) -> None:
        """Send pending acknowledgements and close; unsettled deliveries return to the queue."""


class NamesItsBroker(Protocol):
    """A management API, as far as it says whose it is."""

    async def cluster_name(self) -> str:
        """Return what the cluster calls itself."""

    async def connections(self) -> list[ConnectionInfo]:
        """Return the connections of clients."""


class QueueProbe(Protocol):
    """Reads queue depths, cheap enough for ten times a second, on a connection that is never blocked."""

    async def start(self) -> None:
        """Connect; raises as `Publisher.start` does."""

    async def read(self, queue: str, *, exactly: bool = False) -> QueueReading:
        """Return the depth now; raises `QueueNotFoundError`, `NotConnectedError`.

        ``exactly``: consumers are silent, so find out what they hold, at the cost of other requests.
        """

    async def owns(self, management: NamesItsBroker) -> bool:
        """Return whether a management API is that of the broker that the probe reads, as far as that can be told.

        A queue of the same name elsewhere would tell numbers that have nothing to do with this one. Raises
        `AccessRefusedError` or `BrokerUnavailableError` if the API refuses or does not answer.
        """

    async def stop(self) -> None:
        """Close."""


Answer = Callable[[bytes], bytes | None]
"""What a report that asks is answered with (`backpressure.core.turns`); None: nothing, others do."""


class FeedbackBus(Protocol):
    """The fanout on which every process reports: fresh or dropped, never queued up."""

    @property
    def blocked(self) -> bool:
        """Whether the broker has stopped everybody who publishes, as far as it shows here (an alarm)."""

    async def start(
        self,
        on_report: Callable[[bytes], None] | None = None,
        *,
        answer: Answer | None = None,
        on_answer: Callable[[bytes], None] | None = None,
    ) -> None:
        """Connect.

        Args:
            on_report: called with every report of every process, this one included; None: nothing is heard.
            answer: called then with each report that asks.
            on_answer: called with answers to what is sent here and asks; None: nothing asks.
        """

    @property
    def carries_sums(self) -> bool:
        """Whether it has a way for sums (`backpressure.core.sums`) beside the one for reports."""

    def listen(self, *, reports: bool, sums: bool) -> None:
        """Choose what is heard, from a moment later on: reports, sums or both. By default a bus hears reports."""

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> bool:
        """Publish one report, or drop it (False) when there is no open, unblocked channel.

        A sum goes only to those that listen to sums. A report that ``asks`` may be answered, to this process alone.
        """

    async def stop(self) -> None:
        """Close."""


class QueueAdmin(Protocol):
    """Creates, empties and removes what the experiment needs; not for the fast path."""

    async def start(self) -> None:
        """Connect; raises as `Publisher.start` does."""

    async def identity(self) -> BrokerIdentity:
        """Return which broker this is."""

    async def missing(self, queue: QueueSettings) -> list[str]:
        """Return the names that `declare` would create; changes nothing.

        Raises `PreconditionFailedError` when one exists with other arguments.
        """

    async def declare(self, queue: QueueSettings, *, keep_bound: bool = False) -> None:
        """Create exchange, work queue, dead-letter queue, audit queue (when on) and their bindings, idempotently.

        Raises as `missing` does, before anything is created. What was created before any other failure is removed.
        With ``keep_bound`` a work queue that another process creates meanwhile keeps the bound it has.
        """

    async def look(self, queue: str, *, exchange: str, keys: Sequence[str], dead_letter: str) -> FoundQueue:
        """Return what is known of a queue that somebody else has declared; changes nothing.

        Raises `QueueNotFoundError`, `ExchangeNotFoundError` unless ``exchange`` is "", and `UnsupportedError` for a
        queue that cannot be paced, or that is known not to get what is published to ``exchange`` with one of ``keys``.
        """

    async def purge(self, queue: str) -> int:
        """Drop all ready messages and return how many; raises `QueueNotFoundError`."""

    async def delete(self, queue: str) -> None:
        """Remove the queue if it exists."""

    async def delete_exchange(self, exchange: str) -> None:
        """Remove the exchange if it exists."""

    async def set_bound(self, queue: str, *, max_length: int | None, overflow: str) -> None:
        """Change the bound of a live queue (None: no bound); raises `TransportError` that says what to do instead.

        A broker without bounded queues accepts None only.
        """

    def drain(self, queue: str) -> AsyncIterator[Delivery]:
        """Yield and acknowledge every ready message until the queue is empty."""

    async def stop(self) -> None:
        """Close."""


class Transport(Protocol):
    """All products for one broker. Each has a connection of its own, so publishing and consuming never share one."""

    address: str
    """The broker's URL without its password."""

    bounds_queues: bool
    """Whether a queue can have a bound."""

    destination: Destination
    """Where messages are published to and consumed from."""

    @property
    def obstacle(self) -> str:
        """Why the broker cannot be reached now; "": it can, as far as is known."""

    def publisher(self) -> Publisher:
        """Return a new, unstarted publisher."""

    def subscriber(self) -> Subscriber:
        """Return a new, unstarted subscriber."""

    def probe(self) -> QueueProbe:
        """Return a new, unstarted probe."""

    def feedback(self, *, create: bool = True) -> FeedbackBus:
        """Return a new, unstarted feedback bus; without ``create`` it waits until somebody else has created it."""

    def admin(self) -> QueueAdmin:
        """Return a new, unstarted admin."""

    def dead_letter(self, delivery: Delivery, queue: str, headers: Mapping[str, HeaderValue]) -> Message:
        """Return the message to publish when ``delivery`` from ``queue`` is given up, with ``headers`` added.

        It keeps everything it came with, except for its expiration, which goes into the header ``x-death``. Raises
        `ValueError` for a message that only the broker itself can dead-letter (`Subscriber.nack`).
        """


class ExchangeAdmin(QueueAdmin, Protocol):
    """The admin of a broker that has exchanges (AMQP; Kafka has none)."""

    async def declare_fanout(self, exchange: str, queues: Iterable[str], *, max_length: int) -> None:
        """Create a fanout exchange and bind ``queues`` to it, idempotently; a full one drops its oldest message."""


class ExchangeTransport(Transport, Protocol):
    """A transport whose broker has exchanges."""

    def admin(self) -> ExchangeAdmin:
        """Return a new, unstarted admin."""
