"""What follows from the settings: what several of them mean together, in the terms of the core. No I/O.

Engines, experiments and control APIs ask here, so that a run, its simulation and a request agree.
"""

from __future__ import annotations

from math import inf
from typing import Any

from backpressure.core.controllers import LawConfig, limit_of, traits, traits_of
from backpressure.core.schedule import RetryPolicy
from backpressure.core.signals import Law
from backpressure.settings import ProducerSettings, QueueSettings, Settings

METADATA_BYTES = 240
"""Roughly what the properties and headers of one of our messages take."""


_DEFAULT_BOUND: int = QueueSettings.model_fields["max_length"].default


def bound_of_strategy(strategy: str, queue: QueueSettings) -> dict[str, Any]:
    """Return the bound that goes with ``strategy`` by the dotted names of its settings.

    A strategy is a law and a bound of the queue. ``unbounded`` has none, ``bounded`` has one that refuses, and every
    other strategy has the bound that ``queue`` states.
    """
    kind = traits(strategy).queue_bound
    bound: dict[str, Any] = {"queue.max_length": queue.max_length, "queue.overflow": queue.overflow}
    if kind == "none":
        bound["queue.max_length"] = None
    elif kind == "refusing":
        bound = {"queue.max_length": queue.max_length or _DEFAULT_BOUND, "queue.overflow": "reject-publish"}
    return bound


def law_config(settings: Settings) -> LawConfig:
    """Return what the law of ``settings.producer.strategy`` is configured with."""
    control = settings.control
    return LawConfig(
        target_wait_s=control.target_wait_ms / 1000,
        floor_per_s=control.floor_per_s,
        ceiling_per_s=control.ceiling_per_s,
        tick_s=control.tick_ms / 1000,
        report_interval_s=settings.feedback.interval_ms / 1000,
        parameters=control.parameters.get(settings.producer.strategy, {}),
    )


def own_limit_per_s(settings: Settings, law: Law) -> float:
    """Return what ``law`` may decide at most by these settings, whatever it sees; infinite without such a limit."""
    return min(settings.control.ceiling_per_s or inf, limit_of(law))


def retries(settings: Settings, law: Law) -> bool:
    """Return whether a refused message is sent again, rather than counted as rejected."""
    return settings.producer.on_nack == "retry" or (settings.producer.on_nack == "auto" and traits_of(law).retries)


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return which pauses the settings ask for between attempts."""
    retry = settings.retry
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        backoff_min_s=retry.backoff_min_ms / 1000,
        backoff_max_s=retry.backoff_max_ms / 1000,
        multiplier=retry.multiplier,
        jitter=retry.jitter,
    )


def body_of(producer: ProducerSettings) -> bytes:
    """Return the body of generated messages."""
    return producer.text.encode().ljust(producer.payload_bytes, b".")


def message_bytes(producer: ProducerSettings) -> int:
    """Return about what a generated message weighs: body, properties and headers."""
    return len(body_of(producer)) + METADATA_BYTES
