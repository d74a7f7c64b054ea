"""Reading queue depths, ten times a second and more.

A passive declare tells ready messages and consumers, but not what consumers hold. The connection never publishes, so a
memory alarm does not block it.

What consumers hold is in the management API; for quorum queues, which count rarely, also in the counters of channels.
Where there is no API, or none for this user, the probe works without, and its readings say what is missing and what to
do. The API is asked no more often than its answers are cheap.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from math import inf

from backpressure.core.evidence import ConsumerTerms, QueueStatistics
from backpressure.errors import AccessRefusedError, BrokerUnavailableError, QueueNotFoundError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import QueueReading
from backpressure.transports.connecting import Outage
from backpressure.transports.management_client import ConsumerInfo, ManagementClient, QueueTotals
from backpressure.transports.rabbitmq.link import RabbitMQRequests
from backpressure.transports.rabbitmq.live_counters import LiveCounters

__all__ = ["RabbitMQProbe", "terms_of"]

_PATIENCE_S = 0.05  # what arrives later is used in the next reading
_COST = 20  # the API is asked again after this many times as long as its answers take
_ANSWERS = 10
_TERMS_EVERY_S = 5.0
_TERMS_AGAIN_S = 0.5
_RETRY_S = 10.0
_LIVE_S = 3.0
_HOW_TO_SEE = "give broker.management_url and a user who may use the API (tag management), or let the consumers report"


class RabbitMQProbe:
    """A `QueueProbe`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._broker = broker
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
            self._held[queue] = _HeldByConsumers(self._management, queue, LiveCounters.of(self._broker, queue))
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

    async def _declare(self, queue: str) -> QueueReading:
        reply = await self._requests.call("queue_declare", queue=queue, passive=True)
        return QueueReading(ready=reply.message_count, unacked=None, consumers=reply.consumer_count)


class _HeldByConsumers:
    """What the management API tells of one queue's consumers: asked beside the passive declare, never waited for."""

    def __init__(self, management: ManagementClient | None, queue: str, live: LiveCounters) -> None:
        self._management = management
        self._queue = queue
        self._live = live
        self._live_unacked: tuple[int, float] | None = None
        self._live_at = -inf
        self._asking: asyncio.Task[None] | None = None
        self._ask_at = -inf
        self._took_s: deque[float] = deque(maxlen=_ANSWERS)
        self._statistics: QueueStatistics | None = None
        self._terms: ConsumerTerms | None = None
        self._terms_at = -inf
        self._consumers = 0
        self._missing = "" if management else f"no management API is known; {_HOW_TO_SEE}"

    def ask(self) -> None:
        """Ask, unless an answer is under way or it is too early."""
        if self._management is not None and self._asking is None and time.monotonic() >= self._ask_at:
            self._asking = asyncio.create_task(self._ask(self._management), name="totals")

    async def answer(self) -> None:
        """Wait a moment for the answer."""
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=_PATIENCE_S)
            if self._asking.done():
                answered, self._asking = self._asking, None
                answered.result()

    def added_to(self, reading: QueueReading) -> QueueReading:
        """Return ``reading`` with what the API has told since the last one."""
        self._consumers = reading.consumers or 0
        statistics, self._statistics = self._statistics, None
        live, self._live_unacked = self._live_unacked, None
        if live is not None and reading.ready is not None:
            statistics = QueueStatistics(ready=reading.ready, unacked=live[0], arrived_s=live[1], fresh=True)
            self._live_at = live[1]
        elif time.monotonic() - self._live_at < _LIVE_S:
            statistics = None  # older than what channels told lately
        return QueueReading(
            ready=reading.ready,
            unacked=None,
            consumers=reading.consumers,
            statistics=statistics,
            terms=self._terms,
            missing=self._missing,
        )

    async def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._live.close()

    async def _ask(self, management: ManagementClient) -> None:
        asked_at = time.monotonic()
        try:
            totals = await management.totals(self._queue)
            answered_at = time.monotonic()
            self._took_s.append(answered_at - asked_at)
            # One slow answer is no sign of cost, least of all the first, which includes connecting.
            cost = min(_COST, 2 ** len(self._took_s))
            self._ask_at = asked_at + cost * min(self._took_s) - _PATIENCE_S
            self._take(totals, (asked_at + answered_at) / 2)
            if not self._missing and not totals.counted_now:
                self._live_unacked = await self._live.unacked()
            await self._ask_for_terms(management, answered_at)
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

    def _lose(self, missing: str) -> None:
        self._missing, self._ask_at = missing, time.monotonic() + _RETRY_S


def terms_of(consumers: list[ConsumerInfo]) -> ConsumerTerms:
    """Return on what terms the consumers of a queue get messages; those that only wait for their turn get none."""
    limits = [each.prefetch_count for each in consumers if each.ack_required and each.active]
    return ConsumerTerms(
        count=len(consumers),
        prefetch=sum(limits) if all(limits) else None,
        auto_ack=sum(not each.ack_required for each in consumers),
    )
