"""Lets the tests here import the tools beside them and those of the engines, on whose stage the APIs are played."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "engines")]
