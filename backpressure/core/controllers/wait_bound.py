"""The p99 queue wait that a late view of a random service allows; derivation in docs/pace-law.md."""

from __future__ import annotations

from math import erfc, exp, pi, sqrt

__all__ = ["inverse_loss", "wait_bound_s"]

_Z99 = 2.326


def wait_bound_s(
    bottleneck_per_s: float,
    service_cv2: float,
    feedback_age_s: float,
    *,
    tick_s: float = 0.1,
    target_wait_s: float = 0.02,
    utilisation: float = 0.99,
) -> float:
    """Return the p99 queue wait in seconds of a law that corrects its whole error at every tick (normal approximation).

    Formula, with T = feedback age + tick (the time no correction can reach) and σ² = cv²·μ·T:
    k from σ·L(k) = (1 − utilisation)·μ·T, where L is the normal loss function; w = max(target, kσ/μ) + (1 + cv²)/(2μ);
    bound = w + 2.33·√(σ²/μ² + cv²·w/μ).

    Args:
        bottleneck_per_s: μ.
        service_cv2: squared coefficient of variation of the bottleneck's service times; 0 for fixed ones.
        feedback_age_s: mean age of what is known about departures when it is used.
        tick_s: how often the law decides.
        target_wait_s: wait it aims for in any case.
        utilisation: part of the capacity that must not be wasted.
    """
    blind_s = feedback_age_s + tick_s
    sigma = sqrt(service_cv2 * bottleneck_per_s * blind_s)
    lost = (1 - utilisation) * bottleneck_per_s * blind_s
    margin_s = inverse_loss(lost / sigma) * sigma / bottleneck_per_s if sigma > 0 else 0.0
    wait_s = max(target_wait_s, margin_s) + (1 + service_cv2) / (2 * bottleneck_per_s)
    return wait_s + _Z99 * sqrt((sigma / bottleneck_per_s) ** 2 + service_cv2 * wait_s / bottleneck_per_s)


def inverse_loss(loss: float) -> float:
    """Return k ≥ 0 with E[max(0, Z − k)] = ``loss`` for a standard normal Z; 0 where even that loses less."""
    low, high = 0.0, 10.0
    for _ in range(30):
        k = (low + high) / 2
        if exp(-k * k / 2) / sqrt(2 * pi) - k * erfc(k / sqrt(2)) / 2 > loss:
            low = k
        else:
            high = k
    return low
