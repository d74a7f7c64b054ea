"""Provides `steady` as a fixture: tests are not a package, so they cannot import each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backpressure.core.signals import Signals


def _steady(at_s: float, *, depth: int, rate_per_s: float = 100.0, **changes: Any) -> Signals:
    departed = round(rate_per_s * at_s)
    values: dict[str, Any] = {
        "ready": depth,
        "unacked": 0,
        "depth_age_s": 0.0,
        "confirmed_total": departed + depth,
        "departed_total": departed,
        "observed_total_s": at_s,
        "busy_total_s": at_s,
        "departed_age_s": 0.0,
        "feedback_age_s": 0.0,
        "consumers": 1,
        "demand_per_s": 1000.0,
    }
    return Signals(**{**values, **changes})


@pytest.fixture
def steady() -> Callable[..., Signals]:
    """What is seen at a time when one consumer has finished ``rate_per_s`` messages a second all along."""
    return _steady
