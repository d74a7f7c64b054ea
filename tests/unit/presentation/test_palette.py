"""Colours are readable on a white terminal and on a black one."""

from __future__ import annotations

import pytest
from rich.color import Color

from backpressure.presentation.terminal import PALETTE

LEAST = 3.9


def luminance(color: Color) -> float:
    """Return the relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color.get_truecolor().normalized]
    return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", ["red", "yellow", "green", "cyan", "blue", "magenta"])
@pytest.mark.parametrize("weight", ["", "bold "])
def test_each_colour_stands_out_from_white_and_from_black(name: str, weight: str) -> None:
    color = PALETTE.styles[weight + name].color
    assert color is not None
    assert 1.05 / (luminance(color) + 0.05) >= LEAST
    assert (luminance(color) + 0.05) / 0.05 >= LEAST
