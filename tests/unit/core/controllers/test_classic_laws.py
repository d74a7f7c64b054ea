"""The three modes of the classic lab, and the threshold script."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from backpressure.core.controllers import LawConfig, create
from backpressure.core.signals import Signals

Steady = Callable[..., Signals]


def test_unbounded_never_limits_whatever_it_sees(steady: Steady) -> None:
    law = create("unbounded")
    assert law.update(Signals(), 0.0).rate_per_s == inf
    assert law.update(steady(1.0, depth=9999, nacked_total=100, blocked=True), 1.0).rate_per_s == inf


def test_bounded_leaves_the_rate_alone_and_says_how_much_was_refused(steady: Steady) -> None:
    law = create("bounded")
    assert law.update(steady(1.0, depth=5, nacked_total=3), 1.0).reason == "the queue's bound refused 3"
    decision = law.update(steady(2.0, depth=5, nacked_total=3), 2.0)
    assert (decision.rate_per_s, decision.reason) == (inf, "below the bound")


def test_rate_limited_keeps_its_fixed_rate(steady: Steady) -> None:
    law = create("rate_limited", LawConfig(parameters={"rate_per_s": 70.0}))
    assert {law.update(steady(t, depth=t * 100), t).rate_per_s for t in range(5)} == {70.0}


@pytest.mark.parametrize("name", ["unbounded", "bounded", "rate_limited"])
def test_a_ceiling_holds_for_laws_without_control_too(name: str) -> None:
    assert create(name, LawConfig(ceiling_per_s=20.0)).update(Signals(), 0.0).rate_per_s == 20.0


def test_threshold_cuts_by_the_factor_on_every_refusal_down_to_its_floor(steady: Steady) -> None:
    law = create("threshold", LawConfig(parameters={"reduction_factor": 0.8}))
    rates = [law.update(steady(t / 10, depth=0, nacked_total=t), t / 10).rate_per_s for t in range(15)]
    assert rates[:4] == pytest.approx([1000.0, 800.0, 640.0, 512.0])
    assert rates[-1] == 100.0


@pytest.mark.parametrize("pressure", [{"depth": 501}, {"depth": 0, "blocked": True}, {"depth": 0, "nacked_total": 1}])
def test_threshold_feels_depth_blocking_and_refusals(steady: Steady, pressure: dict[str, int]) -> None:
    assert create("threshold").update(steady(0.0, **pressure), 0.0).rate_per_s == pytest.approx(800.0)


def test_threshold_cuts_an_offer_without_limit_to_what_it_came_to(steady: Steady) -> None:
    law = create("threshold")
    free = {"demand_per_s": inf, "share": 0.5}
    assert law.update(steady(0.0, depth=0, confirmed_total=0, **free), 0.0).rate_per_s == inf
    decision = law.update(steady(0.1, depth=600, confirmed_total=1000, **free), 0.1)
    assert decision.rate_per_s == pytest.approx(0.8 * 0.5 * 10_000)


def test_threshold_cuts_no_more_often_than_configured(steady: Steady) -> None:
    law = create("threshold", LawConfig(parameters={"cut_every_s": 1.0}))
    rates = [law.update(steady(t / 10, depth=600), t / 10).rate_per_s for t in range(11)]
    assert rates == pytest.approx([800.0] * 10 + [640.0])


def test_threshold_recovers_upward_once_the_pressure_has_gone(steady: Steady) -> None:
    law = create("threshold", LawConfig(parameters={"recovery": 0.1}))
    law.update(steady(0.0, depth=600), 0.0)  # 800
    assert law.update(steady(1.0, depth=300), 1.0).reason == "holding"
    assert law.update(steady(2.0, depth=200), 2.0).rate_per_s == pytest.approx(880.0)
    assert law.update(steady(10.0, depth=0), 10.0).rate_per_s == 1000.0  # the offered load, not beyond


def test_threshold_does_not_grow_while_application_limited(steady: Steady) -> None:
    law = create("threshold")
    law.update(steady(0.0, depth=600), 0.0)
    assert law.update(steady(9.0, depth=0, application_limited=True), 9.0).rate_per_s == pytest.approx(800.0)


def test_threshold_takes_a_floor_of_the_users(steady: Steady) -> None:
    law = create("threshold", LawConfig(floor_per_s=7.0))
    for tick in range(60):
        decision = law.update(steady(tick / 10, depth=600), tick / 10)
    assert decision.rate_per_s == 7.0
