"""Compares several laws on the same scenario, and ranks them beside what was achievable at all.

Pure: summaries in, a table and a sentence out. Each figure is the median of a law's runs, because machines are noisy
and one lucky run proves nothing; the range over the runs tells how far they differ. A law is *on the front* (Pareto)
when no other law both uses more of the capacity and waits less. The `oracle` is a bound of the capacity used alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil, comb
from statistics import median

from backpressure.core.plant import QueueBound, WorkQueue
from backpressure.experiments.analysis import summarise
from backpressure.experiments.recording import RecordedPhase, Recording
from backpressure.experiments.scenario import Phase, Scenario, load_of
from backpressure.experiments.simulate import accounts_of, service_times, workers_of
from backpressure.experiments.summary import Summary, SummaryModel
from backpressure.presentation.numbers import duration, percent

Spread = tuple[float, float]
"""The least and the most of several runs."""

ORACLE = (
    "The oracle bounds the capacity used: no law can use more. It always keeps a message waiting for each consumer, so "
    "its wait is no bound: a law that lets consumers pause for a moment, or sends just in time, can wait less"
)
"""What the oracle's row means."""


class Standing(SummaryModel):
    """A law's medians over ``runs`` runs; None where there was nothing to measure.

    Attributes:
        utilisation: processed ÷ capacity while demand exceeded it.
        of_achievable: utilisation ÷ the oracle's.
        wait_p50_ms, wait_p95_ms, wait_p99_ms: queue wait over the whole run, milliseconds.
        wait_ratio: p99 wait ÷ the oracle's.
        settle_s: the slowest phase's time to settle, seconds; None when one phase never settled.
        depth_max: deepest queue, messages.
        rejected, lost: messages; the most of any run.
        producer_cpu_s: processor time of all producers, seconds.
        on_front: whether no other law is better in both utilisation and p99 wait.
        utilisation_range, wait_p99_range: the least and the most of its runs; None for a single run.
    """

    law: str
    runs: int
    utilisation: float | None
    of_achievable: float | None
    wait_p50_ms: float | None
    wait_p95_ms: float | None
    wait_p99_ms: float | None
    wait_ratio: float | None
    settle_s: float | None
    depth_max: float | None
    rejected: int | None
    lost: int | None
    producer_cpu_s: float | None
    on_front: bool
    utilisation_range: Spread | None = None
    wait_p99_range: Spread | None = None


class Comparison(SummaryModel):
    """The table, best first: the laws on the front by their waits, then the others.

    ``sentence`` says what it comes to. ``oracle_note`` says why the figures of the ``oracle`` are None, if they are.
    """

    scenario: str
    broker: str
    repeat: int
    oracle: Standing
    oracle_note: str = ""
    sentence: str = ""
    standings: list[Standing]


def rank(
    scenario: str,
    broker: str,
    runs: Mapping[str, Sequence[Summary]],
    oracle: Sequence[Summary],
    *,
    own: Mapping[str, Sequence[Summary]] | None = None,
    oracle_note: str = "",
) -> Comparison:
    """Return the comparison of ``runs`` (law → its summaries) with those of the ``oracle`` on the same scenario.

    Args:
        scenario: its name.
        broker: where the runs took place.
        runs: the summaries of each law's runs.
        oracle: what was achievable, one summary per run; empty: not known, or not the same for all.
        own: law → what was achievable in its own runs, where that differs.
        oracle_note: why ``oracle`` is empty.
    """
    best = _standing("oracle", oracle, None)
    bests = {law: _standing("oracle", summaries, None) for law, summaries in (own or {}).items()}
    standings = [_standing(law, summaries, bests.get(law, best)) for law, summaries in runs.items()]
    marked = [standing.model_copy(update={"on_front": _on_front(standing, standings)}) for standing in standings]
    marked.sort(key=lambda standing: (not standing.on_front, _worst(standing.wait_p99_ms)))
    return Comparison(
        scenario=scenario,
        broker=broker,
        repeat=max((len(summaries) for summaries in runs.values()), default=0),
        oracle=best,
        oracle_note=oracle_note,
        sentence=_sentence(marked),
        standings=marked,
    )


_NEAR_BEST = 0.95  # laws that use so much of the capacity that the best one uses differ by their waits
_MUCH = 1.1
_PARTS = (  # of two, three, …
    *("half", "a third", "a quarter", "a fifth", "a sixth", "a seventh", "an eighth", "a ninth", "a tenth"),
    *("an eleventh", "a twelfth", "a thirteenth", "a fourteenth", "a fifteenth", "a sixteenth", "a seventeenth"),
    *("an eighteenth", "a nineteenth", "a twentieth"),
)


def _sentence(standings: Sequence[Standing]) -> str:
    """Return which law waits least of those that use the capacity, against the next one, and how sure that is."""
    known = [s for s in standings if s.utilisation is not None and s.wait_p99_ms is not None]
    if not known:
        return ""
    most = max(s.utilisation or 0.0 for s in known)
    first, *others = sorted(
        (s for s in known if (s.utilisation or 0.0) >= _NEAR_BEST * most), key=lambda s: _worst(s.wait_p99_ms)
    )
    others = others or sorted((s for s in known if s is not first), key=lambda s: -(s.utilisation or 0.0))
    used = f"{first.law}: {percent(first.utilisation, 1)} of capacity"
    if not others:
        return f"{used} at a p99 wait of {_wait(first)}."
    other = others[0]
    if (other.utilisation or 0.0) < _NEAR_BEST * most:
        next_one = f"{other.law}, the next, {percent(other.utilisation, 1)} at {_wait(other)}"
        told = f"{used} at a p99 wait of {_wait(first)}; {next_one}"
    else:
        ratio = (other.wait_p99_ms or 0.0) / (first.wait_p99_ms or 1e-9)
        told = f"{used} at {_part(ratio)} the next law's p99 wait ({_wait(first)}; {other.law} {_wait(other)})"
    return f"{told}{_certainty(first, other)}."


def _wait(standing: Standing) -> str:
    return duration((standing.wait_p99_ms or 0.0) / 1000)


def _part(ratio: float) -> str:
    """Return what part of the other's wait it is, in words up to a twentieth."""
    if ratio < _MUCH:
        return "about"
    if ratio < 2 - 0.25:
        return f"{percent(1 / ratio)} of"
    whole = round(ratio)
    return f"{_PARTS[whole - 2]} of" if whole - 2 < len(_PARTS) else f"1/{whole} of"


def _certainty(first: Standing, other: Standing) -> str:
    """Return in how many runs it was so, and how often chance alone would sort as many runs like that."""
    runs = min(first.runs, other.runs)
    if first.wait_p99_range is None or other.wait_p99_range is None:
        return "; one run each, so repeat it (--repeat 3) before relying on it" if runs == 1 else ""
    if first.wait_p99_range[1] < other.wait_p99_range[0]:
        return f", in every one of {first.runs} runs (by chance: 1 in {comb(first.runs + other.runs, first.runs)})"
    return f"; the waits of their {runs} runs overlap, so this is not certain"


def _standing(law: str, summaries: Sequence[Summary], oracle: Standing | None) -> Standing:
    utilisation = _median(summaries, lambda summary: summary.utilisation)
    wait_p99_ms = _median(summaries, lambda summary: summary.wait_ms.p99)
    lost = [summary.totals.lost for summary in summaries]
    return Standing(
        law=law,
        runs=len(summaries),
        utilisation=utilisation,
        of_achievable=_ratio(utilisation, oracle.utilisation if oracle else utilisation),
        wait_p50_ms=_median(summaries, lambda summary: summary.wait_ms.p50),
        wait_p95_ms=_median(summaries, lambda summary: summary.wait_ms.p95),
        wait_p99_ms=wait_p99_ms,
        wait_ratio=_ratio(wait_p99_ms, oracle.wait_p99_ms if oracle else wait_p99_ms),
        settle_s=_median(summaries, _slowest_settling),
        depth_max=_median(summaries, lambda summary: summary.depth.max),
        rejected=max((summary.totals.rejected or 0 for summary in summaries), default=None),
        lost=None if None in lost else max((count for count in lost if count is not None), default=None),
        producer_cpu_s=_median(summaries, _producer_cpu_s),
        on_front=False,
        utilisation_range=_range(summaries, lambda summary: summary.utilisation),
        wait_p99_range=_range(summaries, lambda summary: summary.wait_ms.p99),
    )


def _median(summaries: Sequence[Summary], figure: Callable[[Summary], float | None]) -> float | None:
    """Return the median, or None when the figure is missing in any run: half of a law's runs would mislead."""
    figures = [figure(summary) for summary in summaries]
    known = [value for value in figures if value is not None]
    return round(median(known), 4) if known and len(known) == len(figures) else None


def _range(summaries: Sequence[Summary], figure: Callable[[Summary], float | None]) -> Spread | None:
    known = [value for value in map(figure, summaries) if value is not None]
    return (round(min(known), 4), round(max(known), 4)) if len(known) == len(summaries) > 1 else None


def _slowest_settling(summary: Summary) -> float | None:
    """Return the longest settle time of the phases, or None when an overloaded phase never settled."""
    tested = [phase for phase in summary.phases if phase.utilisation is not None]
    times = [phase.settle_s for phase in tested if phase.settle_s is not None]
    return max(times) if times and len(times) == len(tested) else None


def _producer_cpu_s(summary: Summary) -> float | None:
    times = [process.cpu_s for process in summary.processes if process.role == "producer"]
    known = [time for time in times if time is not None]
    return sum(known) if known and len(known) == len(times) else None


def _ratio(figure: float | None, best: float | None) -> float | None:
    return round(figure / best, 4) if figure is not None and best else None


def _on_front(standing: Standing, others: Sequence[Standing]) -> bool:
    mine = (-(standing.utilisation or 0.0), _worst(standing.wait_p99_ms))
    return not any(_dominates((-(other.utilisation or 0.0), _worst(other.wait_p99_ms)), mine) for other in others)


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def _worst(wait_ms: float | None) -> float:
    return float("inf") if wait_ms is None else wait_ms


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
    """Return the best result possible for ``scenario``, with a view of the consumers that has no delay: law "oracle".

    It optimises the capacity used. It sends the next message at the moment a consumer takes the waiting one, so exactly
    one message waits for each consumer: no consumer pauses, and no message waits longer than one service. No law can
    use more of the capacity. Its wait is no bound: a law that learns of each message with a delay must keep more
    messages waiting where service times vary, but where they are fixed it may keep fewer, since it can send a message
    just before it is needed, and the services of slow consumers are long.

    The oracle knows no faults and no failing work, and its messages are offered evenly.
    """
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
