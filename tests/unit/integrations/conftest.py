"""Lets the tests here import the clock of the engines' tests, with which waiting takes no time."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "engines"))
