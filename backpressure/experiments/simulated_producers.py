"""The producers of a simulated run: as many as the phase asks for; many are modelled as groups of equal ones."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from backpressure.core.plant import Plant, PlantProducer
from backpressure.core.signals import Law
from backpressure.derived import own_limit_per_s, retries
from backpressure.experiments.accounts import ConfirmTimes
from backpressure.experiments.recording import RecordedProcess, nanoseconds
from backpressure.experiments.scenario import Phase, process_seed
from backpressure.settings import Settings

MODELLED_PRODUCERS = 16
"""More producers than this are modelled as groups of equal ones, each with the weight of its members."""


@dataclass(frozen=True, slots=True)
class Killed:
    """``ended`` of the ``members`` that ``producer`` stands for, and how much of their limits they ``owed``."""

    producer: PlantProducer
    members: int
    ended: int
    owed: int


class SimulatedProducers:
    """Starts, changes and stops producers, and records when their messages were confirmed."""

    def __init__(self, plant: Plant, seed: int, law: Callable[[Settings, Plant], Law]) -> None:
        """``seed`` is the run's; ``law`` builds the law of each producer."""
        self._plant = plant
        self._seed = seed
        self._law = law
        self._groups: list[tuple[PlantProducer, int]] = []
        self._gone: list[tuple[PlantProducer, int, float]] = []
        self._begun: dict[PlantProducer, float] = {}
        self._confirmed_ns: dict[PlantProducer, array[int]] = {}
        self._noted: Counter[PlantProducer] = Counter()
        self._owed = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(members for _, members in self._groups)

    @property
    def finished(self) -> bool:
        """Whether all producers have reached their limits, also those that will replace killed ones."""
        return not self._owed and all(p.arrived + p.rejected >= p.limit for p, _ in self._groups)

    def use(self, phase: Phase, *, first: bool) -> None:
        """Apply the settings of ``phase``."""
        settings, now = phase.settings, self._plant.now
        if any(key.startswith(("control.", "producer.strategy")) for key in phase.changes):
            self._restart(settings)
        if first or "producer.count" in phase.changes:
            self._scale(settings)
        burst_s = settings.producer.burst_ms / 1000
        for producer, members in self._groups:
            producer.demand_per_s = settings.producer.rate * members
            producer.confirm_window = settings.producer.confirm_window * members
            retry = retries(settings, producer.law)
            producer.change(weight=settings.producer.weight * members, retry=retry, burst_s=burst_s, now=now)
        if not first and {"producer.arrivals", "producer.burst_ms"} & set(phase.changes):
            for number, (producer, _) in enumerate(self._groups, len(self._gone) + 1):
                producer.arrive_by(self._gap(settings, number), now)

    def follow(self, settings: Settings, share: float) -> None:
        """Offer this share of the settings' rate."""
        for producer, members in self._groups:
            producer.demand_per_s = settings.producer.rate * share * members

    def kill(self, count: int) -> list[Killed]:
        """End the oldest ``count`` without a last report and return them."""
        killed: list[Killed] = []
        for producer, members in self._groups:
            ended = min(count, members)
            count -= ended
            killed.append(Killed(producer, members, ended, _left(producer) * ended // members))
            if count == 0:
                break
        for one in killed:
            self._owed += one.owed
            if one.ended == one.members:
                self._plant.remove_producer(one.producer, silently=True)
                self._gone.append((one.producer, one.members, self._plant.now))
            else:
                one.producer.shrink((one.members - one.ended) / one.members)
                one.producer.limit -= one.owed
        rest = ((one.producer, one.members - one.ended) for one in killed if one.ended < one.members)
        self._groups[: len(killed)] = rest
        return killed

    def replace(self, killed: Iterable[Killed], settings: Settings) -> None:
        """Start a new producer for each killed one, with what is left of its limit, unless nothing is left."""
        for one in killed:
            self._owed -= one.owed
            if one.ended < one.members and (one.producer, one.members - one.ended) in self._groups:
                one.producer.shrink(one.members / (one.members - one.ended))
                one.producer.limit += one.owed
                self._groups[self._groups.index((one.producer, one.members - one.ended))] = (one.producer, one.members)
            elif one.owed or not settings.producer.limit:
                self._start(settings, one.ended, one.owed)

    def note_confirms(self, at_ns: int) -> None:
        """Record the confirms since the last call, with this time."""
        for producer, _ in self._groups:
            self._confirmed_ns[producer].extend([at_ns] * (producer.arrived - self._noted[producer]))
            self._noted[producer] = producer.arrived

    def processes(self) -> list[RecordedProcess]:
        """Return when each began and ended."""
        return [
            RecordedProcess("producer", f"producer-{number}", 0, nanoseconds(self._begun[p]), nanoseconds(end_s))
            for number, (p, _, end_s) in enumerate(self._everyone(), 1)
        ]

    def confirmed_by(self) -> dict[str, ConfirmTimes]:
        """Return when the messages of each were confirmed."""
        found: dict[str, ConfirmTimes] = {}
        for number, (producer, members, _) in enumerate(self._everyone(), 1):
            found[f"producer-{number}"] = times = ConfirmTimes(members)
            times.extend(self._confirmed_ns[producer])
        return found

    def _restart(self, settings: Settings) -> None:
        """Replace all producers by ones with another law; each continues with what is left of its limit."""
        before = list(self._groups)
        self._remove(0)
        for old, members in before:
            if _left(old) or not old.limit:
                self._start(settings, members, _left(old))

    def _scale(self, settings: Settings) -> None:
        """Let producers join or leave, as real ones do; groups are replaced by groups of another size."""
        wanted, present = _grouped(settings.producer.count), [members for _, members in self._groups]
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(wanted, present, strict=False))))
        self._remove(same)
        for members in wanted[same:]:
            self._start(settings, members, settings.producer.limit * members)

    def _start(self, settings: Settings, members: int, limit: int) -> None:
        producer, law = settings.producer, self._law(settings, self._plant)
        added = self._plant.add_producer(
            law,
            producer.rate * members,
            weight=producer.weight * members,
            retry=retries(settings, law),
            burst_s=producer.burst_ms / 1000,
            own_limit_per_s=own_limit_per_s(settings, law) * members,
            gap=self._gap(settings, len(self._gone) + len(self._groups) + 1),
        )
        added.limit = limit
        added.confirm_window = producer.confirm_window * members
        added.line.width = members
        self._groups.append((added, members))
        self._begun[added] = self._plant.now
        self._confirmed_ns[added] = array("q")

    def _remove(self, first: int) -> None:
        for old, members in self._groups[first:]:
            self._plant.remove_producer(old)
            self._gone.append((old, members, self._plant.now))
        del self._groups[first:]

    def _everyone(self) -> Iterator[tuple[PlantProducer, int, float]]:
        yield from self._gone
        yield from ((producer, members, self._plant.now) for producer, members in self._groups)

    def _gap(self, settings: Settings, number: int) -> Callable[[], float] | None:
        """Return the source of random gaps between arrivals, as in a real producer; None: they are even."""
        source = random.Random(process_seed(self._seed, f"producer-{number}"))  # noqa: S311 - arrivals, not secrets
        return (lambda: source.expovariate(1.0)) if settings.producer.arrivals == "poisson" else None


def _left(producer: PlantProducer) -> int:
    """Return how much of its limit a producer has still to send; 0 without a limit."""
    return producer.limit - producer.arrived - producer.rejected if producer.limit else 0


def _grouped(count: int) -> list[int]:
    """Return how many producers each modelled one stands for."""
    groups = min(count, MODELLED_PRODUCERS)
    return [count // groups + (index < count % groups) for index in range(groups)]
