"""Troubleshooting advice for what a snapshot shows.

Each rule looks at one snapshot and returns a sentence or nothing; the most urgent come first. A sentence says what is
wrong, then what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backpressure.core.controllers import traits
from backpressure.core.snapshot import QueueState, Snapshot
from backpressure.presentation.numbers import amount, duration, percent, rate

__all__ = ["advise"]

_GROWING = 1.05  # a smaller difference between in and out is noise


def advise(seen: Snapshot) -> list[str]:
    """Return what to do about ``seen``, most urgent first; nothing when all is well."""
    return [sentence for rule in _RULES for sentence in rule(seen)]


def _no_broker(seen: Snapshot) -> Iterator[str]:
    for source in seen.sources:
        if source.name != "broker" or source.ok or source.error == "connecting":
            continue
        if source.refused:
            yield f"The broker is running but refuses access ({source.error})."
        else:
            start = "pace broker kafka" if seen.address.startswith("kafka") else "pace broker"
            yield f"The broker does not answer ({source.error}). Start one ({start}) or name it with --url."


def _no_management(seen: Snapshot) -> Iterator[str]:
    for source in seen.sources:
        if source.name != "management" or source.ok:
            continue
        unknown = "other queues, connections and broker memory stay unknown"
        if source.refused:
            yield (
                f"The management API refuses the user ({source.error}): {unknown}. "
                "Allow it: rabbitmqctl set_user_tags USER monitoring."
            )
        else:
            yield (
                f"No management API ({source.error}): {unknown}. "
                "RabbitMQ: rabbitmq-plugins enable rabbitmq_management; elsewhere: --host URL."
            )


def _blocked(seen: Snapshot) -> Iterator[str]:
    names = ", ".join(producer.id for producer in seen.producers if producer.blocked)
    if not names:
        return
    if seen.broker is not None and seen.broker.disk_alarm:
        yield f"The broker blocks {names}: its disk is full. Free space, or lower disk_free_limit."
    else:
        yield f"The broker blocks {names}: its memory alarm. Let the consumers drain, or {_raise_limit(seen)}."


def _short_of_memory(seen: Snapshot) -> Iterator[str]:
    broker = seen.broker
    if broker is not None and not broker.memory_alarm and _breached(seen, "broker memory"):
        yield (
            f"The broker uses {percent((broker.memory_percent or 0) / 100)} of its memory; from 100 % on it blocks all "
            f"producers. Let the consumers drain, or {_raise_limit(seen)}."
        )


def _refused(seen: Snapshot) -> Iterator[str]:
    if (seen.rates.nacked_per_s or 0) > 0:
        follow = "" if _all_follow(seen) else "Let the producer follow the consumer (--strategy pace), or "
        remedy = f"{follow}start another consumer, or raise queue.max_length."
        yield f"The full queue refuses {rate(seen.rates.nacked_per_s)}. {remedy[0].upper()}{remedy[1:]}"


def _nobody_consumes(seen: Snapshot) -> Iterator[str]:
    work = seen.work
    if work is None or work.depth == 0:
        return
    paused = [consumer for consumer in seen.consumers if consumer.paused]
    secret = ' -H "Authorization: Bearer $PACE_API__TOKEN"' if seen.token_needed else ""
    for consumer in paused:
        how = f": curl -X POST{secret} {consumer.api_url}/admin/resume" if consumer.api_url else "; resume it"
        yield f"Consumer {consumer.id} is paused{how}."
    if work.consumers == 0 and not paused:
        yield f"{amount(work.depth)} messages wait in {work.name} and nobody consumes: python slow_consumer.py."


def _growing(seen: Snapshot) -> Iterator[str]:
    growth_per_s = _growth_per_s(seen.work)
    if seen.work is not None and growth_per_s > 0 and (_breached(seen, "depth") or _breached(seen, "queue wait p99")):
        slower = (
            "look for a producer that does not follow them as those seen here do"
            if _all_follow(seen)
            else "choose --strategy pace"
        )
        yield f"{seen.work.name} grows by {rate(growth_per_s)}. Start more consumers, make them faster, or {slower}."


def _waits_in_queue(seen: Snapshot) -> Iterator[str]:
    work, wait = seen.work, seen.queue_wait.p99_s
    if work is None or not _breached(seen, "queue wait p99") or _growth_per_s(work) > 0:
        return
    if work.ready >= (work.unacked or 0) and work.ready:
        remedy = (
            "The law lets the queue drain; more consumers drain it sooner."
            if _all_follow(seen)
            else "Start more consumers until they are gone, or let the producer make room for them (--strategy pace)."
        )
        yield f"Messages wait {duration(wait)} (p99) behind the {amount(work.ready)} in {work.name}. {remedy}"


def _waits_in_prefetch(seen: Snapshot) -> Iterator[str]:
    work, wait = seen.work, seen.queue_wait.p99_s
    if _breached(seen, "queue wait p99") and work is not None and (work.unacked or 0) > work.ready:
        fixed = any(consumer.queue == work.name and not consumer.prefetch_auto for consumer in seen.consumers)
        remedy = (
            "Lower --prefetch, or use --prefetch auto."
            if fixed
            else "It is auto, as few as keep them busy: shorten the work, or try --prefetch 1."
        )
        yield (
            f"Messages wait {duration(wait)} (p99), most of them in the consumers' prefetch "
            f"({amount(work.unacked)} of {amount(work.depth)}). {remedy}"
        )


def _dead_letters(seen: Snapshot) -> Iterator[str]:
    if (seen.rates.dead_lettered_per_s or 0) > 0:
        yield (
            f"{amount(seen.totals.dead_lettered)} messages failed for good so far. "
            "The dead-letter queue holds them; the header x-pace-reason says why each did."
        )


def _unroutable(seen: Snapshot) -> Iterator[str]:
    if (seen.rates.returned_per_s or 0) > 0:
        yield "Messages come back unroutable: no queue is bound for them. Was the queue deleted? Restart the producer."


def _strangers(seen: Snapshot) -> Iterator[str]:
    if seen.unreadable_reports:
        yield f"{amount(seen.unreadable_reports)} feedback reports were unreadable: do all processes run one version?"


def _raise_limit(seen: Snapshot) -> str:
    if seen.broker is not None and "embedded" in seen.broker.product:
        return "start the broker with a higher limit: pace broker --memory-limit-mb"
    return "raise the limit: rabbitmqctl set_vm_memory_high_watermark 0.7"


def _breached(seen: Snapshot, name: str) -> bool:
    return any(threshold.breached for threshold in seen.thresholds if threshold.name == name)


def _growth_per_s(work: QueueState | None) -> float:
    """Return how fast the queue grows while it is consumed; 0 when it is noise or unknown."""
    if work is None or not work.consumers or work.published_per_s is None or work.acked_per_s is None:
        return 0.0
    return work.published_per_s - work.acked_per_s if work.published_per_s > _GROWING * work.acked_per_s else 0.0


def _all_follow(seen: Snapshot) -> bool:
    """Return whether the law of every producer that reports follows the consumers, as far as its name tells."""
    return bool(seen.producers) and all(traits(producer.strategy).adapts for producer in seen.producers)


_RULES: tuple[Callable[[Snapshot], Iterator[str]], ...] = (
    _no_broker,
    _blocked,
    _nobody_consumes,
    _short_of_memory,
    _refused,
    _growing,
    _waits_in_queue,
    _waits_in_prefetch,
    _unroutable,
    _dead_letters,
    _strangers,
    _no_management,
)
