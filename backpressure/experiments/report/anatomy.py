"""The wait anatomy as a stacked bar for each band of messages; plain HTML, so it needs no script."""

from __future__ import annotations

from collections.abc import Sequence

from backpressure.experiments.anatomy import PARTS, Band
from backpressure.presentation.numbers import figure

__all__ = ["wait_anatomy"]

_HUES = ("orange", "grey", "blue", "violet", "green")


def wait_anatomy(bands: Sequence[Band]) -> str:
    """Return one bar for each band, as long as its share of the slowest one's time, in the colours of the parts."""
    if not bands:
        return "<p>No message was processed whose times are known.</p>"
    longest_ms = max(band.total_ms for band in bands) or 1.0
    legend = "".join(
        f'<span><i style="background:var(--{hue})"></i>{part}</span>' for part, hue in zip(PARTS, _HUES, strict=True)
    )
    rows = "".join(
        f"<tr><td>p{100 * band.lower:g} – p{100 * band.upper:g}</td><td class=n>{figure(band.total_ms, 'ms')}</td>"
        f"<td class=bars>{_bar(band, longest_ms)}</td></tr>"
        for band in bands
    )
    return (
        f"<p class=legend>{legend}</p><div class=scroll><table class=anatomy><thead><tr><th>messages</th>"
        f"<th class=n>end to end, mean</th><th>where the time went</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p><small>A sample of {figure(sum(band.messages for band in bands))} messages, sorted by their end-to-end "
        "time. Held back: by pace and confirm window. Taken: until the broker confirmed (or delivered) it. Prefetched: "
        "in the consumer's buffer.</small></p>"
    )


def _bar(band: Band, longest_ms: float) -> str:
    return "".join(
        f'<i style="width:{100 * part_ms / longest_ms:.2f}%;background:var(--{hue})" '
        f'title="{part}: {figure(part_ms, "ms")}"></i>'
        for part, part_ms, hue in zip(PARTS, band.parts_ms, _HUES, strict=True)
    )
