"""Compares several laws on the same scenario, and ranks them beside what was achievable at all.

Pure: summaries in, a table out. Each figure is the median of a law's runs, because machines are noisy and one lucky run
proves nothing. A law is *on the front* (Pareto) when no other law both uses more of the capacity and waits less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from backpressure.experiments.summary import Summary, SummaryModel

__all__ = ["Comparison", "Standing", "rank"]


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


class Comparison(SummaryModel):
    """The table, best first: the laws on the front by their waits, then the others.

    ``oracle_note`` says why the figures of the ``oracle`` are None, if they are.
    """

    scenario: str
    broker: str
    repeat: int
    oracle: Standing
    oracle_note: str = ""
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
        standings=marked,
    )


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
        rejected=max((summary.totals.rejected for summary in summaries), default=None),
        lost=None if None in lost else max((count for count in lost if count is not None), default=None),
        producer_cpu_s=_median(summaries, _producer_cpu_s),
        on_front=False,
    )


def _median(summaries: Sequence[Summary], figure: Callable[[Summary], float | None]) -> float | None:
    """Return the median, or None when the figure is missing in any run: half of a law's runs would mislead."""
    figures = [figure(summary) for summary in summaries]
    known = [value for value in figures if value is not None]
    return round(median(known), 4) if known and len(known) == len(figures) else None


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
