"""The metrics of a producer and of a consumer process, read from the report that each keeps anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.telemetry.metrics import Family, FamilyCollector, durations, single

__all__ = ["CONSUMER_METRICS", "PRODUCER_METRICS", "consumer_registry", "producer_registry"]


PRODUCER_METRICS: Sequence[Family[ProducerReport]] = (
    single("messages_produced_total", "Messages that the broker confirmed.", lambda r: r.confirmed),
    single("pace_messages_offered_total", "Messages that the schedule asked for.", lambda r: r.offered),
    single("pace_messages_published_total", "Messages sent, each counted once.", lambda r: r.published),
    single("pace_messages_republished_total", "Messages sent again, after a nack or a loss.", lambda r: r.republished),
    single("pace_nacks_total", "Refusals by the broker, retried messages included.", lambda r: r.nacked),
    single("pace_messages_rejected_total", "Messages given up after a refusal.", lambda r: r.rejected),
    single("pace_messages_returned_total", "Messages that no queue was bound for.", lambda r: r.returned),
    single("pace_blocked_periods_total", "Times the broker blocked publishing.", lambda r: r.blocked_events),
    single("pace_blocked", "1 while the broker blocks publishing (an alarm), else 0.", lambda r: r.blocked),
    single("pace_application_limited", "1 while less is offered than the law allows.", lambda r: r.application_limited),
    single("pace_in_flight_messages", "Messages sent and not yet confirmed.", lambda r: r.in_flight),
    single("pace_confirm_window_messages", "The most that may be in flight.", lambda r: r.window),
    single("pace_target_rate_per_second", "Offered load, messages per second.", lambda r: r.target_rate_per_s),
    single(
        "pace_allowed_rate_per_second",
        "Pace that the law allows, at most the offered load.",
        lambda r: r.pacing_rate_per_s,
    ),
    single(
        "pace_bottleneck_rate_per_second",
        "What the law takes for the rate of all consumers together; absent: it has no estimate.",
        lambda r: r.bottleneck_per_s,
    ),
    single(
        "pace_signal_age_seconds",
        "Age of what the law knew of the consumers when it last decided; absent: it knows nothing.",
        lambda r: r.signal_age_s,
    ),
    durations(
        "pace_rate_limiter_delay_seconds",
        "Time for which the law held a message back: from its arrival on the schedule until it was allowed to go.",
        lambda r: r.limiter_delay,
    ),
    durations(
        "pace_tick_lateness_seconds",
        "How much later than due the control loop ran: what a busy process, or a slow answer to its probe, costs it.",
        lambda r: r.tick_lateness,
    ),
    durations(
        "pace_confirm_latency_seconds",
        "Time from sending a message to its confirm.",
        lambda r: r.confirm_latency,
    ),
    Family("pace_law_info", "The rate-control law in force; always 1.", lambda r: [((r.strategy,), 1)], ("law",)),
    single("pace_process_resident_memory_bytes", "Memory of this process.", lambda r: r.rss_bytes),
    single("pace_process_cpu_seconds_total", "Processor time of this process.", lambda r: r.cpu_s),
)

CONSUMER_METRICS: Sequence[Family[ConsumerReport]] = (
    single("messages_consumed_total", "Messages processed and acknowledged.", lambda r: r.processed),
    durations("message_processing_duration_seconds", "Time a message's work took.", lambda r: r.service),
    single("message_processing_errors_total", "Attempts at processing that failed.", lambda r: r.failed),
    single("pace_messages_delivered_total", "Messages received from the broker.", lambda r: r.delivered),
    single("pace_messages_retried_total", "Messages tried again after a failure.", lambda r: r.retried),
    single(
        "pace_messages_dead_lettered_total", "Messages given up after their last attempt.", lambda r: r.dead_lettered
    ),
    single("pace_messages_redelivered_total", "Messages that the broker delivered again.", lambda r: r.redelivered),
    single("pace_messages_duplicate_total", "Messages seen before, by id.", lambda r: r.duplicates),
    single("pace_messages_out_of_order_total", "Messages older than one already seen.", lambda r: r.out_of_order),
    single("pace_unacked_messages", "Messages delivered to this consumer and not yet settled.", lambda r: r.held),
    single("pace_prefetch_messages", "The most that may be unsettled.", lambda r: r.prefetch),
    single("pace_paused", "1 while the consumer is paused, else 0.", lambda r: r.paused),
    single(
        "pace_capacity_rate_per_second",
        "Rate this consumer would reach with a full queue; absent where unknown.",
        lambda r: r.capacity_per_s,
    ),
    single("pace_busy_seconds_total", "Time spent working.", lambda r: r.busy_s),
    durations(
        "pace_queue_wait_seconds",
        "Age of a message when its work starts: time since it was sent, the prefetch buffer included.",
        lambda r: r.queue_wait,
    ),
    durations(
        "pace_message_age_seconds",
        "Age of a message when its work starts, from the time it was meant to be sent; a foreign message has none.",
        lambda r: r.message_age,
    ),
    single("pace_process_resident_memory_bytes", "Memory of this process.", lambda r: r.rss_bytes),
    single("pace_process_cpu_seconds_total", "Processor time of this process.", lambda r: r.cpu_s),
)


def producer_registry(report: Callable[[], ProducerReport]) -> CollectorRegistry:
    """Return a registry that reads ``report`` at each scrape."""
    registry = CollectorRegistry()
    registry.register(FamilyCollector(PRODUCER_METRICS, report))
    return registry


def consumer_registry(report: Callable[[], ConsumerReport]) -> CollectorRegistry:
    """Return a registry that reads ``report`` at each scrape."""
    registry = CollectorRegistry()
    registry.register(FamilyCollector(CONSUMER_METRICS, report))
    return registry
