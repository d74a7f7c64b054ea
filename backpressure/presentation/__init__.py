"""How things look, the same on terminal, page and report; here: files of packages that pages load."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from backpressure.errors import MissingExtraError
from backpressure.extras import require

__all__ = ["NUMBERS", "chart_script", "installed_file"]

require("bench", "output in colours")

NUMBERS = Path(__file__).with_name("numbers.js")
"""The twin of `numbers` for browsers."""


def installed_file(package: str, name: str) -> Path:
    """Return the file ``name`` within ``package``, which is not imported; raises `MissingExtraError`."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError("bench", Path(name).name)
    return Path(spec.origin).parent / name


def chart_script() -> Path:
    """Return Plotly's script; importing plotly would take half a second."""
    return installed_file("plotly", "package_data/plotly.min.js")
