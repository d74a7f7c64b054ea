"""Troubleshooting advice for what a snapshot shows.

Each rule looks at one snapshot and returns a sentence or nothing; the most urgent come first. A sentence says what is
wrong, then what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from math import isinf

from backpressure.core.controllers import traits
from backpressure.core.snapshot import ADDRESS_UNKNOWN, Outlook, QueueState, Snapshot
from backpressure.core.unpaced import WHAT_TO_DO, told
from backpressure.dashboards.cards_lists import clock_after
from backpressure.presentation.numbers import amount, duration, percent, rate

_GROWING = 1.05  # a smaller difference between in and out is noise
_FULL = 0.999
_MOST_TOLD = 3  # queues
_AT_LEAST_S = 1.0
_WORTH_SHARING = 10  # messages for each consumer


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
        if source.error == "connecting":
            continue
        unknown = "other queues, connections and broker memory stay unknown"
        if seen.asked:
            unknown = "rates, unacknowledged messages, prefetch and waits stay unknown"
        if source.refused:
            yield (
                f"The management API refuses the user ({source.error}): {unknown}. "
                "Allow it: rabbitmqctl set_user_tags USER monitoring."
            )
        elif source.foreign:
            yield f"No management API of this broker ({source.error}): {unknown}."
        elif source.error == ADDRESS_UNKNOWN:
            yield (
                f"No management API ({source.error}): {unknown}. "
                "Name it: --management-url http://HOST:15672, or PACE_BROKER__MANAGEMENT_URL; if the broker has none, "
                "rabbitmq-plugins enable rabbitmq_management."
            )
        else:
            yield (
                f"No management API ({source.error}): {unknown}. "
                "RabbitMQ: rabbitmq-plugins enable rabbitmq_management; elsewhere: --management-url URL."
            )


def _no_statistics(seen: Snapshot) -> Iterator[str]:
    if seen.broker is not None and seen.broker.statistics_off:
        yield (
            "The broker keeps no statistics (management_agent.disable_metrics_collector or management.disable_stats): "
            "rates, prefetch and waits stay unknown. Depths are counted all the same."
        )


def _blocked(seen: Snapshot) -> Iterator[str]:
    names = ", ".join(producer.id for producer in seen.producers if producer.blocked)
    if not names:
        return
    if seen.broker is not None and seen.broker.disk_alarm:
        yield f"The broker blocks {names}: its disk is full. Free space, or lower disk_free_limit."
    else:
        yield f"The broker blocks {names}: its memory alarm. {_let_drain(seen)}, or {_raise_limit(seen)}."


def _short_of_memory(seen: Snapshot) -> Iterator[str]:
    broker = seen.broker
    if broker is not None and not broker.memory_alarm and _breached(seen, "broker memory"):
        yield (
            f"The broker uses {percent((broker.memory_percent or 0) / 100)} of its memory; from 100 % on it blocks all "
            f"producers. {_let_drain(seen)}, or {_raise_limit(seen)}."
        )


def _refused(seen: Snapshot) -> Iterator[str]:
    if (seen.rates.nacked_per_s or 0) > 0:
        follow = "" if _all_follow(seen) else "Let the producer follow the consumer (--strategy pace), or "
        remedy = f"{follow}start another consumer, or raise queue.max_length."
        yield f"The full queue refuses {rate(seen.rates.nacked_per_s)}. {remedy[0].upper()}{remedy[1:]}"


def _nobody_consumes(seen: Snapshot) -> Iterator[str]:
    work = seen.work
    if seen.asked or work is None or work.depth == 0:
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
    if (
        not seen.asked
        and seen.work is not None
        and growth_per_s > 0
        and (_breached(seen, "depth") or _breached(seen, "queue wait p99"))
    ):
        slower = (
            "look for a producer that does not follow them as those seen here do"
            if _all_follow(seen)
            else "choose --strategy pace"
        )
        yield f"{seen.work.name} grows by {rate(growth_per_s)}. Start more consumers, make them faster, or {slower}."


def _waits_in_queue(seen: Snapshot) -> Iterator[str]:
    work, wait = seen.work, seen.queue_wait.p99_s
    if work is None or not work.consumers or not _breached(seen, "queue wait p99") or _growth_per_s(work) > 0:
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


def _unpaced(seen: Snapshot) -> Iterator[str]:
    unpaced: dict[str, float] = {}
    for producer in seen.producers:
        unpaced[producer.queue] = max(unpaced.get(producer.queue, 0.0), producer.unpaced_per_s or 0.0)
    for queue, per_s in unpaced.items():
        if per_s:
            yield f"{queue}: {told(per_s)}; those that are paced get what they leave. Remedy: {WHAT_TO_DO}."


def _strangers(seen: Snapshot) -> Iterator[str]:
    if seen.unreadable_reports:
        yield f"{amount(seen.unreadable_reports)} feedback reports were unreadable: do all processes run one version?"


def _absent(seen: Snapshot) -> Iterator[str]:
    for name, reason in seen.absent.items():
        similar = get_close_matches(name, seen.queues, n=1)
        hint = f" Is it {similar[0]}?" if similar else ""
        yield f"{name} cannot be shown: {reason}.{hint}"


def _asked_queues(seen: Snapshot) -> Iterator[str]:
    """Tell what is wrong with each queue that the user asked for, whoever uses it; the deepest first."""
    asked = sorted((seen.queues[name] for name in seen.asked if name in seen.queues), key=lambda q: -q.depth)
    troubled = [(queue.name, told) for queue in asked if (told := list(_about(seen, queue)))]
    for _, told in troubled[:_MOST_TOLD]:
        yield from told
    if others := [name for name, _ in troubled[_MOST_TOLD:]]:
        names = ", ".join(others[:_MOST_TOLD])
        yield f"{len(others)} more need a look: {names}{', …' if len(others) > _MOST_TOLD else ''}."


def _about(seen: Snapshot, queue: QueueState) -> Iterator[str]:
    if queue.kind == "stream":
        yield (
            f"{queue.name} is a stream: consumers take nothing out of it, so its length does not tell how far behind "
            "they are. Compare their offsets with its end."
        )
    else:
        yield from _unattended(seen, queue)
        yield from _heading_up(seen, queue)
        yield from _terms_of_consumers(seen, queue)


def _unattended(seen: Snapshot, queue: QueueState) -> Iterator[str]:
    """Tell that messages wait, and some or all of those who should take them do not."""
    if queue.depth == 0:
        return
    outlook = queue.outlook or Outlook()
    if queue.consumers == 0:
        yield f"{amount(queue.depth)} messages wait in {queue.name} and nobody consumes it: start its consumers."
    elif isinf(outlook.wait_s or 0):
        since_s = outlook.statistics_age_s or outlook.still_s or _AT_LEAST_S
        its = "consumer has" if queue.consumers == 1 else f"{amount(queue.consumers)} consumers have"
        yield (
            f"{amount(queue.depth)} messages wait in {queue.name}, and its {its} "
            f"acknowledged none for {duration(since_s)}: look whether they hang."
        )
    else:
        clients = [client for client in seen.clients_of(queue.name) if client.active and client.unacked is not None]
        idle = sum(client.unacked == 0 for client in clients if client.ack_required)
        waiting = max(0, queue.ready) + sum(client.unacked or 0 for client in clients) - len(clients)
        if 0 < idle < len(clients) and waiting > _WORTH_SHARING * len(clients):
            remedy = "look whether they hang" if queue.ready else "lower the prefetch of the others"
            yield f"{idle} of {len(clients)} consumers of {queue.name} are idle although messages wait: {remedy}."


def _heading_up(seen: Snapshot, queue: QueueState) -> Iterator[str]:
    """Tell that the queue is full, or is going to be."""
    outlook = queue.outlook or Outlook()
    effect = "refuses" if queue.overflow.startswith("reject") else "drops its oldest messages for"
    remedy = "Add or speed up consumers, or slow its producers down."
    if queue.fill is not None and queue.fill >= _FULL:
        yield f"{queue.name} is full: it {effect} new ones. {remedy}"
    elif queue.consumers and (outlook.growth_per_s or 0) > 0:
        text = f"{queue.name} falls behind by {rate(outlook.growth_per_s)}"
        if outlook.full_in_s is not None:
            at = clock_after(seen.at_ns, outlook.full_in_s)
            text += f": full in {duration(outlook.full_in_s)} ({at}), then it {effect} new ones"
        yield f"{text}. {remedy}"


def _terms_of_consumers(seen: Snapshot, queue: QueueState) -> Iterator[str]:
    """Tell which consumers take more than they can work on, as far as the broker tells."""
    clients = seen.clients_of(queue.name)
    ours = {report.id for report in seen.consumers}  # their limit may be that of a channel; the tag begins with the id
    unlimited = [c for c in clients if c.ack_required and not c.prefetch and c.tag.rpartition("-")[0] not in ours]
    if unlimited:
        own = "" if all(client.unacked is not None for client in unlimited) else " of their own"
        yield (
            f"{len(unlimited)} of {len(clients)} consumers of {queue.name} have no prefetch limit{own}: they take "
            "messages out of sight, and out of reach of others. Set one (basic.qos), such as 20."
        )
    if automatic := sum(not client.ack_required for client in clients):
        yield (
            f"{automatic} of {len(clients)} consumers of {queue.name} acknowledge automatically: what they hold is "
            "unknown, and is lost if they fail. Let them acknowledge when the work is done."
        )


def _let_drain(seen: Snapshot) -> str:
    """Return how the memory becomes free: consumers empty the queues, if there are any."""
    idle = seen.work is not None and seen.work.depth > 0 and not seen.work.consumers
    return "Start a consumer to empty the queue" if idle else "Let the consumers drain the queue"


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
    _absent,
    _asked_queues,
    _nobody_consumes,
    _short_of_memory,
    _refused,
    _unpaced,
    _growing,
    _waits_in_queue,
    _waits_in_prefetch,
    _unroutable,
    _dead_letters,
    _strangers,
    _no_management,
    _no_statistics,
)
