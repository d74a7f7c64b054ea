"""The result of a run: every figure of ``summary.json``, how a dotted path finds one, and what is expected of it.

``docs/summary.md`` documents these models field by field. None means "not measured": there was nothing to measure, or
the run ended too early. It never means 0.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, get_args

from pydantic import BaseModel, ConfigDict

from backpressure.errors import ConfigError

Verdict = Literal["passed", "failed", "interrupted", "error"]


class SummaryModel(BaseModel):
    """The base of all parts of a summary: no undeclared fields, and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Held(SummaryModel):
    """An expectation and its result; ``limit`` is a pair for "between".

    ``uncertainty``: how wrong ``value`` may be, where it was measured between clocks of different machines.
    """

    metric: str
    op: str
    limit: float | tuple[float, float]
    value: float | None
    held: bool
    uncertainty: float | None = None


class MessageTotals(SummaryModel):
    """Messages, by id. published = processed + dead_lettered + dropped + left_in_queue + rejected + returned + lost.

    ``dead_lettered``, ``dropped``, ``left_in_queue``, ``lost`` and ``discarded`` are None when the queues could not be
    read; ``refused`` is when it was not counted. Where programs are not ours, what nobody can
    know is None too. ``acknowledged`` is counted for such consumers only.
    """

    offered: int | None
    published: int | None
    confirmed: int | None
    rejected: int | None
    returned: int | None
    delivered: int | None
    acknowledged: int | None = None
    processed: int | None
    redelivered: int | None
    duplicates: int | None
    out_of_order: int | None
    lost: int | None
    dead_lettered: int | None
    dropped: int | None
    left_in_queue: int | None
    refused: int | None = None
    discarded: int | None = None


class Percentiles(SummaryModel):
    """Of ``count`` durations in milliseconds, exact (nearest rank)."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    count: int = 0


class Depth(SummaryModel):
    """Messages in the work queue: ready, unacked, or on their way between a client and the broker."""

    mean: float | None = None
    max: int | None = None


class PhaseSummary(SummaryModel):
    """One phase; rates in messages per second."""

    name: str
    start_s: float
    end_s: float
    publish_rate: float | None
    process_rate: float | None
    utilisation: float | None
    wait_ms: Percentiles
    wait_bound_ms: float | None
    """The p99 wait that the best possible law could reach with these consumers and signals of that age."""
    depth_max: int | None
    settle_s: float | None
    pause_s: float | None = None
    """The longest time in the phase without a confirmed message; None when there was no message at all."""
    fairness_jain: float | None
    reached: bool | None
    """Whether the ``until`` of the phase came in time; None without one."""
    strategy: str = ""
    fault: str = ""
    offered_rate: float | None = None
    capacity: float | None = None
    """What the consumers could do, mean over the phase; None where nobody knows."""
    depth_start: int | None = None
    refused: int | None = None
    lost: int | None = None
    """Lost messages that were last seen in the phase; None where that is not known of all."""


class ProcessSummary(SummaryModel):
    """One process of the run: CPU seconds used and the largest resident memory; None: it ended before a sample."""

    role: str
    id: str
    pid: int
    cpu_s: float | None
    rss_max_mb: float | None
    agent: str = ""
    """Where it ran, if not on the machine of the run."""


class AgentSummary(SummaryModel):
    """An agent: machine, how many processes it had, how wrong their clock may be, and whether it was lost."""

    name: str
    host: str
    processes: int
    clock_uncertainty_ms: float
    round_trip_ms: float
    lost: bool


class Summary(SummaryModel):
    """All of ``summary.json``."""

    scenario: str
    strategy: str
    broker: str
    broker_version: str
    started_at: str
    duration_s: float
    verdict: Verdict
    sentence: str = ""
    """What decided the verdict."""
    sources: dict[str, str] = {}
    """By figure, how it was obtained where programs are not ours; "not known: …" says why it is None."""
    expectations: list[Held]
    totals: MessageTotals
    utilisation: float | None
    wait_ms: Percentiles
    end_to_end_ms: Percentiles
    confirm_ms: Percentiles
    signal_age_ms: Percentiles
    tick_lateness_ms: Percentiles
    depth: Depth
    fairness_jain: float | None
    phases: list[PhaseSummary]
    processes: list[ProcessSummary]
    clock_uncertainty_ms: float | None = None
    """By how much waits and end-to-end times may be wrong, where processes ran on several machines; None: one clock."""
    agents: list[AgentSummary] = []


def metric_paths(phases: Iterable[str], processes: Iterable[str]) -> list[str]:
    """Return every path an expectation may name: totals also by their bare name, phases and processes by theirs."""
    paths: list[str] = []
    for name, field in Summary.model_fields.items():
        if name in {"expectations", "sources", "agents"}:
            continue
        if name in {"phases", "processes"}:
            model = PhaseSummary if name == "phases" else ProcessSummary
            entries = phases if name == "phases" else processes
            leaves = list(_numbers(model))
            paths += [f"{name}.{entry}.{leaf}" for entry in entries for leaf in leaves]
        elif _is_model(field.annotation):
            paths += [f"{name}.{leaf}" for leaf in _numbers(field.annotation)]
        elif _is_number(field.annotation):
            paths.append(name)
    return [*MessageTotals.model_fields, *paths]


def find_metric(summary: Mapping[str, Any], path: str) -> float | None:
    """Return the figure at ``path`` of a dumped summary.

    None when it was not measured, or belongs to a phase or process that the run did not reach. Raises `KeyError` for a
    path that does not exist.
    """
    value: Any = summary["totals"] if path in MessageTotals.model_fields else summary
    for part in path.split("."):
        value = _entry(value, part) if isinstance(value, Sequence) else value[part]
        if value is None:
            return None
    return float(value)


def _entry(entries: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((entry for entry in entries if name in {entry.get("name"), entry.get("id")}), None)


def _numbers(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if _is_model(field.annotation):
            yield from (f"{name}.{leaf}" for leaf in _numbers(field.annotation))
        elif _is_number(field.annotation):
            yield name


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_number(annotation: Any) -> bool:
    return bool({int, float, bool} & set(get_args(annotation) or (annotation,)))


_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"([-+]?(?:\d[\d_]*)?\.?\d+(?:[eE][-+]?\d+)?)"
_COMPARISON = re.compile(rf"(<=|>=|==|!=|<|>)\s*{_NUMBER}")
_BETWEEN = re.compile(rf"between\s+{_NUMBER}\s+and\s+{_NUMBER}")
_SYNTAX = 'a text such as "<= 300", "== 0" or "between 95 and 105" (operators: <= >= == != < >)'


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a scenario expects of a figure, written as ``"<= 300"`` or ``"between 95 and 105"``.

    ``metric`` is a path into the summary; ``limit`` is a pair, both ends included, when ``op`` is "between".
    ``default``: no scenario states it, so it is checked only where the figure is known.
    """

    metric: str
    op: str
    limit: float | tuple[float, float]
    default: bool = False

    def check(self, summary: Mapping[str, Any]) -> Held:
        """Compare it with the figures of a dumped summary; a figure that was not measured does not hold."""
        value = find_metric(summary, self.metric)
        apart = summary.get("clock_uncertainty_ms") if self._is_between_clocks else None
        held = self._holds(value)
        if value is not None and apart is not None:  # it has to hold, however wrong the clocks are
            held = held and self._holds(value - apart) and self._holds(value + apart)
        return Held(metric=self.metric, op=self.op, limit=self.limit, value=value, held=held, uncertainty=apart)

    @property
    def _is_between_clocks(self) -> bool:
        """Whether the figure is a time from what one process does to what another does."""
        *where, leaf = self.metric.split(".")
        return where[-1:] in (["wait_ms"], ["end_to_end_ms"]) and leaf != "count"

    def _holds(self, value: float | None) -> bool:
        if value is None:
            return False
        if isinstance(self.limit, tuple):
            return self.limit[0] <= value <= self.limit[1]
        return _OPERATORS[self.op](value, self.limit)


def parse_expectation(metric: str, text: object, known: Collection[str], source: str) -> Expectation:
    """Return the expectation; raises `ConfigError` for an unknown metric or a text of another form."""
    if metric not in known:
        near = difflib.get_close_matches(metric, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "docs/summary.md lists them"
        raise ConfigError(f"expect.{metric}", text, f"no such metric in summary.json; {hint}", source)
    if isinstance(text, str):
        if match := _COMPARISON.fullmatch(text.strip()):
            return Expectation(metric, match[1], float(match[2]))
        if match := _BETWEEN.fullmatch(text.strip()):
            low, high = float(match[1]), float(match[2])
            if low > high:
                raise ConfigError(f"expect.{metric}", text, "the first bound must not be above the second", source)
            return Expectation(metric, "between", (low, high))
    raise ConfigError(f"expect.{metric}", text, f"expected {_SYNTAX}", source)
