"""Finds the hardest value at which something holds: bracketing, halving the gap, then confirmation. Pure.

`Search` asks for one trial after the other and is told how it went. It needs no more of the thing itself than that it
does not get easier in the direction called harder; where chance decides near the limit, the confirmation runs move it
to where all of them hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, floor, sqrt

__all__ = ["Search", "failing_share_below"]


@dataclass(slots=True)
class Search:
    """A search between ``easiest`` and ``hardest``, beginning at ``start``.

    Attributes:
        start, easiest, hardest: values above 0; the easiest may be the smallest or the largest.
        precision: the gap at which the search ends, as a share.
        whole: only whole numbers are tried; then the gap is 1.
        confirmations: how many runs must hold at the value that is found.
        step: how much harder or easier the next value is while one side is unknown, as a factor.
        most: how many runs there may be in all; None: as many as it takes.
        held: the hardest value at which every run held so far; None: none yet.
        failed: the easiest value beyond ``held`` at which a run failed; None: none yet.
        outcomes: value → how often it held, how often it was tried.
    """

    start: float
    easiest: float
    hardest: float
    precision: float = 0.02
    whole: bool = False
    confirmations: int = 5
    step: float = 2.0
    most: int | None = None
    held: float | None = None
    failed: float | None = None
    outcomes: dict[float, tuple[int, int]] = field(default_factory=dict)

    def next(self) -> float | None:
        """Return the value to try next; None: it is found, or holds always or never, or there were enough runs."""
        if self.most is not None and sum(tried for _, tried in self.outcomes.values()) >= self.most:
            return None
        held, failed = self.held, self.failed
        if held is None:
            if failed is None:
                return self._rounded(self.start)
            return None if self._is_at(failed, self.easiest) else self._towards(failed, self.easiest)
        if failed is None and not self._is_at(held, self.hardest):
            return self._towards(held, self.hardest)
        if failed is not None and not self._is_close(held, failed):
            return self._between(held, failed)
        return held if self.outcomes[held][1] < self.confirmations else None

    def tell(self, value: float, *, held: bool) -> None:
        """Say how a run at ``value`` ended."""
        holding, tried = self.outcomes.get(value, (0, 0))
        self.outcomes[value] = (holding + held, tried + 1)
        if not held:
            self.failed = value
            if self.held is not None and not self._is_easier(self.held, value):
                # A confirmation failed, so what held there was luck: go on from the next value where all runs held.
                all_held = [
                    v for v, (good, runs) in self.outcomes.items() if good == runs and self._is_easier(v, value)
                ]
                self.held = max(all_held, key=self._hardness, default=None)
        elif holding == tried:
            self.held = value

    def _hardness(self, value: float) -> float:
        return value if self.hardest > self.easiest else -value

    def _is_easier(self, one: float, other: float) -> bool:
        return self._hardness(one) < self._hardness(other)

    def _is_at(self, value: float, bound: float) -> bool:
        return not (self._is_easier(value, bound) if bound == self.hardest else self._is_easier(bound, value))

    def _is_close(self, held: float, failed: float) -> bool:
        low, high = sorted((held, failed))
        return high - low <= 1 if self.whole else high / low <= 1 + self.precision

    def _towards(self, value: float, bound: float) -> float:
        """Return a value a step harder or easier, not beyond the bound."""
        moved = min(value * self.step, bound) if bound > value else max(value / self.step, bound)
        return bound if moved == bound else self._rounded(moved, up=bound > value)

    def _between(self, held: float, failed: float) -> float:
        middle = sqrt(held * failed)
        if self.whole:
            low, high = sorted((held, failed))
            return float(min(max(round(middle), low + 1), high - 1))
        return self._rounded(middle)

    def _rounded(self, value: float, *, up: bool = False) -> float:
        if self.whole:
            return float(ceil(value) if up else max(1, floor(value)))
        return float(f"{value:.4g}")


def failing_share_below(runs: int, confidence: float = 0.95) -> float:
    """Return the share of runs that fail at most, with this confidence, when all of ``runs`` runs held."""
    return float(1 - (1 - confidence) ** (1 / runs)) if runs else 1.0
