"""Runs driven from a page (`pace ui`): the driver, the app that serves it, and the page's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backpressure.extras import require
from backpressure.presentation import SHARED

require("bench", "pace ui")

_PAGE = Path(__file__).parent / "page"


def assets() -> Mapping[str, Path]:
    """Return the page's files by the name they are served under."""
    files = {path.name: path for path in _PAGE.iterdir() if path.suffix in {".html", ".css", ".js"}}
    return {**SHARED, **files}
