"""Numbers as people read them, on every terminal, page and report: 10K, 1.5M, 12.5 ms.

An unknown value is a dash, never a zero. `amount` is for live values, `figure` for results. ``numbers.js`` beside this
file does the same in a browser; a test compares the two.
"""

from __future__ import annotations

from math import isinf

UNKNOWN = "–"


def amount(value: float | None) -> str:
    """Return a count in at most five characters: 950, 1.5K, 10K, 1.5M, 2.3G."""
    if value is None:
        return UNKNOWN
    if isinf(value):
        return "∞"
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        scaled = abs(value) / size
        if scaled >= 0.9995:  # 999 500 is 1M, not 1000K
            text = f"{scaled:.1f}" if scaled < 99.95 else f"{scaled:.0f}"
            return ("-" if value < 0 else "") + text.removesuffix(".0") + unit
    return f"{value:.1f}".removesuffix(".0") if 0 < abs(value) < 9.95 else f"{value:.0f}"


def rate(per_s: float | None) -> str:
    """Return a rate: 1.5K/s."""
    return UNKNOWN if per_s is None else f"{amount(per_s)}/s"


def duration(seconds: float | None) -> str:
    """Return a duration with two or three significant digits: 250 µs, 12.5 ms, 3.2 s, 4 min."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        milliseconds = seconds * 1e3
        return f"{milliseconds:.1f} ms" if milliseconds < 99.95 else f"{milliseconds:.0f} ms"
    if seconds < 119.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7170 else f"{seconds / 3600:.1f} h"


def binary_bytes(value: float | None) -> str:
    """Return an amount of memory: 512 B, 1.5 KiB, 48 MiB, 2.1 GiB."""
    if value is None:
        return UNKNOWN
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            scaled = value / size
            return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:.0f} {unit}"
    return f"{value:.0f} B"


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share of 1 in percent: 12 %."""
    return UNKNOWN if share is None else f"{100 * share:.{digits}f} %"


def figure(value: float | None, unit: str = "", *, group: str = "\u2009") -> str:
    """Return a result with its ``unit``: whole from 100 on, with ``group`` between thousands, else three digits."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 99.95 or float(value).is_integer():
        text = f"{value:,.0f}".replace(",", group)
    else:
        text = f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{text}\u202f{unit}" if unit else text
