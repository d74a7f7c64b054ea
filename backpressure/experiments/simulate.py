"""Runs a scenario in virtual time: the same laws, the same `Summary`, no broker and no waiting.

The plant (`backpressure.core.plant`) models broker, consumers and feedback; what it counts becomes a `Recording`, so
that one analysis and one report serve real and simulated runs. What a model cannot know (CPU, memory, losses of a
process that crashes) is left out rather than invented.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from math import ceil
from typing import Literal

from backpressure.core.controllers import create
from backpressure.core.ledger import LedgerTotals
from backpressure.core.plant import Network, Plant, PlantProducer, Queue, Sample, Workers, WorkQueue
from backpressure.core.signals import Law
from backpressure.engines.composer import retries
from backpressure.engines.pacing import law_config, own_limit_per_s
from backpressure.experiments.accounts import Accounts
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.fleet import load_of, process_seed, service
from backpressure.experiments.recording import RecordedPhase, RecordedProcess, Recording
from backpressure.experiments.sample import Sample as RecordedSample
from backpressure.experiments.scenario import Phase, Scenario
from backpressure.settings import Settings

__all__ = ["MODELLED_PRODUCERS", "accounts_of", "service_times", "simulate", "workers_of"]

MODELLED_PRODUCERS = 16
"""More producers than this are modelled as groups of equal ones, each with the weight of its members."""

_NS = 1_000_000_000
_CHECK_S = 0.1
_ROUND_TRIP_S = 0.002
_SPARE = 2


def simulate(
    scenario: Scenario,
    *,
    seed: int | None = None,
    law: Callable[[Settings, Plant], Law] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Recording:
    """Return what a run of ``scenario`` would have recorded.

    Args:
        scenario: any scenario; faults of processes and networks are not modelled.
        seed: other random numbers than the scenario's own.
        law: builds each producer's law; None: the scenario's strategy.
        progress: told the virtual seconds that have passed, once per simulated second.

    Raises:
        ConfigError: there is no such law, or it does not accept its parameters.
    """
    return _Simulation(scenario, scenario.seed if seed is None else seed, law or _configured, progress).run()


class _Simulation:
    """One simulated run."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        law: Callable[[Settings, Plant], Law],
        progress: Callable[[float], None],
    ) -> None:
        self._scenario = scenario
        self._law = law
        self._progress = progress
        settings = scenario.settings
        self._plant = Plant(
            random.Random(seed).random,  # noqa: S311 - losses and phases, not secrets
            service=service_times(seed),
            workers=workers_of(settings),
            queue=Queue(max_length=settings.queue.max_length, overflow=_overflow(settings)),
            network=Network(
                report_interval_s=settings.feedback.interval_ms / 1000, timeout_s=settings.feedback.timeout_s
            ),
            tick_s=settings.control.tick_ms / 1000,
        )
        self._groups: list[tuple[PlantProducer, int]] = []
        self._gone: list[tuple[PlantProducer, int, float, float]] = []
        self._begun: dict[PlantProducer, float] = {}
        self._confirmed_in: dict[PlantProducer, Counter[int]] = {}
        self._noted: Counter[PlantProducer] = Counter()
        self._loads: list[LoadChanged] = []
        self._phases: list[RecordedPhase] = []

    def run(self) -> Recording:
        for phase in self._scenario.phases:
            self._begin(phase)
            began_s = self._plant.now
            reached = self._wait(phase)
            self._phases.append(RecordedPhase(phase.name, _ns(began_s), _ns(self._plant.now), reached))
        return self._recording()

    def _begin(self, phase: Phase) -> None:
        settings, plant = phase.settings, self._plant
        plant.set_queue(Queue(max_length=settings.queue.max_length, overflow=_overflow(settings)))
        if plant.now:
            plant.set_workers(workers_of(settings))
        if any(key.startswith(("control.", "producer.strategy")) for key in phase.changes):
            self._remove_producers(0)
        self._scale_producers(settings)
        for producer, members in self._groups:
            producer.demand_per_s = settings.producer.rate * members
        self._loads.append(load_of(settings, _ns(plant.now), settings.consumer.count, settings.producer.count))

    def _scale_producers(self, settings: Settings) -> None:
        """Let producers join or leave, as the real ones do; those that stand for several are replaced by others."""
        plant, producer = self._plant, settings.producer
        wanted, present = _grouped(producer.count), [members for _, members in self._groups]
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(wanted, present, strict=False))))
        self._remove_producers(same)
        for members in wanted[same:]:
            added = plant.add_producer(
                self._law(settings, plant),
                producer.rate * members,
                weight=producer.weight * members,
                retry=retries(producer),
                burst_s=producer.burst_ms / 1000,
                own_limit_per_s=own_limit_per_s(settings) * members,
            )
            added.limit = producer.limit * members
            self._groups.append((added, members))
            self._begun[added] = plant.now
            self._confirmed_in[added] = Counter()

    def _remove_producers(self, first: int) -> None:
        for old, members in self._groups[first:]:
            self._plant.remove_producer(old)
            self._gone.append((old, members, self._begun[old], self._plant.now))
        del self._groups[first:]

    def _wait(self, phase: Phase) -> bool | None:
        """Let the phase pass; return whether its ``until`` came true (None without one)."""
        end_s = self._plant.now + phase.duration_s
        while self._plant.now < end_s - 1e-9:
            second = int(self._plant.now)
            self._plant.run(min(_CHECK_S, end_s - self._plant.now))
            self._note_confirms(second)
            self._progress(self._plant.now)
            if phase.until is not None and self._reached(phase):
                return True
        return None if phase.until is None else False

    def _note_confirms(self, second: int) -> None:
        for producer, _ in self._groups:
            self._confirmed_in[producer][second] += producer.arrived - self._noted[producer]
            self._noted[producer] = producer.arrived

    def _reached(self, phase: Phase) -> bool:
        settings = phase.settings
        published = sum(p.arrived + p.rejected for p, _ in self._groups) >= (
            settings.producer.limit * settings.producer.count
        )
        if phase.until == "published":
            return published
        empty = self._plant.queue.depth == 0
        return empty if phase.until == "drained" else empty and published

    def _recording(self) -> Recording:
        plant, settings = self._plant, self._scenario.settings
        everyone = [*self._gone, *((p, n, self._begun[p], plant.now) for p, n in self._groups)]
        processes = [
            RecordedProcess("producer", f"producer-{number}", 0, _ns(begun_s), _ns(end_s))
            for number, (_, _, begun_s, end_s) in enumerate(everyone, 1)
        ]
        rejected = plant.samples[-1].rejected if plant.samples else 0
        accounts = accounts_of(plant.queue, rejected=rejected, confirm_latency_s=plant.network.confirm_latency_s)
        accounts.confirmed_by = {
            f"producer-{number}": {second: count / n for second, count in self._confirmed_in[p].items()}
            for number, (p, n, _, _) in enumerate(everyone, 1)
        }
        return Recording(
            scenario=self._scenario.name,
            strategy=settings.producer.strategy,
            broker="simulation",
            broker_version="",
            started_at="",
            expectations=self._scenario.expectations,
            phases=self._phases,
            loads=self._loads,
            processes=processes,
            samples=list(_samples(plant.samples)),
            outcome="finished",
            queues_read=True,
            accounts=accounts,
        )


class _CountedLedger:
    """The plant neither loses nor repeats messages: its counts are the ledger."""

    def __init__(self, queue: WorkQueue, rejected: int) -> None:
        self._totals = LedgerTotals(
            confirmed=queue.arrived,
            processed=queue.processed,
            dead_lettered=0,
            dropped=queue.dropped,
            left_in_queue=queue.depth,
            rejected=rejected,
            returned=0,
            unsettled=0,
            lost=queue.arrived - queue.processed - queue.dropped - queue.depth,
            duplicates=0,
        )

    def totals(self) -> LedgerTotals:
        return self._totals


def accounts_of(queue: WorkQueue, *, rejected: int = 0, confirm_latency_s: float = 0.0) -> Accounts:
    """Return the accounts of all messages that went through ``queue``, each confirmed after the same time."""
    accounts = Accounts()
    for at_s, wait_s in zip(queue.starts_s, queue.waits_s, strict=True):
        accounts.waits.add(_ns(at_s), _ns(wait_s))
        accounts.confirms.add(_ns(at_s - wait_s), _ns(confirm_latency_s))
    for at_s, sojourn_s in zip(queue.done_s, queue.sojourns_s, strict=True):
        accounts.end_to_end.add(_ns(at_s), _ns(sojourn_s))
    accounts.done_ns.extend(accounts.end_to_end.at_ns)
    accounts.delivered = queue.processed
    accounts.ledger = _CountedLedger(queue, rejected)  # type: ignore[assignment]  # asked for its totals alone
    return accounts


def _samples(samples: list[Sample]) -> Iterator[RecordedSample]:
    """Turn the plant's totals into a real run's samples, whose rates look back one second."""
    offered = 0.0
    before_s = 0.0
    window: list[Sample] = []
    for sample in samples:
        offered += sample.demand_per_s * (sample.at_s - before_s)
        before_s = sample.at_s
        window = [old for old in window if sample.at_s - old.at_s <= 1.0 + 1e-9] + [sample]
        first, span_s = window[0], sample.at_s - window[0].at_s
        yield RecordedSample(
            t_s=round(sample.at_s, 3),
            ready=sample.ready,
            unacked=sample.depth - sample.ready,
            offered_per_s=sample.demand_per_s,
            published_per_s=(sample.arrived - first.arrived) / span_s if span_s else None,
            processed_per_s=(sample.processed - first.processed) / span_s if span_s else None,
            nacked_per_s=(sample.rejected - first.rejected) / span_s if span_s else None,
            allowed_per_s=min(sum(sample.rates_per_s), sample.demand_per_s),
            offered_total=ceil(offered),
            signal_age_ms=sample.signal_age_s and sample.signal_age_s * 1000,
        )


def service_times(seed: int) -> Callable[[], float]:
    """Return the numbers that service times are made of: those of the first consumer of a real run with this seed."""
    return random.Random(process_seed(seed, "consumer-1")).random  # noqa: S311 - service times, not secrets


def _configured(settings: Settings, _plant: Plant) -> Law:
    return create(settings.producer.strategy, law_config(settings))


def _grouped(count: int) -> list[int]:
    """Return how many producers each modelled one stands for."""
    groups = min(count, MODELLED_PRODUCERS)
    return [count // groups + (index < count % groups) for index in range(groups)]


def workers_of(settings: Settings) -> Workers:
    """Return the consumers that ``settings`` ask for; an automatic prefetch is what a local broker makes of it."""
    consumer = settings.consumer
    mean_s, _ = service(settings)
    spread = 0.0
    if consumer.distribution == "uniform" and mean_s > 0:
        spread = (consumer.processing_max_ms - consumer.processing_min_ms) / 2000 / mean_s
    prefetch = consumer.prefetch if consumer.prefetch != "auto" else ceil(_ROUND_TRIP_S / mean_s) + 1 + _SPARE
    return Workers(
        count=consumer.count,
        rate_per_s=1 / mean_s,
        distribution=consumer.distribution,
        spread=spread,
        prefetch=prefetch,
    )


def _overflow(settings: Settings) -> Literal["reject-publish", "drop-head"]:
    return "drop-head" if settings.queue.overflow == "drop-head" else "reject-publish"


def _ns(seconds: float) -> int:
    return round(seconds * _NS)
