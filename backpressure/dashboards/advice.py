"""What to do, at the moment it applies: troubleshooting advice for what a snapshot shows.

Each rule looks at one snapshot and returns a sentence or nothing; the most urgent come first. A sentence says what is
the matter, then what to type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards.format import amount, duration, rate

__all__ = ["advise"]

_GROWING = 1.05  # publishing beyond this share of settling is growth, not noise


def advise(seen: Snapshot) -> list[str]:
    """Return what to do about ``seen``, most urgent first; nothing when all is well."""
    return [sentence for rule in _RULES for sentence in rule(seen)]


def _no_broker(seen: Snapshot) -> Iterator[str]:
    for source in seen.sources:
        if source.name == "broker" and not source.ok and source.error != "connecting":
            yield f"The broker does not answer ({source.error}). Start one (pace broker) or name it with --url."


def _no_management(seen: Snapshot) -> Iterator[str]:
    for source in seen.sources:
        if source.name == "management" and not source.ok:
            yield (
                f"No management API ({source.error}): other queues, connections and broker memory stay unknown. "
                "RabbitMQ: rabbitmq-plugins enable rabbitmq_management; elsewhere: --host URL."
            )


def _blocked(seen: Snapshot) -> Iterator[str]:
    names = ", ".join(producer.id for producer in seen.producers if producer.blocked)
    if not names:
        return
    if seen.broker is not None and seen.broker.disk_alarm:
        yield f"The broker blocks {names}: its disk is full. Free space, or lower disk_free_limit."
    else:
        yield (
            f"The broker blocks {names}: its memory alarm. Let the consumers drain, "
            "or raise the limit: rabbitmqctl set_vm_memory_high_watermark 0.6."
        )


def _refused(seen: Snapshot) -> Iterator[str]:
    if (seen.rates.nacked_per_s or 0) > 0:
        yield (
            f"The full queue refuses {rate(seen.rates.nacked_per_s)}. Let the producer follow the consumer "
            "(--strategy pace), start another consumer, or raise queue.max_length."
        )


def _nobody_consumes(seen: Snapshot) -> Iterator[str]:
    work = seen.work
    if work is None or work.depth == 0:
        return
    paused = [consumer for consumer in seen.consumers if consumer.paused]
    for consumer in paused:
        how = f": curl -X POST {consumer.api_url}/admin/resume" if consumer.api_url else "; resume it"
        yield f"Consumer {consumer.id} is paused{how}."
    if work.consumers == 0 and not paused:
        yield f"{amount(work.depth)} messages wait in {work.name} and nobody consumes: python slow_consumer.py."


def _growing(seen: Snapshot) -> Iterator[str]:
    work = seen.work
    if work is None or not work.consumers or work.published_per_s is None or work.acked_per_s is None:
        return
    breached = any(threshold.breached for threshold in seen.thresholds if threshold.name == "depth")
    if breached and work.published_per_s > _GROWING * work.acked_per_s:
        yield (
            f"{work.name} grows by {rate(work.published_per_s - work.acked_per_s)}. "
            "Start more consumers, make them faster, or choose --strategy pace."
        )


def _waits_in_prefetch(seen: Snapshot) -> Iterator[str]:
    work, wait = seen.work, seen.queue_wait.p99_s
    breached = any(threshold.breached for threshold in seen.thresholds if threshold.name.startswith("queue wait"))
    if breached and work is not None and work.unacked is not None and work.unacked > work.ready:
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
            "The dead-letter queue holds them; x-death says why each did."
        )


def _unroutable(seen: Snapshot) -> Iterator[str]:
    if (seen.rates.returned_per_s or 0) > 0:
        yield "Messages come back unroutable: no queue is bound for them. Was the queue deleted? Restart the producer."


def _strangers(seen: Snapshot) -> Iterator[str]:
    if seen.unreadable_reports:
        yield f"{amount(seen.unreadable_reports)} feedback reports were unreadable: do all processes run one version?"


_RULES: tuple[Callable[[Snapshot], Iterator[str]], ...] = (
    _no_broker,
    _blocked,
    _nobody_consumes,
    _refused,
    _growing,
    _waits_in_prefetch,
    _unroutable,
    _dead_letters,
    _strangers,
    _no_management,
)
