"""What every page is made of: assets beside this file, a template's places to fill, and plotly's script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from backpressure.errors import ExperimentError

__all__ = ["asset", "fill", "plotly_script"]

_HERE = Path(__file__).parent
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def asset(name: str) -> str:
    """Return the text of a file of this folder."""
    return (_HERE / name).read_text(encoding="utf-8")


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Return ``template`` with every ``{{name}}`` replaced; what is filled in is not looked at again."""
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], template)


def plotly_script() -> str:
    """Return plotly's JavaScript from the installed package, without importing it; raises `ExperimentError`."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ExperimentError("plotly is not installed, so there is no script for the charts: pip install plotly")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
