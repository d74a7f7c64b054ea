"""What every page is made of: assets beside this file, a template's places to fill, and plotly's script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from backpressure.presentation.installed import chart_script

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
    """Return the text of Plotly's script; raises `PaceError`."""
    return chart_script().read_text(encoding="utf-8")
