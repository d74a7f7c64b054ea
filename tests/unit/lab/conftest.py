"""Lets the tests here import the tools next to them, and those of the engines' and the control APIs' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "engines"), str(HERE.parent / "api")]


@pytest.fixture
def stage() -> object:
    """Return a `Stage` of a test's own."""
    from lab_stage import Stage

    return Stage()
