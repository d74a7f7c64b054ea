"""The live page: a few static files, and the chart library from its installed package, so that it works offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backpressure.presentation import NUMBERS, chart_script

__all__ = ["assets"]

_HERE = Path(__file__).parent


def assets() -> Mapping[str, Path]:
    """Return the page's files by the name they are served under."""
    files = {path.name: path for path in _HERE.iterdir() if path.suffix in {".html", ".css", ".js"}}
    return {**files, "numbers.js": NUMBERS, "plotly.js": chart_script()}
