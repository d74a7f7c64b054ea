"""The oracle: the best result possible, with a view of the consumers that has no delay.

It sends the next message at the moment a consumer takes the waiting one, so exactly one message waits for each
consumer: no consumer pauses, and no message waits longer than one service. No law can use more of the capacity. A law
that learns of each message with a delay must keep more messages waiting where service times vary. Where they are fixed
it may keep fewer: it can send a message just before it is needed, and the services of slow consumers are long.

The oracle knows no faults and no failing work, and its messages are offered evenly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import ceil

from backpressure.core.plant import QueueBound, WorkQueue
from backpressure.experiments.analysis import summarise
from backpressure.experiments.recording import RecordedPhase, Recording
from backpressure.experiments.scenario import Phase, Scenario
from backpressure.experiments.simulate import service_times, workers_of
from backpressure.experiments.simulated_accounts import accounts_of
from backpressure.experiments.summary import Summary
from backpressure.experiments.workload import load_of

__all__ = ["TOO_LONG", "oracle", "oracles"]

TOO_LONG = "No oracle: it looks at the consumers many times a message, and with so many messages it would take too long"
"""Why `oracles` returned nothing."""

_LONGEST_STEP_S = 0.001
_STEPS_PER_SERVICE = 5
_MOST_STEPS = 5_000_000  # about 15 s of computing, for 100 minutes of a consumer that does 100 msg/s


def oracles(scenarios: Iterable[Scenario]) -> list[Summary]:
    """Return the figures of `oracle` for each scenario; an empty list where one of them would take too long."""
    plans = list(scenarios)
    return [oracle(plan) for plan in plans] if all(_steps(plan) <= _MOST_STEPS for plan in plans) else []


def oracle(scenario: Scenario, seed: int | None = None) -> Summary:
    """Return the figures of a run of ``scenario`` whose pace is always right; its law's name is "oracle"."""
    queue = WorkQueue(service_times(scenario.seed if seed is None else seed), QueueBound())
    now = 0.0
    loads, phases = [], []
    for phase in scenario.phases:
        settings, start_s = phase.settings, now
        workers = replace(workers_of(settings), prefetch=2)
        queue.set_workers(workers, now, lambda: 0.0)
        loads.append(load_of(settings, round(now * 1e9), settings.consumer.count, settings.producer.count))
        demand_per_s = settings.producer.rate * settings.producer.count
        step_s = _step_s(phase)
        offered = 0.0
        while now < start_s + phase.duration_s:
            offered = min(offered + demand_per_s * step_s, 1.0 + demand_per_s * step_s)
            while offered >= 1 and queue.depth < 2 * workers.count:
                queue.arrive(now)
                offered -= 1
            now += step_s
            queue.advance(now)
        phases.append(RecordedPhase(phase.name, round(start_s * 1e9), round(now * 1e9)))
    recording = Recording(
        scenario=scenario.name,
        strategy="oracle",
        broker="simulation",
        broker_version="",
        started_at="",
        expectations=(),
        phases=phases,
        loads=loads,
        processes=(),
        samples=(),
        outcome="finished",
        queues_read=True,
        accounts=accounts_of(queue),
    )
    return summarise(recording)


def _steps(scenario: Scenario) -> int:
    return sum(ceil(phase.duration_s / _step_s(phase)) for phase in scenario.phases)


def _step_s(phase: Phase) -> float:
    return min(_LONGEST_STEP_S, 1 / (_STEPS_PER_SERVICE * max(1.0, workers_of(phase.settings).capacity_per_s)))
