"""What a scenario expects of the figures, written as ``"<= 300"`` or ``"between 95 and 105"``."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from backpressure.errors import ConfigError
from backpressure.experiments.summary import Held, find_metric

__all__ = ["Expectation", "parse_expectation"]

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
    """``metric`` is a path into the summary; ``limit`` is a pair, both ends included, when ``op`` is "between"."""

    metric: str
    op: str
    limit: float | tuple[float, float]

    def check(self, summary: Mapping[str, Any]) -> Held:
        """Compare it with the figures of a dumped summary; a figure that was not measured does not hold."""
        value = find_metric(summary, self.metric)
        return Held(metric=self.metric, op=self.op, limit=self.limit, value=value, held=self._holds(value))

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
