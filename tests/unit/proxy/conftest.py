"""Lets the tests here import the tools next to them: pytest's importlib mode adds no folder to the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent / "engines"))  # its clock, with which waiting takes no time

from proxy_staging import Staging


@pytest.fixture
def stage() -> Staging:
    return Staging()
