"""Files of installed packages, such as scripts for browsers, found without importing the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from backpressure.errors import MissingExtraError

__all__ = ["NUMBERS", "chart_script", "installed_file"]

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
