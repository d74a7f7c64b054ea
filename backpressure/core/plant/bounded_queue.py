"""The queue and its consumers in virtual time: what the plant's producers feed. Knows nothing of laws and signals.

A message is a number, the time at which it was sent; one that fails or is redelivered is a `PlantMessage`.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from backpressure.core.plant.attempts import Workshop
from backpressure.core.plant.stations import PlantConsumer, PlantMessage, Workers, remembered
from backpressure.core.turns import ReportTurns

_APART = 0.618  # of an interval: consumers do not commit together


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBound:
    """The bound on ready messages, what happens beyond it, and whether the broker blocks its producers.

    ``refused_share`` of what is published is refused whatever the bound, evenly spread.
    """

    max_length: int | None = None
    overflow: Literal["reject-publish", "drop-head"] = "reject-publish"
    blocked: bool = False
    refused_share: float = 0.0


class WorkQueue(Workshop):
    """A first-in-first-out queue with prefetch, delivered in turn.

    A message whose work fails waits for its next attempt outside the prefetch, and goes before new messages.

    Attributes:
        bound: what it takes; may be changed at any time.
        stands_still: nothing is delivered for now.
        failures: which attempts fail from now on; None: none does.
        network: how long a delivery, and an acknowledgement, is on its way.
        ready: messages that are not delivered yet.
        consumers: those that are there, the oldest first.
        arrived, processed, dropped, dead_lettered: messages so far; processed again counts again.
        lost_in_hand: those of ``dropped`` that went with a consumer which needed not acknowledge them.
        duplicates, redelivered: settled messages that had been settled before, and those that had been requeued before.
        busy_s: consumer-seconds of work begun so far.
        arrivals_s: of every message, in order: when it was sent.
        starts_s, waits_s: of every work that does not fail, in order: when it began, and how old its message was.
        done_s, sojourns_s: of every work that did not fail: when it ended, and how long after it was sent that was.
    """

    def __init__(self, uniform: Callable[[], float], bound: QueueBound) -> None:
        """``uniform`` returns numbers in [0, 1)."""
        super().__init__(uniform)
        self.bound = bound
        self.ready: deque[float] = deque()
        self.arrived = 0
        self.dropped = 0
        self.lost_in_hand = 0
        self.arrivals_s = array("d")
        self._hired = 0
        self._refused = 0.0
        self._connected = True
        self.stands_still = False
        self._credit: deque[PlantConsumer] = deque()

    @property
    def depth(self) -> int:
        """Ready plus unacked."""
        return len(self.ready) + sum(consumer.unsettled for consumer in self.consumers)

    @property
    def unacked(self) -> int:
        """What the broker has delivered, and nobody has acknowledged yet."""
        return sum(one.unsettled + one.acking for one in self.consumers if one.acks == "each")

    @property
    def uncommitted(self) -> int:
        """What is behind the last commits, as a log sees it: Kafka's lag."""
        return len(self.ready) + sum(one.unsettled + one.uncommitted for one in self.consumers)

    @property
    def left(self) -> int:
        """How many messages the broker has counted as done, by acknowledgement or because it needs none."""
        return self.arrived - (self.dropped - self.lost_in_hand) - len(self.ready) - self.unacked

    @property
    def unprocessed(self) -> int:
        """What is in the queue or with a consumer and has never been processed."""
        held = (message for consumer in self.consumers for message in consumer.everything())
        return sum(not _is_done(message) for messages in (self.ready, held) for message in messages)

    def set_workers(
        self, workers: Workers, now: float, chance: Callable[[], float], report_interval_s: float = 0.1
    ) -> None:
        """Change the consumers from ``now`` on; work that has begun ends as it would have, unless its consumer goes.

        New ones report every ``report_interval_s``, as ``chance`` has it; it returns numbers in [0, 1).
        """
        self.workers = workers
        while len(self.consumers) > workers.count:
            leaving = self.consumers.pop()
            leaving.gone = True
            if leaving.acks == "auto":
                self._lose(leaving)
            else:
                self.ready.extendleft(reversed(leaving.everything()))
        while len(self.consumers) < workers.count:
            self._hired += 1
            turns = ReportTurns(report_interval_s, chance)
            self.consumers.append(PlantConsumer(self._hired, now + report_interval_s * chance(), turns))
        strangers = workers.strangers
        for number, consumer in enumerate(self.consumers):
            if consumer.stranger is None and strangers is not None:
                consumer.next_commit_s = now + strangers.commit_interval_s * (_APART * (number + 1) % 1.0)
            consumer.stranger = strangers if strangers is not None and number < strangers.count else None
        self._deal(now)

    def commit(self, now: float) -> None:
        """Let those consumers commit that do so at intervals."""
        for consumer in self.consumers:
            stranger = consumer.stranger
            if stranger is not None and now >= consumer.next_commit_s:
                consumer.next_commit_s += stranger.commit_interval_s
                if not consumer.hung and self._connected:
                    consumer.commit()

    # --- what happens to consumers --------------------------------------------------------------------------------

    def kill(self, count: int, now: float) -> int:
        """End the oldest ``count`` consumers; what they held goes back to the queue. Return how many there were.

        What the broker took for done on delivery is dropped with them.
        """
        leaving, self.consumers = self.consumers[:count], self.consumers[count:]
        self.workers = replace(self.workers, count=len(self.consumers))
        for consumer in leaving:
            consumer.gone = True
        self._take_back(leaving)
        self._deal(now)
        return len(leaving)

    def disconnect(self, *, noticed: bool = True) -> None:
        """End every connection: unacked messages return to the queue, and nothing is delivered until `reconnect`.

        Work in progress is finished, and done again after redelivery. Consumers that have not ``noticed`` continue with
        everything they hold.
        """
        self._connected = False
        self._credit.clear()
        self._take_back(self.consumers)
        if noticed:
            for consumer in self.consumers:
                if consumer.acks != "auto":
                    consumer.forget()

    def reconnect(self, now: float) -> None:
        """Deliver again."""
        self._connected = True
        for consumer in self.consumers:
            consumer.forget()
        self._deal(now)

    def stand_still(self) -> None:
        """Deliver nothing until `go_on_delivering`; the consumers continue with what they hold."""
        self.stands_still = True
        self._credit.clear()

    def go_on_delivering(self, now: float) -> None:
        """Deliver what there is, and what comes."""
        self.stands_still = False
        self._deal(now)

    # --- messages -------------------------------------------------------------------------------------------------

    def arrive(self, at_s: float, sent_s: float | None = None) -> bool:
        """A message comes in, sent then or at ``sent_s``; return whether the queue took it. Times must not decrease."""
        self.advance(at_s)
        bound = self.bound
        if bound.refused_share and self._refuses(bound.refused_share):
            return False
        if bound.max_length is not None and len(self.ready) >= bound.max_length and not self._credit:
            if bound.overflow == "reject-publish":
                return False
            self.dropped += not _is_done(self.ready.popleft())
        self.arrived += 1
        message = at_s if sent_s is None else sent_s
        self.arrivals_s.append(message)
        if self._credit:
            self._deliver(message, at_s)
        else:
            self.ready.append(message)
        return True

    def _refuses(self, share: float) -> bool:
        self._refused += share
        refuses = self._refused >= 1.0 - 1e-9
        self._refused -= refuses
        return refuses

    def _take_back(self, consumers: Iterable[PlantConsumer]) -> None:
        """Return what ``consumers`` have not acknowledged to its place in the queue."""
        back: list[PlantMessage] = []
        for consumer in consumers:
            if consumer.acks != "auto":
                back += consumer.lose()
            elif consumer.gone:
                self._lose(consumer)
        back.sort()
        for message in back:
            message.redelivered = True
        self.ready.extendleft(reversed(back))

    def _lose(self, consumer: PlantConsumer) -> None:
        """``consumer`` ends, and what it holds with it: the broker has forgotten these messages."""
        lost = sum(not _is_done(message) for message in consumer.lose())
        self.dropped += lost
        self.lost_in_hand += lost

    # --- deliveries -----------------------------------------------------------------------------------------------

    def _deal(self, now: float) -> None:
        """Find the consumers that can take messages, let all of them work, and deliver what is ready."""
        self._credit = deque(filter(self._has_room, self.consumers))
        for consumer in self.consumers:
            self._work(consumer, now)
        while self.ready and self._credit:
            self._deliver(self.ready.popleft(), now)

    @property
    def _delivers(self) -> bool:
        return self._connected and not self.stands_still

    def _has_room(self, consumer: PlantConsumer) -> bool:
        return self._delivers and len(consumer.held) + consumer.acking < self._most_held(consumer)

    def _most_held(self, consumer: PlantConsumer) -> float:
        return self.workers.prefetch if consumer.stranger is None else consumer.stranger.most_held

    def _free(self, consumer: PlantConsumer, now: float) -> None:
        """``consumer`` holds one less: if it was full, it can take another."""
        if len(consumer.held) + consumer.acking == self._most_held(consumer) - 1 and self._delivers:
            self._credit.append(consumer)
            if self.ready:
                self._deliver(self.ready.popleft(), now)

    def _deliver(self, message: float, now: float) -> None:
        consumer = self._credit.popleft()
        if self.network.delays:
            message = remembered(message)
            message.there_s = consumer.line.carry(now, self.network)
        consumer.held.append(message)
        if len(consumer.held) + consumer.acking < self._most_held(consumer):
            self._credit.append(consumer)
        self._work(consumer, now)


def _is_done(message: float) -> bool:
    return isinstance(message, PlantMessage) and message.done
