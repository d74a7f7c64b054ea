"""The test kit for laws of others: the laws that ship pass it, and each check fails a law that deserves it."""

from __future__ import annotations

import random
import sys
from types import ModuleType

import pytest

from backpressure import Decision, LawConfig, Signals
from backpressure.testing import CONFORMANCE, ModelQueue


@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
@pytest.mark.parametrize("law", ["pace", "aimd", "gradient2"])
def test_a_law_that_ships_conforms(law: str, check: object) -> None:
    check(law)  # type: ignore[operator]  # each is a function


class Never:
    def __init__(self, config: LawConfig) -> None:
        self.config = config

    def update(self, signals: Signals, now: float) -> Decision:
        return Decision(float("nan"), "no number")


class Flood(Never):
    def update(self, signals: Signals, now: float) -> Decision:
        return Decision(1e6, "as fast as possible")


class Trickle(Never):
    def update(self, signals: Signals, now: float) -> Decision:
        return Decision(1.0, "slowly")


class Dice(Never):
    def update(self, signals: Signals, now: float) -> Decision:
        return Decision(random.random(), "as it falls")


@pytest.mark.parametrize(
    ("law", "name"),
    [
        (Never, "decides_numbers"),
        (Flood, "keeps_the_limits"),
        (Flood, "follows_the_consumers"),
        (Trickle, "comes_back_after_a_stop"),
        (Dice, "is_deterministic"),
    ],
)
def test_a_law_that_does_not_conform_is_told_so(law: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("laws_of_a_stranger")
    module.Law = law  # type: ignore[attr-defined]  # that is how it gets there
    monkeypatch.setitem(sys.modules, "laws_of_a_stranger", module)
    [check] = [each for each in CONFORMANCE if each.__name__ == name]
    with pytest.raises(AssertionError):
        check("laws_of_a_stranger:Law")


def test_the_model_says_how_a_law_does() -> None:
    outcome = ModelQueue("pace", capacity_per_s=200, service="fixed").run(60)
    assert outcome.utilisation > 0.95
    assert 0 < outcome.p50_wait_s < outcome.p99_wait_s < 1
    assert outcome.processed == pytest.approx(200 * 60, rel=0.05)
