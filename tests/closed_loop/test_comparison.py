"""The law `pace` against other adaptive laws, with the same load (`pace compare steps --simulate` prints them all)."""

from __future__ import annotations

from typing import Any

import pytest

RIVALS = ("aimd", "vegas", "gradient2", "pid")


@pytest.mark.parametrize("distribution", ["fixed", "exponential"])
def test_no_law_beats_pace_in_wait_and_those_that_come_near_waste_more(lab: Any, distribution: str) -> None:
    ours = lab.steps("pace", distribution, 1)
    others = [lab.steps(law, distribution, 1) for law in RIVALS]
    assert all(outcome.p99_s > 1.1 * ours.p99_s for outcome in others)
    near = [outcome for outcome in others if outcome.p99_s <= 1.5 * ours.p99_s]
    assert all(outcome.utilisation < ours.utilisation - 0.01 for outcome in near)
    assert all(outcome.utilisation <= ours.utilisation + 0.015 for outcome in others)
