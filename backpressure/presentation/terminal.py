"""Consoles, and the colours of a terminal, readable on white and on black.

The sixteen standard colours suit one background only: yellow, green and cyan are hard to read on white, blue on black.
These are entries of the 256-colour palette with a contrast of at least 3.9 to 1 against both (4.6 is the maximum
possible). A terminal with sixteen colours uses the nearest of its own.
"""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.theme import Theme

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
