"""The bound on the wait that μ, service variance and feedback age allow."""

from __future__ import annotations

import pytest

from backpressure.core.controllers.pace import inverse_loss, wait_bound_s


def test_fixed_service_waits_the_target_and_half_a_service() -> None:
    assert wait_bound_s(100, 0.0, 0.05) == pytest.approx(0.02 + 0.005)


def test_a_bound_worked_out_by_hand() -> None:
    # μ = 100, cv² = 1, T = 0.2: σ = √20 = 4.472; loss 0.2/4.472 = 0.0447 at k = 1.31; w = 0.0586 + 0.01 = 0.0686;
    # bound = 0.0686 + 2.326·√(0.04472² + 0.0686/100) = 0.189.
    assert wait_bound_s(100, 1.0, 0.1) == pytest.approx(0.189, abs=0.001)


@pytest.mark.parametrize(
    ("worse", "better"),
    [((100, 1.0, 0.5), (100, 1.0, 0.1)), ((50, 1.0, 0.1), (500, 1.0, 0.1)), ((100, 2.0, 0.1), (100, 0.5, 0.1))],
)
def test_age_slowness_and_variance_make_it_longer(
    worse: tuple[float, float, float], better: tuple[float, float, float]
) -> None:
    assert wait_bound_s(*worse) > wait_bound_s(*better)


def test_wasting_less_costs_wait() -> None:
    assert wait_bound_s(100, 1.0, 0.1, utilisation=0.999) > wait_bound_s(100, 1.0, 0.1, utilisation=0.9)


@pytest.mark.parametrize(("loss", "deviations"), [(0.3989, 0.0), (0.0833, 1.0), (0.0085, 2.0), (0.5, 0.0)])
def test_the_normal_loss_function_is_inverted(loss: float, deviations: float) -> None:
    assert inverse_loss(loss) == pytest.approx(deviations, abs=0.005)


def test_rare_counts_allow_longer_waits_by_the_root_of_their_distance() -> None:
    waits_s = [
        wait_bound_s(100, 1.0, 0.05, utilisation=0.98, counted_every_s=every_s) for every_s in (0.0, 0.1, 1.0, 5.0)
    ]
    assert waits_s == pytest.approx([0.154, 0.168, 0.257, 0.444], abs=0.001)
    assert wait_bound_s(100, 0.0, 0.05, counted_every_s=5.0) == pytest.approx(0.025, abs=0.001)
