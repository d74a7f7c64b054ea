"""Two sets of runs against each other, figure by figure: what differs beyond noise, and which way.

Each side is one run or several repeats of it; their medians are compared. Noise is what the repeats of either side
differ by among themselves, and never less than a figure's own resolution. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from backpressure.errors import ConfigError
from backpressure.experiments.summary import Summary, find_metric
from backpressure.presentation.terms import metric_name, quantity

USUAL_CHANGE = 0.10
"""A difference up to this share is not called one."""

Direction = Literal["better", "same", "worse", "unknown"]

_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """A figure that is compared: which way is good, and differences up to ``floor`` are none."""

    metric: str
    floor: float
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two sides; ``noise`` is what it varies by without any change, in its own unit."""

    metric: str
    before: float | None
    after: float | None
    noise: float
    direction: Direction

    @property
    def change(self) -> float | None:
        """The change as a share of ``before``; None where that is 0 or unknown."""
        if self.before is None or self.after is None or not self.before:
            return None
        return self.after / self.before - 1


def _compared(phases: Sequence[str]) -> Iterator[ComparedFigure]:
    """Yield the figures that are compared, the most telling first; those of phases come last."""
    for count in ("lost", "discarded", "duplicates", "out_of_order"):
        yield ComparedFigure(f"totals.{count}", 0.0)
    yield ComparedFigure("utilisation", 0.01, more_is_better=True)
    yield ComparedFigure("wait_ms.p99", 10.0)
    yield ComparedFigure("wait_ms.p50", 10.0)
    yield ComparedFigure("end_to_end_ms.p99", 10.0)
    yield ComparedFigure("confirm_ms.p99", 25.0)
    yield ComparedFigure("totals.processed", 1.0, more_is_better=True)
    yield ComparedFigure("totals.refused", 10.0)
    yield ComparedFigure("depth.max", 10.0)
    yield ComparedFigure("duration_s", 1.0)
    for phase in phases:
        yield ComparedFigure(f"phases.{phase}.utilisation", 0.02, more_is_better=True)
        yield ComparedFigure(f"phases.{phase}.wait_ms.p99", 10.0)
        yield ComparedFigure(f"phases.{phase}.settle_s", 1.0)


def differences(
    before: Sequence[Summary], after: Sequence[Summary], *, allowed: float = USUAL_CHANGE
) -> list[Difference]:
    """Return every figure that either side has; one may change by the share ``allowed`` and still be called the same.

    Lost, discarded, duplicate and disordered messages are allowed no share: one more is worse.
    """
    older, newer = [run.model_dump() for run in before], [run.model_dump() for run in after]
    names = [phase.name for phase in after[0].phases]
    shared = [name for name in names if all(name in {phase.name for phase in run.phases} for run in before)]
    found = (_difference(figure, older, newer, allowed) for figure in _compared(shared))
    return [difference for difference in found if difference is not None]


def _difference(
    figure: ComparedFigure, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], allowed: float
) -> Difference | None:
    older, newer = ([find_metric(run, figure.metric) for run in side] for side in (before, after))
    known = [[value for value in side if value is not None] for side in (older, newer)]
    if not known[0] and not known[1]:
        return None
    if len(known[0]) < len(older) or len(known[1]) < len(newer):
        first, second = (median(side) if side else None for side in known)
        return Difference(figure.metric, first, second, figure.floor, _half_known(known))
    first, second = median(known[0]), median(known[1])
    noise = max(figure.floor, *(max(side) - min(side) for side in known))
    change = (first - second) if figure.more_is_better else (second - first)
    share = 0.0 if figure.floor == 0 else allowed * abs(first)
    direction: Direction = "same"
    if abs(change) > max(noise, share):
        direction = "worse" if change > 0 else "better"
    return Difference(figure.metric, first, second, noise, direction)


def _half_known(known: Sequence[Sequence[float]]) -> Direction:
    """Return what it means that some run lacks a figure: worse if it is there no longer."""
    return "worse" if known[0] and not known[1] else "unknown"


def told(difference: Difference, *, of: str = "the baseline's") -> str:
    """Return the difference in words: "p99 wait 40 ms, 34 % above the baseline's 30 ms"."""
    metric = difference.metric
    parts = metric.split(".")
    where = f" in phase {parts[1]}" if parts[0] == "phases" else ""
    name = f"{metric_name(metric)}{where}"
    before, after = (quantity(metric, value) for value in (difference.before, difference.after))
    if difference.after is None:
        return f"{name} is no longer measured ({of} was {before})"
    if difference.change is None:
        return f"{name} {after}, {of} was {before}"
    return f"{name} {after}, {_times(difference.change)} {of} {before}"


_FAMILIES: Mapping[str, tuple[str, str, str]] = {
    "wait_ms.p99": ("waits", "longer", "less"),
    "wait_ms.p50": ("waits", "longer", "less"),
    "utilisation": ("uses", "more of the capacity", "less of the capacity"),
    "settle_s": ("takes", "longer to settle", "less to settle"),
    "end_to_end_ms.p99": ("takes", "longer from end to end", "less from end to end"),
    "confirm_ms.p99": ("takes", "longer to be confirmed", "less to be confirmed"),
    "totals.processed": ("processed", "more messages", "fewer messages"),
    "depth.max": ("has", "more messages in its deepest queue", "fewer messages in its deepest queue"),
    "duration_s": ("lasts", "longer", "shorter"),
}
_MOST_SAID = 3


def versus(found: Sequence[Difference], first: str = "A", second: str = "B") -> str:
    """Return in one sentence how the second side differs from the first: "B waits 3.1 times longer at p99 …"."""
    families: dict[str, list[Difference]] = {}
    for difference in found:
        if difference.direction in {"better", "worse"}:
            families.setdefault(_family(difference.metric), []).append(difference)
    if not families:
        return f"nothing differs beyond noise: {first} and {second} are within {100 * USUAL_CHANGE:.0f} %"
    said = [_versus(group, first, second) for group in families.values()]
    rest = len(said) - _MOST_SAID
    more = f"{rest} more figures differ" if rest > 1 else "one more figure differs" if rest == 1 else ""
    return "; ".join([*said[:_MOST_SAID], more or "nothing else differs beyond noise"])


def _family(metric: str) -> str:
    """Return the figure, of the whole run or of a phase: where it differs in both, the phases say where."""
    return metric.split(".", 2)[2] if metric.startswith("phases.") else metric


def _versus(group: Sequence[Difference], first: str, second: str) -> str:
    phases = [difference for difference in group if difference.metric.startswith("phases.")]
    told_of = max(phases or group, key=lambda difference: abs(difference.change or 0.0))
    where = ""
    if phases:
        names = [
            one.metric.split(".")[1] for one in phases if one is not told_of and one.direction == told_of.direction
        ]
        also = f", and less in {_joined(names)}" if names else ""
        where = f" in phase {told_of.metric.split('.')[1]}{also}"
    family, change = _family(told_of.metric), told_of.change
    before, after = (quantity(told_of.metric, value) for value in (told_of.before, told_of.after))
    if told_of.after is None:
        return f"{second} has no {metric_name(told_of.metric)}{where}, {first} has {before}"
    if change is None or family not in _FAMILIES:
        return f"{second} has {after} {metric_name(told_of.metric)}{where}, {first} {before}"
    verb, more, less = _FAMILIES[family]
    at = f" at {family.partition('.')[2]}" if family.startswith("wait_ms") else ""
    figures = f" ({after}, {first} {before})"
    if change >= 1:
        return f"{second} {verb} {1 + change:.1f} times {more}{at}{where}{figures}".replace(
            "times more", "times as many"
        )
    amount = f"{abs(change):.0%}".replace("%", " %")
    return f"{second} {verb} {amount} {more if change > 0 else less}{at}{where}{figures}"


def _joined(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _times(change: float) -> str:
    if change >= 1:
        return f"{1 + change:.1f} times"
    return f"{abs(change):.0%} {'above' if change > 0 else 'below'}".replace("%", " %")


def parse_share(text: str, option: str) -> float:
    """Return a share such as "10%" or "0.1"; raises `ConfigError` that names ``option``."""
    match = _SHARE.fullmatch(text)
    if match is None:
        raise ConfigError(option, text, "expected a share, for example 10% or 0.1")
    number = float(match[1])
    return number / 100 if match[2] else number
