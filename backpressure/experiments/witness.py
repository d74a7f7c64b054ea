"""Watches from outside what programs of the user's do: their results, and what the broker counts of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import httpx

from backpressure.amqp.properties import Properties
from backpressure.core.fields import MessageField
from backpressure.core.message import Delivery, Message
from backpressure.core.snapshot import Snapshot
from backpressure.engines.clock import Clock
from backpressure.errors import ExperimentError, PaceError, QueueNotFoundError, TransportError
from backpressure.experiments.events import StrangersCounted
from backpressure.experiments.outcomes import (
    LedgerSettings,
    OutcomeSource,
    Sighting,
    line_of,
    sightings_in,
    size_of,
    tail_of,
)
from backpressure.experiments.recording import StrangersSeen
from backpressure.experiments.strangers import LEFT_AT, SENT_AT
from backpressure.settings import Settings
from backpressure.transports.base import QueueProbe, Subscriber, Transport
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.management_models import QueueInfo

_POLL_S = 0.2
_QUIET_S = 0.6
_PATIENCE_S = 30.0
_PREFETCH = 2000
_HTTP_S = 10.0


class Witness:
    """Collects the outcomes of messages, from `start` to `finish`, as lines of a file.

    Attributes:
        problems: by source, why its outcomes are not known.
        seen: how many outcomes there were so far.
        processed: how many different messages were seen to be done so far, those that the service gave up left out.
    """

    def __init__(self, transport: Transport, ledger: LedgerSettings, path: Path, clock: Clock, *, run: str) -> None:
        """``path`` is where to write; ``run`` is the folder of the run."""
        self.problems: dict[str, str] = {}
        self.seen = 0
        self.processed = 0
        self._transport = transport
        self._ledger = ledger
        self._reader = ledger.reader()
        self._clock = clock
        self._sources = ledger.sources(run=run)
        self._path = path
        self._file: IO[str] | None = None
        self._from_bytes: dict[int, int] = {}
        self._known_before: dict[int, set[str]] = {}
        self._answered: set[int] = set()
        self._queues: list[_WatchedQueue] = []
        at_once = all(source.kind == "queue" for source in self._sources)
        self._done: set[int] | None = set() if at_once else None

    @property
    def done(self) -> int | None:
        """How many different messages have had an outcome so far; None: that is known at the end only."""
        return None if self._done is None else len(self._done)

    async def start(self) -> None:
        """Note what is there already, and watch the queues; raises `PaceError` for a queue that others use."""
        self._file = self._path.open("w", encoding="utf-8")
        for number, source in enumerate(self._sources):
            if source.kind == "queue":
                queue = _WatchedQueue(self._transport, source.name, self, number)
                self._queues.append(queue)
                await queue.start()
            elif source.kind == "file":
                self._from_bytes[number] = size_of(Path(source.name))
            else:
                with contextlib.suppress(httpx.HTTPError):
                    self._known_before[number] = {seen.id for seen in await self._asked(source)}

    async def ask(self) -> None:
        """Read the HTTP endpoints while the service still runs."""
        for number, source in enumerate(self._sources):
            if source.kind == "http":
                await self._ask(number, source)

    async def finish(self) -> None:
        """Read what is left to read, once the programs have ended."""
        for queue in self._queues:
            await queue.finish()
        for number, source in enumerate(self._sources):
            if source.kind == "file":
                try:
                    text = await asyncio.to_thread(tail_of, Path(source.name), self._from_bytes.get(number, 0))
                except FileNotFoundError:
                    continue  # nothing was done: then nothing is found there
                except OSError as error:
                    self.problems[source.text] = f"cannot be read: {error.strerror}"
                    continue
                for sighting in sightings_in(text, self._reader):
                    self.write(number, sighting)

    async def stop(self) -> None:
        """Close everything."""
        for queue in self._queues:
            await queue.stop()
        if self._file is not None:
            self._file.close()

    def left(self, message: Message, state: str) -> None:
        """Note a message that a queue still held, where its id is not one of ours; see `LEFT_AT`."""
        self._note(LEFT_AT[state], message)

    def sent(self, message: Message) -> None:
        """Note a message of a producer that is not ours."""
        self._note(SENT_AT, message)

    def _note(self, number: int, message: Message) -> None:
        value = self._ledger.field.read(message)
        if isinstance(value, (str, int)):
            self.write(number, Sighting(str(value)))

    def delivered(self, number: int, delivery: Delivery) -> None:
        """A result arrived from a queue."""
        correlation_id: str | None = None
        if isinstance(delivery.native, bytes):
            with contextlib.suppress(ValueError):
                correlation_id = Properties.parse(delivery.native).text("correlation_id")
        message = delivery.message

        def value(field: MessageField) -> object:
            return field.read(message, correlation_id)

        sighting = self._reader.read(value, self._clock.wall_ns())
        if sighting is not None:
            self.write(number, sighting)

    def write(self, source: int, sighting: Sighting) -> None:
        """Append one line; a full disk ends the run elsewhere."""
        assert self._file is not None
        self.seen += source >= 0
        if source >= 0 and self._done is not None:
            key = hash(sighting.id)  # less memory than the ids themselves
            self.processed += key not in self._done and not self._sources[source].dead
            self._done.add(key)
        with contextlib.suppress(OSError):
            self._file.write(line_of(source, sighting))

    async def _ask(self, number: int, source: OutcomeSource) -> None:
        try:
            found = await self._asked(source)
        except httpx.HTTPError as error:
            if number not in self._answered:
                self.problems[source.text] = f"does not answer: {error!r}"
            return
        self.problems.pop(source.text, None)
        self._answered.add(number)
        known = self._known_before.setdefault(number, set())
        for sighting in found:
            if sighting.id not in known:
                known.add(sighting.id)
                self.write(number, sighting)

    async def _asked(self, source: OutcomeSource) -> Sequence[Sighting]:
        async with httpx.AsyncClient(timeout=_HTTP_S, follow_redirects=True) as client:
            answer = await client.get(source.name)
            answer.raise_for_status()
            return list(sightings_in(answer.text, self._reader))


class _WatchedQueue:
    """Takes the results out of one queue as they come (a `SubscriberListener`)."""

    def __init__(self, transport: Transport, name: str, witness: Witness, number: int) -> None:
        self._name = name
        self._witness = witness
        self._number = number
        self._probe: QueueProbe = transport.probe()
        self._subscriber: Subscriber = transport.subscriber()
        self._waiting: asyncio.Task[None] | None = None
        self._last_at = 0.0

    async def start(self) -> None:
        """Begin as soon as the queue exists: as a rule the program declares it."""
        await self._probe.start()
        with contextlib.suppress(QueueNotFoundError):
            found = await self._probe.read(self._name)
            if found.ready or found.consumers:
                raise ExperimentError(
                    f"queue {self._name!r} of the ledger is in use ({found.ready} messages, {found.consumers} "
                    "consumers), and the run would take what is in it: name a queue that is empty and not consumed"
                )
        self._waiting = asyncio.create_task(self._consume(), name=f"results in {self._name}")

    async def _consume(self) -> None:
        while True:
            with contextlib.suppress(QueueNotFoundError, TransportError):
                await self._probe.read(self._name)
                break
            await asyncio.sleep(_POLL_S)
        await self._subscriber.start(self, queue=self._name, prefetch=_PREFETCH)

    async def finish(self) -> None:
        """Return when the queue is empty and quiet."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + _PATIENCE_S
        self._last_at = loop.time()
        while loop.time() < ends:
            await asyncio.sleep(_POLL_S)
            try:
                ready = (await self._probe.read(self._name)).ready
            except QueueNotFoundError:
                return
            except PaceError:
                continue
            if not ready and loop.time() - self._last_at > _QUIET_S:
                return
        self._witness.problems[f"queue:{self._name}"] = f"was not empty {_PATIENCE_S:g} s after the end"

    async def stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
        await self._subscriber.stop()
        await self._probe.stop()

    def on_ready(self) -> None:
        """Nothing to do: consuming has begun."""

    def on_delivery(self, delivery: Delivery) -> None:
        """Write it down and take it out of the queue."""
        self._last_at = asyncio.get_running_loop().time()
        self._witness.delivered(self._number, delivery)
        self._subscriber.ack(delivery)

    def on_lost(self, error: Exception) -> None:
        """Nothing to do: the subscriber connects again."""


_COUNT_S = 1.0
_RATE_NS = 1_000_000_000
_SETTLING_S = 12.0


class StrangerCounts:
    """What the broker has counted of one queue since the run began, by its management API.

    Attributes:
        seen: what was last read; None before.
        problem: why nothing is counted.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        """Nothing is asked yet."""
        self._transport = transport
        self.seen: StrangersSeen | None = None
        self._seen_at = 0.0
        self._queue = settings.queue.work
        self._api = ManagementClient.of(settings.broker)
        self._before: QueueInfo | None = None
        self._polling: asyncio.Task[None] | None = None
        self.problem = "the broker has no management API that is known" if self._api is None else ""

    async def start(self) -> None:
        """Note where the counts begin, and read them once a second from now on."""
        if self._api is None:
            return
        try:
            await self._api.check_owner(self._transport)
            self._before = await self._api.queue(self._queue)
        except TransportError as error:
            self.problem = str(error)
            return
        self._polling = asyncio.create_task(self._poll(), name="strangers counted")

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TransportError):
                self._read(await self._asked())
            await asyncio.sleep(_COUNT_S)

    async def _asked(self) -> QueueInfo:
        assert self._api is not None
        return await self._api.queue(self._queue)

    def _read(self, now: QueueInfo) -> Mapping[str, int]:
        before = self._before
        assert before is not None
        counts = {
            "published": now.published - before.published,
            "delivered": now.delivered - before.delivered,
            "acknowledged": now.acknowledged - before.acknowledged,
            "redelivered": now.redelivered - before.redelivered,
            "without_ack": now.taken_without_ack - before.taken_without_ack,
        }
        self._note(counts["published"], counts["acknowledged"], now.messages_unacknowledged, counts["without_ack"])
        return counts

    def _note(self, entered: int, acknowledged: int, unacked: int, without_ack: int) -> None:
        at, before = asyncio.get_running_loop().time(), self.seen
        entered_per_s = acked_per_s = None
        if before is not None and at > self._seen_at:
            span_s = at - self._seen_at
            entered_per_s = (entered - before.entered) / span_s
            acked_per_s = (acknowledged - before.acknowledged) / span_s
        self.seen = StrangersSeen(entered, acknowledged, unacked, without_ack, entered_per_s, acked_per_s)
        self._seen_at = at

    async def finish(self, at_ns: int) -> StrangersCounted:
        """Return the counts once they stand still (a broker counts every few seconds), before the queues are read.

        A delivery is settled by an acknowledgement or by coming back, so every message is either acknowledged, taken
        without acknowledgement, or in the queue: then nothing more has to be waited for.
        """
        await self.stop()
        if self._before is None:
            return StrangersCounted(at_ns=at_ns, problem=self.problem)
        loop = asyncio.get_running_loop()
        ends = loop.time() + _SETTLING_S
        last: dict[str, int] = {}
        counts: dict[str, int] = {}
        same_since = loop.time()
        while loop.time() < ends:
            with contextlib.suppress(TransportError):
                found = await self._asked()
                counts = dict(self._read(found))
                gone = counts["acknowledged"] + counts["without_ack"]
                if (
                    counts["published"]
                    and gone + found.messages >= counts["published"]
                    and not found.messages_unacknowledged
                ):
                    break
                if counts != last:
                    last, same_since = counts, loop.time()
                elif loop.time() - same_since > _SETTLING_S / 2:
                    break
            await asyncio.sleep(_POLL_S)
        if not counts:
            return StrangersCounted(at_ns=at_ns, problem="the management API did not answer at the end")
        return StrangersCounted(at_ns=at_ns, by="the broker (management API)", **counts)

    async def stop(self) -> None:
        """Ask no more."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
            self._polling = None

    async def close(self) -> None:
        """Close the connection."""
        await self.stop()
        if self._api is not None:
            await self._api.close()


def done_by_strangers(
    snapshot: Snapshot, ledger_done: int | None, counted: StrangersSeen | None, dead_letter: str
) -> int | None:
    """Return how many messages consumers that are not ours have done or given up so far; None: nobody counts that.

    Best are the outcomes that the ledger has seen (``ledger_done``). Without them, what was acknowledged, by the proxy
    (in the totals) or the broker (``counted``), or taken without acknowledgement.
    """
    dead = snapshot.queues.get(dead_letter)
    given_up = dead.ready if dead is not None else 0
    if ledger_done is not None:
        return ledger_done + given_up
    by_proxy = snapshot.totals.processed
    if counted is None:
        return by_proxy + given_up if by_proxy else None
    return max(by_proxy, counted.acknowledged + counted.without_ack) + given_up


class SeenElsewhere:
    """Completes snapshots of a run whose consumers are not ours: they report nothing, and others see what they do.

    What is processed follows from the same source as in the summary: the ledger's outcomes, where these are seen as
    they come, else the broker's counts. A rate is that of the last second, or of the broker's last two counts.
    """

    def __init__(self) -> None:
        self._done: deque[tuple[int, int]] = deque()  # when, and how many outcomes there were

    def complete(self, snapshot: Snapshot, by_ledger: int | None, counted: StrangersSeen | None) -> Snapshot:
        """Return ``snapshot`` with what is known of the work of others; what nobody has seen stays as it is."""
        rates, totals = snapshot.rates, snapshot.totals
        if by_ledger is not None:
            rates = replace(rates, processed_per_s=self._per_s(snapshot.at_ns, by_ledger))
            totals = replace(totals, processed=by_ledger)
        elif counted is not None and not snapshot.consumers:
            done = max(totals.processed, counted.acknowledged + counted.without_ack)
            totals = replace(totals, processed=done)
            if rates.processed_per_s is None:
                rates = replace(rates, processed_per_s=counted.acked_per_s)
        return replace(snapshot, rates=rates, totals=totals)

    def _per_s(self, at_ns: int, done: int) -> float | None:
        self._done.append((at_ns, done))
        while len(self._done) > 1 and self._done[1][0] <= at_ns - _RATE_NS:
            self._done.popleft()
        began_ns, before = self._done[0]
        span_ns = at_ns - began_ns
        return (done - before) * 1e9 / span_ns if span_ns > 0 else None
