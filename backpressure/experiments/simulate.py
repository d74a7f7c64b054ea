"""Runs a scenario in virtual time: the same laws and the same `Summary`, without a broker or waiting.

The plant (`backpressure.core.plant`) models broker, consumers and feedback, and `simulated_faults` the faults. The
result is a `Recording`, so one analysis and one report serve real and simulated runs. Figures that a model cannot know
(CPU, memory) are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import ceil, inf
from typing import Literal

from backpressure.config import replaced
from backpressure.core.plant import Failures, Network, Plant, QueueBound, Workers
from backpressure.core.signals import Law
from backpressure.derived import law_config, retry_policy
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.faults import Fault
from backpressure.experiments.recording import RecordedFault, RecordedPhase, Recording, nanoseconds
from backpressure.experiments.scenario import Phase, Scenario, Until
from backpressure.experiments.simulated_accounts import accounts_of, samples_of
from backpressure.experiments.simulated_faults import simulated
from backpressure.experiments.simulated_producers import SimulatedProducers
from backpressure.experiments.simulated_strangers import before_strangers, seen_by
from backpressure.experiments.workload import load_of, process_seed, service
from backpressure.laws import create
from backpressure.settings import Settings

__all__ = ["service_times", "simulate", "workers_of"]

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
        scenario: any scenario.
        seed: replaces the scenario's own seed.
        law: builds each producer's law; None: the scenario's strategy.
        progress: called with the virtual seconds that have passed.

    Raises:
        ConfigError: the law does not exist, or does not accept its parameters.
    """
    return _Simulation(scenario, scenario.seed if seed is None else seed, law or _configured, progress).run()


class _Simulation:
    """One simulated run; also the `SimulatedStage` of its faults."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        law: Callable[[Settings, Plant], Law],
        progress: Callable[[float], None],
    ) -> None:
        self.settings = settings = scenario.settings
        self.plant = Plant(
            random.Random(seed).random,  # noqa: S311 - losses and phases, not secrets
            service=service_times(seed),
            workers=before_strangers(workers_of(settings), scenario.strangers),
            queue=QueueBound(max_length=settings.queue.max_length, overflow=_overflow(settings)),
            network=seen_by(
                Network(report_interval_s=settings.feedback.interval_ms / 1000, timeout_s=settings.feedback.timeout_s),
                scenario.strangers,
            ),
            tick_s=settings.control.tick_ms / 1000,
        )
        self.producers = SimulatedProducers(self.plant, seed, law)
        self._scenario = scenario
        self._progress = progress
        self._failing = random.Random(process_seed(seed, "failures")).random  # noqa: S311 - failures, not secrets
        self._loads: list[LoadChanged] = []
        self._phases: list[RecordedPhase] = []
        self._faults: list[RecordedFault] = []
        self._injected = ExitStack()
        self._undone_at_s = inf
        self._phase_ends_s = 0.0

    def run(self) -> Recording:
        for phase in self._scenario.phases:
            self._begin(phase)
            began_s = self.plant.now
            # Counted from the due end of the last phase, so that rounding to whole steps does not add up.
            self._phase_ends_s += phase.duration_s
            reached = self._wait(phase)
            self._phases.append(RecordedPhase(phase.name, nanoseconds(began_s), nanoseconds(self.plant.now), reached))
        self._undo_fault()
        return self._recording()

    # --- phases ---------------------------------------------------------------------------------------------------

    def _begin(self, phase: Phase) -> None:
        self._undo_fault()
        self.settings = settings = phase.settings
        first = not self._phases
        self.plant.set_queue(QueueBound(max_length=settings.queue.max_length, overflow=_overflow(settings)))
        if not first:
            self.man()
        self.fail({})
        self.producers.use(phase, first=first)
        self._loads.append(load_of(settings, self._now_ns, settings.consumer.count, settings.producer.count))
        if phase.fault is not None:
            self._inject(phase.fault)

    def _wait(self, phase: Phase) -> bool | None:
        """Let the phase pass; return whether its ``until`` was met (None without one)."""
        while not self.plant.has_come_to(self._phase_ends_s):
            since_ns = self._now_ns
            self.plant.run_until(min(self.plant.now + _CHECK_S, self._phase_ends_s, self._undone_at_s))
            if self.plant.has_come_to(self._undone_at_s):
                self._undo_fault()
            self.producers.note_confirms(since_ns)
            self._progress(self.plant.now)
            if phase.until is not None and self._reached(phase.until):
                self._phase_ends_s = self.plant.now
                return True
        return None if phase.until is None else False

    def _reached(self, until: Until) -> bool:
        empty = self.plant.queue.depth == 0
        if until == "drained":
            return empty
        return self.producers.finished and (until == "published" or empty)

    # --- faults ---------------------------------------------------------------------------------------------------

    def _inject(self, fault: Fault) -> None:
        began_ns = self._now_ns
        self._injected.callback(lambda: self._faults.append(RecordedFault(fault.name, began_ns, self._now_ns)))
        self._injected.enter_context(simulated(fault, self))
        self._undone_at_s = inf if fault.for_s is None else self.plant.now + fault.for_s

    def _undo_fault(self) -> None:
        self._injected.close()
        self._undone_at_s = inf

    def man(self) -> None:
        """See `SimulatedStage.man`."""
        workers = workers_of(self.settings, _ROUND_TRIP_S + 2 * self.plant.network.way_s)
        self.plant.set_workers(before_strangers(workers, self._scenario.strangers))

    def fail(self, changes: Mapping[str, float]) -> None:
        """See `SimulatedStage.fail`."""
        consumer = replaced(self.settings, changes).consumer
        self.plant.queue.failures = None
        if consumer.failure_rate or consumer.poison_rate:
            self.plant.queue.failures = Failures(
                draw=self._failing,
                retry=retry_policy(self.settings),
                failure_rate=consumer.failure_rate,
                poison_rate=consumer.poison_rate,
            )

    def load_changed(self) -> None:
        """See `SimulatedStage.load_changed`."""
        working = sum(not consumer.hung for consumer in self.plant.queue.consumers)
        self._loads.append(load_of(self.settings, self._now_ns, working, self.producers.count))

    # --- what came of it ------------------------------------------------------------------------------------------

    @property
    def _now_ns(self) -> int:
        return nanoseconds(self.plant.now)

    def _recording(self) -> Recording:
        plant = self.plant
        rejected = plant.samples[-1].rejected if plant.samples else 0
        accounts = accounts_of(plant.queue, rejected=rejected, confirmed_after_s=plant.confirmed_after_s)
        accounts.confirmed_by = self.producers.confirmed_by()
        return Recording(
            scenario=self._scenario.name,
            strategy=self._scenario.settings.producer.strategy,
            broker="simulation",
            broker_version="",
            started_at="",
            expectations=self._scenario.expectations,
            phases=self._phases,
            loads=self._loads,
            processes=self.producers.processes(),
            samples=list(samples_of(plant.samples)),
            outcome="finished",
            queues_read=True,
            faults=self._faults,
            accounts=accounts,
        )


def service_times(seed: int) -> Callable[[], float]:
    """Return the random numbers of service times: those of the first consumer of a real run with this seed."""
    return random.Random(process_seed(seed, "consumer-1")).random  # noqa: S311 - service times, not secrets


def _configured(settings: Settings, _plant: Plant) -> Law:
    return create(settings.producer.strategy, law_config(settings))


def workers_of(settings: Settings, round_trip_s: float = _ROUND_TRIP_S) -> Workers:
    """Return the consumers of ``settings``; an automatic prefetch gets the size it would have on such a broker."""
    consumer = settings.consumer
    mean_s, _ = service(settings)
    spread = 0.0
    if consumer.distribution == "uniform" and mean_s > 0:
        spread = (consumer.processing_max_ms - consumer.processing_min_ms) / 2000 / mean_s
    prefetch = consumer.prefetch if consumer.prefetch != "auto" else ceil(round_trip_s / mean_s) + 1 + _SPARE
    return Workers(
        count=consumer.count,
        rate_per_s=1 / mean_s,
        distribution=consumer.distribution,
        spread=spread,
        prefetch=prefetch,
    )


def _overflow(settings: Settings) -> Literal["reject-publish", "drop-head"]:
    return "drop-head" if settings.queue.overflow == "drop-head" else "reject-publish"
