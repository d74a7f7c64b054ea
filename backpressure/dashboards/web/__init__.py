"""The live page: a few static files, and those that every page shares; it works offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backpressure.presentation import SHARED

_HERE = Path(__file__).parent


def assets() -> Mapping[str, Path]:
    """Return the page's files by the name they are served under."""
    return {path.name: path for path in _HERE.iterdir() if path.suffix in {".html", ".css", ".js"}} | dict(SHARED)
