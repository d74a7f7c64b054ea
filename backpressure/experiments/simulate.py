"""Runs a scenario in virtual time: the same laws and the same `Summary`, without a broker or waiting.

The plant (`backpressure.core.plant`) models broker, consumers and feedback, and `simulated_faults` the faults. What the
plant has counted becomes what a run records: a `Recording`, so one analysis and one report serve real and simulated
runs. Figures that a model cannot know (CPU, memory) are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from math import ceil, inf, sqrt
from typing import Literal

from backpressure.config import replaced
from backpressure.core.ledger import LedgerTotals
from backpressure.core.plant import Failures, Network, Plant, PlantSample, QueueBound, Strangers, Workers, WorkQueue
from backpressure.core.profiles import Profile
from backpressure.core.signals import Law
from backpressure.derived import law_config, retry_policy
from backpressure.engines.payloads import profile_of
from backpressure.errors import ConfigError
from backpressure.experiments.accounts import Accounts
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.faults import Fault
from backpressure.experiments.recording import RecordedFault, RecordedPhase, Recording, Sample, nanoseconds
from backpressure.experiments.scenario import Phase, Scenario, StrangerSettings, Until, load_of, process_seed, service
from backpressure.experiments.simulated_faults import check_simulated, simulated
from backpressure.experiments.simulated_producers import SimulatedProducers
from backpressure.laws import create
from backpressure.settings import Settings

_CHECK_S = 0.1
_TELL_S = 0.5
_ROUND_TRIP_S = 0.002
_SPARE = 2
_CUSHION_S = 0.02


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
        ConfigError: the law does not exist or does not accept its parameters, or a fault or a program of the
            user has no model.
    """
    check_simulated(scenario.faults)
    modelled = _modelled(scenario)
    return _Simulation(modelled, modelled.seed if seed is None else seed, law or _configured, progress).run()


def _modelled(scenario: Scenario) -> Scenario:
    """Return the scenario as it can be modelled: consumers that are not ours report nothing and work at a stated rate.

    Raises `ConfigError` for what no model knows.
    """
    if scenario.roles["producer"].is_stranger:
        raise ConfigError("producer.command", scenario.roles["producer"].command, "cannot be simulated: use pace run")
    if not scenario.capacity_known:
        allowed = "a simulation has to know what one consumer of yours can do: state consumer.rate, or use pace run"
        raise ConfigError("consumer.rate", None, allowed)
    if "consumer" in scenario.strange and not scenario.strangers.count:
        return replace(scenario, strangers=scenario.strangers.model_copy(update={"count": "all"}))
    return scenario


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
            workers=_with_strangers(workers_of(settings), scenario.strangers),
            queue=QueueBound(max_length=settings.queue.max_length, overflow=_overflow(settings)),
            network=_seen_by(
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
        self._fault: Fault | None = None
        self._undone_at_s = inf
        self._phase_ends_s = 0.0
        self._profile = Profile()
        self._profile_from_s = self._told_s = 0.0
        self._share = 1.0

    def run(self) -> Recording:
        for phase in self._scenario.phases:
            self._begin(phase)
            began_s = self.plant.now
            # Counted from the due end of the last phase, so that rounding to whole steps does not add up.
            self._phase_ends_s += phase.duration_s
            reached = self._wait(phase)
            times_ns = nanoseconds(began_s), nanoseconds(self.plant.now)
            self._phases.append(RecordedPhase(phase.name, *times_ns, reached, *phase.circumstances))
        self._undo_fault()
        return self._recording()

    # --- phases ---------------------------------------------------------------------------------------------------

    def _begin(self, phase: Phase) -> None:
        if self._fault is not None and not self._fault.goes_on_as(phase.fault):
            self._undo_fault()
        first = not self._phases
        self.settings = settings = phase.settings
        self.plant.set_queue(QueueBound(max_length=settings.queue.max_length, overflow=_overflow(settings)))
        if not first:
            self.man()
        self.fail({})
        self.producers.use(phase, first=first)
        if first or "producer.profile" in phase.changes:
            self._profile, self._profile_from_s = profile_of(settings), self.plant.now
        self._share = 1.0
        self._follow_profile()
        self._loads.append(
            load_of(settings, self._now_ns, settings.consumer.count, settings.producer.count, share=self._share)
        )
        if phase.fault is not None and self._fault is None:
            self._inject(phase.fault)

    def _wait(self, phase: Phase) -> bool | None:
        """Let the phase pass; return whether its ``until`` was met (None without one)."""
        while not self.plant.has_come_to(self._phase_ends_s):
            since_ns = self._now_ns
            changes_s = self._follow_profile()
            self.plant.run_until(min(self.plant.now + _CHECK_S, self._phase_ends_s, self._undone_at_s, changes_s))
            if self.plant.has_come_to(self._undone_at_s):
                self._undo_fault()
            self.producers.note_confirms(since_ns)
            self._progress(self.plant.now)
            if phase.until is not None and self._reached(phase.until):
                self._phase_ends_s = self.plant.now
                return True
        return None if phase.until is None else False

    def _follow_profile(self) -> float:
        """Offer what the profile says for now; return when that may change."""
        now = self.plant.now
        since_s = now - self._profile_from_s
        share = self._profile.share(since_s)
        if share != self._share:
            self._share = share
            self.producers.follow(self.settings, share)
            if now >= self._told_s + _TELL_S:
                self._told_s = now
                self.load_changed()
        return self._profile_from_s + self._profile.next_change_s(since_s)

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
        self._fault = fault
        self._undone_at_s = inf if fault.for_s is None else self.plant.now + fault.for_s

    def _undo_fault(self) -> None:
        self._injected.close()
        self._fault = None
        self._undone_at_s = inf

    def man(self) -> None:
        """See `SimulatedStage.man`."""
        workers = workers_of(self.settings, _ROUND_TRIP_S + 2 * self.plant.network.way_s)
        self.plant.set_workers(_with_strangers(workers, self._scenario.strangers))

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
        working = sum(consumer.speed for consumer in self.plant.queue.consumers if not consumer.hung)
        self._loads.append(load_of(self.settings, self._now_ns, working, self.producers.count, share=self._share))

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
    mean_s, cv = service(settings)
    spread = 0.0
    if consumer.distribution == "uniform" and mean_s > 0:
        spread = (consumer.processing_max_ms - consumer.processing_min_ms) / 2000 / mean_s
    prefetch = consumer.prefetch
    if prefetch == "auto":
        passing = round_trip_s / mean_s
        irregular = max(0.0, 2 * cv * sqrt(passing) - _CUSHION_S / mean_s)  # `PrefetchSizer`; nothing stalls here
        prefetch = ceil(passing + irregular) + 1 + _SPARE
    return Workers(
        count=consumer.count,
        rate_per_s=1 / mean_s,
        distribution=consumer.distribution,
        spread=spread,
        prefetch=prefetch,
    )


def _overflow(settings: Settings) -> Literal["reject-publish", "drop-head"]:
    return "drop-head" if settings.queue.overflow == "drop-head" else "reject-publish"


class _CountedLedger:
    """The plant knows the end of every message, so its counts are the ledger."""

    def __init__(self, queue: WorkQueue, rejected: int) -> None:
        processed, left = queue.processed - queue.duplicates, queue.unprocessed
        self._totals = LedgerTotals(
            confirmed=queue.arrived,
            processed=processed,
            dead_lettered=queue.dead_lettered,
            dropped=queue.dropped,
            left_in_queue=left,
            rejected=rejected,
            returned=0,
            unsettled=0,
            lost=queue.arrived - processed - queue.dead_lettered - queue.dropped - left,
            duplicates=queue.duplicates,
        )

    def totals(self) -> LedgerTotals:
        return self._totals


def accounts_of(
    queue: WorkQueue, *, rejected: int = 0, confirmed_after_s: Callable[[float], float] = lambda _: 0.0
) -> Accounts:
    """Return the accounts of all messages that went through ``queue``.

    ``confirmed_after_s`` returns how long the confirm of a message took that was sent at a given time.
    """
    accounts = Accounts()
    for at_s, wait_s in zip(queue.starts_s, queue.waits_s, strict=True):
        accounts.waits.add(nanoseconds(at_s), nanoseconds(wait_s))
    for sent_s in queue.arrivals_s:
        accounts.confirms.add(nanoseconds(sent_s), nanoseconds(confirmed_after_s(sent_s)))
    for at_s, sojourn_s in zip(queue.done_s, queue.sojourns_s, strict=True):
        accounts.end_to_end.add(nanoseconds(at_s), nanoseconds(sojourn_s))
    accounts.done_ns.extend(accounts.end_to_end.at_ns)
    accounts.delivered = queue.processed + queue.dead_lettered
    accounts.redelivered = queue.redelivered
    accounts.ledger = _CountedLedger(queue, rejected)  # type: ignore[assignment]  # asked for its totals alone
    return accounts


def samples_of(samples: list[PlantSample]) -> Iterator[Sample]:
    """Convert the plant's totals to the samples of a real run, whose rates look back one second."""
    window: list[PlantSample] = []
    for sample in samples:
        window = [old for old in window if sample.at_s - old.at_s <= 1.0 + 1e-9] + [sample]
        first, span_s = window[0], sample.at_s - window[0].at_s
        yield Sample(
            t_s=round(sample.at_s, 3),
            ready=sample.ready,
            unacked=sample.depth - sample.ready,
            offered_per_s=sample.demand_per_s,
            published_per_s=(sample.arrived - first.arrived) / span_s if span_s else None,
            processed_per_s=(sample.processed - first.processed) / span_s if span_s else None,
            nacked_per_s=(sample.nacked - first.nacked) / span_s if span_s else None,
            allowed_per_s=min(sum(sample.rates_per_s), sample.demand_per_s),
            offered_total=ceil(sample.offered),
            nacked_total=sample.nacked,
            signal_age_ms=sample.signal_age_s and sample.signal_age_s * 1000,
        )


def _with_strangers(workers: Workers, settings: StrangerSettings) -> Workers:
    """Return ``workers`` with those that report nothing."""
    count = workers.count if settings.count == "all" else min(settings.count, workers.count)
    if not settings.count:
        return workers
    strangers = Strangers(
        count=count,
        prefetch=settings.prefetch,
        acks=settings.acks,
        commit_interval_s=settings.commit_interval_ms / 1000,
    )
    return replace(workers, strangers=strangers)


def _seen_by(network: Network, settings: StrangerSettings) -> Network:
    """Return ``network`` with what the broker tells."""
    if not settings.count:
        return network
    late = settings.evidence in {"ticks", "collected"}
    return replace(
        network,
        totals=settings.evidence == "fresh",
        statistics_interval_s=settings.statistics_interval_ms / 1000 if late else 0.0,
        collected=settings.evidence == "collected",
        consumer_list=settings.consumer_list and settings.acks != "commit",
    )
