"""The live page: a few static files, and the chart library from its installed package, so that it works offline."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

__all__ = ["assets"]

_HERE = Path(__file__).parent


def assets() -> Mapping[str, Path]:
    """Return the page's files by the name they are served under."""
    files = {path.name: path for path in _HERE.iterdir() if path.suffix in {".html", ".css", ".js"}}
    return {**files, "plotly.js": _chart_library()}


def _chart_library() -> Path:
    # Found, not imported: importing plotly takes half a second and this process only hands out the file.
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"
