"""Consumers that report nothing, in simulations: the table ``[strangers]`` of a scenario."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from backpressure.core.plant import Network, Strangers, Workers
from backpressure.knobs import Section, knob

__all__ = ["StrangerSettings", "before_strangers", "seen_by"]


class StrangerSettings(Section):
    """Which consumers report nothing, how they take messages, and what the broker tells instead."""

    count: Annotated[int, Field(ge=0)] | Literal["all"] = knob(
        0, "consumers", "how many of the consumers report nothing", word="all"
    )
    prefetch: int = knob(
        0, "messages", "maximum number of unacknowledged messages of each; 0: unlimited", ge=0, le=65535
    )
    acks: Literal["each", "auto", "commit"] = knob(
        "each",
        "",
        "each: a message when its work is done; auto: on delivery, so that prefetch limits nothing; commit: as Kafka's "
        "consumers do, everything at intervals",
    )
    commit_interval_ms: float = knob(5000.0, "ms", "time between two commits", gt=0, le=600_000)
    evidence: Literal["ready", "fresh", "ticks", "collected"] = knob(
        "ready",
        "",
        "what the broker tells besides ready messages: nothing more; fresh: unacknowledged ones of the same moment; "
        "ticks: counts that it makes every statistics_interval_ms; collected: copies of them that are as old again",
    )
    statistics_interval_ms: float = knob(5000.0, "ms", "time between two counts of the statistics", gt=0, le=600_000)
    consumer_list: bool = knob(True, "", "the management API tells prefetch and acknowledgement mode")


def before_strangers(workers: Workers, settings: StrangerSettings) -> Workers:
    """Return ``workers`` with those that report nothing."""
    count = workers.count if settings.count == "all" else min(settings.count, workers.count)
    if not settings.count:
        return workers
    strangers = Strangers(
        count=count,
        prefetch=settings.prefetch,
        acks=settings.acks,
        commit_interval_s=settings.commit_interval_ms / 1000,
    )
    return replace(workers, strangers=strangers)


def seen_by(network: Network, settings: StrangerSettings) -> Network:
    """Return ``network`` with what the broker tells."""
    if not settings.count:
        return network
    late = settings.evidence in {"ticks", "collected"}
    return replace(
        network,
        totals=settings.evidence == "fresh",
        statistics_interval_s=settings.statistics_interval_ms / 1000 if late else 0.0,
        collected=settings.evidence == "collected",
        consumer_list=settings.consumer_list and settings.acks != "commit",
    )
