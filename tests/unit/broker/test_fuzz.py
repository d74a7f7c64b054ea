"""A short run of the fuzz target; `fuzz.py` runs as long as you like."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pamqp's, of a method that clients may still send
@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_input_does_no_harm(seed: int, tmp_path: Path) -> None:
    fuzz = runpy.run_path(str(Path(__file__).with_name("fuzz.py")))
    fuzz["run"](2001, seed, tmp_path if seed == 2 else None)
