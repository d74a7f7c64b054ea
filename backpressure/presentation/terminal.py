"""Consoles, and the colours of a terminal, readable on white and on black.

A terminal's own sixteen are made for one background: yellow, green and cyan all but vanish on white, blue on black.
These are fixed entries of the 256-colour palette in between, with a contrast of at least 3.9 to 1 on either side (the
most there can be is 4.6). A terminal of sixteen colours gets the nearest of its own.
"""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.theme import Theme

__all__ = ["PALETTE", "new_console"]

_COLOURS = {
    "red": "color(196)",
    "yellow": "color(130)",
    "green": "color(28)",
    "cyan": "color(30)",
    "blue": "color(27)",
    "magenta": "color(163)",
}

PALETTE: Final = Theme(_COLOURS | {f"bold {name}": f"bold {colour}" for name, colour in _COLOURS.items()})
"""For a console that draws on any background."""


def new_console(**options: Any) -> Console:
    """Return a console for standard output in these colours; ``options`` are those of rich's."""
    return Console(theme=PALETTE, **options)
