"""The trade-off of a comparison as a picture: capacity used against waiting, a point for each law.

It is drawn here, not in the browser: it needs no script, and a test can tell that no name lies on another. A name
stands beside its point where there is room, else further off with a line to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, cos, floor, log10, pi, sin

from backpressure.experiments.comparison import Comparison, Spread, Standing
from backpressure.presentation.numbers import duration, percent

WIDTH, HEIGHT = 760.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 20.0, 14.0, 44.0
_LEAST_MS = 0.1  # the axis is logarithmic
_CHARACTER, _LINE = 7.4, 14.0  # of a name, at 12 pixels
_RADIUS = 6.0
_HUES = ("blue", "orange", "green", "violet", "rose", "teal", "grey", "ink")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, y downwards."""

    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share an area."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def within(self, other: Box) -> bool:
        """Return whether all of it lies in ``other``."""
        return (
            other.x <= self.x
            and other.y <= self.y
            and self.x + self.width <= other.x + other.width
            and self.y + self.height <= other.y + other.height
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A name beside its point; ``far``: a line leads to it."""

    box: Box
    far: bool


def placed(points: Sequence[tuple[float, float, str]], frame: Box, obstacles: Sequence[Box] = ()) -> list[Placed]:
    """Return where each name stands: near its point, within ``frame``, on no point, obstacle or other name."""
    taken = [Box(x - _RADIUS, y - _RADIUS, 2 * _RADIUS, 2 * _RADIUS) for x, y, _ in points] + list(obstacles)
    names: list[Placed] = []
    for x, y, name in points:
        width = _CHARACTER * len(name)
        best = next(
            (
                option
                for option in _options(x, y, width)
                if option.box.within(frame) and not any(option.box.overlaps(other) for other in taken)
            ),
            Placed(Box(x, y, width, _LINE), far=False),
        )
        taken.append(best.box)
        names.append(best)
    return names


def _options(x: float, y: float, width: float) -> list[Placed]:
    """Return the places of a name around a point, the nearest first: to the right, below, above, to the left."""
    options = []
    for ring in range(12):
        distance = _RADIUS + 4 + 12 * ring
        for turn in (0, 0.25, -0.25, 1, 0.5, -0.5, 0.75, -0.75):
            across, down = cos(turn * pi), sin(turn * pi)
            centre_x = x + across * (distance + width / 2)
            centre_y = y + down * (distance + _LINE / 2)
            options.append(Placed(Box(centre_x - width / 2, centre_y - _LINE / 2, width, _LINE), far=ring > 0))
    return options


def svg(comparison: Comparison) -> str:
    """Return the picture; "" when no law has both figures. Filled: no law is better in both; a star: the oracle."""
    rows = [
        (hue, standing) for hue, standing in enumerate((*comparison.standings, comparison.oracle)) if _known(standing)
    ]
    if not rows:
        return ""
    axes = _Axes([standing for _, standing in rows])
    points = [(axes.x(s.wait_p99_ms or 0.0), axes.y(s.utilisation or 0.0), s.law) for _, s in rows]
    frame = Box(_LEFT, 0, WIDTH - _LEFT, HEIGHT - _BOTTOM)
    bars = [
        Box(axes.x(s.wait_p99_range[0]), axes.y(s.utilisation or 0.0) - 1, axes.length(s.wait_p99_range), 2)
        for _, s in rows
        if s.wait_p99_range
    ]
    marks = [
        _point(standing, hue, at, name, axes, oracle=standing is comparison.oracle)
        for (hue, standing), at, name in zip(rows, points, placed(points, frame, bars), strict=True)
    ]
    told = "; ".join(f"{s.law} {percent(s.utilisation, 1)} at {duration((s.wait_p99_ms or 0) / 1000)}" for _, s in rows)
    return (
        f'<svg class="trade-off" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-label="Capacity used and p99 queue wait: {escape(told)}">{axes.drawn()}{"".join(marks)}</svg>'
    )


def _known(standing: Standing) -> bool:
    return standing.utilisation is not None and standing.wait_p99_ms is not None


class _Axes:
    """Waits from left to right, logarithmic; capacity used from the least shown to 100 %."""

    def __init__(self, standings: Sequence[Standing]) -> None:
        waits = [max(w, _LEAST_MS) for s in standings for w in _ends(s.wait_p99_ms, s.wait_p99_range)]
        shares = [u for s in standings for u in _ends(s.utilisation, s.utilisation_range)]
        self._low, self._high = log10(min(waits)) - 0.15, log10(max(waits)) + 0.15
        if self._high - self._low < 1:
            middle = (self._low + self._high) / 2
            self._low, self._high = middle - 0.5, middle + 0.5
        self._least = max(0.0, min(floor(10 * min(shares) - 0.2) / 10, 0.9))
        self._most = max(1.0, ceil(50 * max(shares)) / 50)

    def x(self, wait_ms: float) -> float:
        share = (log10(max(wait_ms, _LEAST_MS)) - self._low) / (self._high - self._low)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def length(self, waits_ms: Spread) -> float:
        return self.x(waits_ms[1]) - self.x(waits_ms[0])

    def y(self, utilisation: float) -> float:
        share = (utilisation - self._least) / (self._most - self._least)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM - _RADIUS)

    def drawn(self) -> str:
        foot = HEIGHT - _BOTTOM
        lines = []
        span = self._most - self._least
        step = 0.02 if span <= 0.11 else 0.05 if span <= 0.3 else 0.1 if span <= 0.6 else 0.2
        for number in range(ceil(self._least / step - 1e-9), floor(self._most / step + 1e-9) + 1):
            y = self.y(number * step)
            lines.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
            lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * number * step:.0f} %</text>')
        for power in range(floor(self._low), ceil(self._high) + 1):
            for factor in (1, 2, 5) if self._high - self._low < 3 else (1,):
                if self._low <= log10(factor * 10.0**power) <= self._high:
                    x = self.x(factor * 10.0**power)
                    text = duration(factor * 10.0**power / 1000).replace(".0 ", " ")
                    lines.append(f'<path d="M{x:.1f} {_TOP}V{foot}"/>')
                    lines.append(f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{text}</text>')
        lines.append(
            f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">p99 queue wait, logarithmic →</text>'
        )
        return f'<g class="axes">{"".join(lines)}</g>'


def _ends(value: float | None, spread: Spread | None) -> tuple[float, ...]:
    return (value or 0.0, *(spread or ()))


def _point(
    standing: Standing, hue: int, at: tuple[float, float, str], name: Placed, axes: _Axes, *, oracle: bool
) -> str:
    x, y, text = at
    parts = []
    if standing.wait_p99_range:
        least, most = map(axes.x, standing.wait_p99_range)
        parts.append(f'<path d="M{least:.1f} {y:.1f}H{most:.1f}"/>')
    if standing.utilisation_range:
        least, most = map(axes.y, standing.utilisation_range)
        parts.append(f'<path d="M{x:.1f} {least:.1f}V{most:.1f}"/>')
    if name.far:
        end = min(max(x, name.box.x), name.box.x + name.box.width)
        parts.append(f'<path class="lead" d="M{x:.1f} {y:.1f}L{end:.1f} {name.box.y + _LINE / 2:.1f}"/>')
    if oracle:
        parts.append(f'<path class="filled" d="{_star(x, y)}"/>')
    else:
        parts.append(
            f'<circle class="{"filled" if standing.on_front else "open"}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"/>'
        )
    title = f"{text}: {percent(standing.utilisation, 1)} used, p99 {duration((standing.wait_p99_ms or 0) / 1000)}"
    parts.append(
        f'<text x="{name.box.x:.1f}" y="{name.box.y + 11:.1f}">{escape(text)}</text><title>{escape(title)}</title>'
    )
    return f'<g class="{_HUES[hue % len(_HUES)]}">{"".join(parts)}</g>'


def _star(x: float, y: float) -> str:
    corners = (
        (x + radius * sin(n * pi / 5), y - radius * cos(n * pi / 5))
        for n, radius in enumerate((1.5 * _RADIUS, 0.6 * _RADIUS) * 5)
    )
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in corners) + "Z"
