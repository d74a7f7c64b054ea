"""The lab's page: a few static files, with the looks of the monitor's live page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backpressure.dashboards import web

__all__ = ["assets"]

_HERE = Path(__file__).parent


def assets() -> Mapping[str, Path]:
    """Return the page's files by the name they are served under."""
    own = {path.name: path for path in _HERE.iterdir() if path.suffix in {".html", ".css", ".js"}}
    return {"page.css": web.assets()["page.css"], **own}
