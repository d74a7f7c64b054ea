"""When late numbers were counted."""

from __future__ import annotations

import pytest

from backpressure.core.evidence import Steps


def test_a_value_was_counted_between_the_answers_between_which_it_changed() -> None:
    steps = Steps()
    assert steps.see(3, 0.0) is None  # it may be of any age
    assert steps.see(3, 0.2) is None
    assert steps.see(4, 0.4) == pytest.approx(0.3)
    assert steps.see(4, 0.6) == pytest.approx(0.3)


def test_a_value_that_stays_was_counted_again_when_the_next_count_was_due() -> None:
    steps = Steps()
    moments = [steps.see(min(int(n / 50), 3), n / 10) for n in range(300)]
    assert moments[160] == pytest.approx(14.95)
    assert moments[204] == pytest.approx(14.95)  # the next count may be late
    assert moments[214] == pytest.approx(19.95)
    assert moments[299] == pytest.approx(24.95)


def test_a_value_that_is_counted_for_each_answer_is_fresh() -> None:
    steps = Steps()
    moments = [steps.see(min(20, n), n / 10) for n in range(40)]
    assert moments[15] == pytest.approx(1.45)
    assert moments[39] == pytest.approx(3.9, abs=0.25)
