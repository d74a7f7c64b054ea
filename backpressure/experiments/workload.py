"""What runs and simulations both derive from the settings: seeds, service times, offered load and capacity."""

from __future__ import annotations

from math import sqrt
from zlib import crc32

from backpressure.experiments.events import LoadChanged
from backpressure.settings import ConsumerSettings, Settings

__all__ = ["load_of", "process_seed", "service"]


def process_seed(seed: int, process_id: str) -> int:
    """Return the seed of a process: different for each, the same in every run with ``seed``."""
    return crc32(f"{seed}/{process_id}".encode())


def load_of(settings: Settings, at_ns: int, consumers: int, producers: int) -> LoadChanged:
    """Return the capacity of these consumers and the offered load of these producers under ``settings``."""
    mean_s, cv = service(settings)
    return LoadChanged(
        at_ns=at_ns,
        capacity_per_s=consumers / mean_s,
        demand_per_s=producers * settings.producer.rate,
        service_cv=cv,
        target_wait_s=settings.control.target_wait_ms / 1000,
        tick_s=settings.control.tick_ms / 1000,
    )


def service(settings: Settings) -> tuple[float, float]:
    """Return mean (seconds) and coefficient of variation of the work per message."""
    if settings.producer.processing_time_s is not None:
        return settings.producer.processing_time_s, 0.0
    consumer = settings.consumer
    return consumer.mean_service_s, _service_cv(consumer)


def _service_cv(consumer: ConsumerSettings) -> float:
    if consumer.distribution == "exponential":
        return 1.0
    if consumer.distribution == "uniform":
        spread_s = (consumer.processing_max_ms - consumer.processing_min_ms) / 1000
        return spread_s / sqrt(12) / consumer.mean_service_s
    return 0.0
