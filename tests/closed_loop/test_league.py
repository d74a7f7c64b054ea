"""All laws on the same trace: ``pytest tests/closed_loop/test_league.py -s`` prints the table of docs/pace-law.md."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure.core.controllers import LAWS


@pytest.fixture(params=["fixed", "exponential"])
def distribution(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.slow
def test_no_law_beats_pace_in_wait_and_none_comes_near_at_its_utilisation(lab: Any, distribution: str) -> None:
    table = {law: lab.median_of_three(lambda seed, law=law: lab.steps(law, distribution, seed)) for law in LAWS}
    print(f"\n{distribution} service       utilisation  p50 wait  p99 wait  max depth  settle 5× down / 5× up")  # noqa: T201 - the table is what it is for
    for law, outcome in table.items():
        print(  # noqa: T201
            f"  {law:<18}  {outcome.utilisation:11.3f} {outcome.p50_s * 1e3:6.0f} ms {outcome.p99_s * 1e3:6.0f} ms"
            f" {outcome.max_depth:10d}  {outcome.settle_s[1]:6.1f} s / {outcome.settle_s[2]:.1f} s"
        )
    ours = table.pop("pace")
    assert all(outcome.p99_s > 1.5 * ours.p99_s for outcome in table.values())
    assert all(outcome.utilisation <= ours.utilisation + 0.015 for outcome in table.values())
