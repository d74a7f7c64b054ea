"""Writes the two Grafana dashboards of the compose stack: ``python tools/dashboards.py``.

A panel is one line here (what it shows, in which unit, by which PromQL) and forty in Grafana's JSON. So the JSON is
generated from this table, and a test compares them. "Backpressure Lab" explains one experiment; "Pace operations" is
for operating such a loop in production.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parents[1] / "compose" / "grafana" / "dashboards"

_COLUMNS = 24
_WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """One panel: ``queries`` maps a legend to PromQL; ``about`` says how to read it."""

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 12


def _rate(counter: str, by: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({counter}[{_WINDOW}]))"


def _quantiles(histogram: str, *quantiles: float) -> dict[str, str]:
    buckets = f"sum by (le) (rate({histogram}_bucket[{_WINDOW}]))"
    return {f"p{100 * q:g}": f"histogram_quantile({q}, {buckets})" for q in quantiles}


def _number(title: str, unit: str, query: str) -> Panel:
    return Panel(title, unit, {"": query}, kind="stat", width=4)


LAB = (
    _number("Depth", "short", "sum(pace_queue_messages and on (queue) pace_work_queue_info)"),
    _number("Published", "cps", 'pace_observed_rate_per_second{stage="confirmed"}'),
    _number("Processed", "cps", 'pace_observed_rate_per_second{stage="processed"}'),
    _number("Queue wait, p99", "s", _quantiles("pace_queue_wait_seconds", 0.99)["p99"]),
    _number("Consumers", "short", 'pace_observed_processes{role="consumer"}'),
    _number("Producers blocked", "short", "pace_observed_blocked_producers"),
    Panel(
        "Depth",
        "short",
        {"{{queue}} ready": "pace_queue_ready_messages", "{{queue}} unacked": "pace_queue_unacked_messages"},
        "Ready messages wait in the broker; unacked ones are with a consumer. A queue bound counts ready ones only.",
    ),
    Panel(
        "Queue wait",
        "s",
        _quantiles("pace_queue_wait_seconds", 0.5, 0.95, 0.99),
        "From sending to the start of the work. Depth divided by the bottleneck rate, when all is well.",
    ),
    Panel(
        "Throughput of both sides",
        "cps",
        {
            "published": _rate("messages_produced_total"),
            "processed": _rate("messages_consumed_total"),
            "offered load": "pace_observed_target_rate_per_second",
            "allowed by the law": "pace_observed_allowed_rate_per_second",
            "bottleneck": "pace_observed_bottleneck_rate_per_second",
        },
        "Matched pace: published and processed on one line, just below the bottleneck.",
    ),
    Panel(
        "Rejected",
        "cps",
        {
            "refused by the broker": _rate("pace_nacks_total"),
            "given up": _rate("pace_messages_rejected_total"),
            "returned": _rate("pace_messages_returned_total"),
        },
        "A refused message is tried again where the law adapts, and given up where it does not.",
    ),
    Panel(
        "Limiter delay",
        "s",
        _quantiles("pace_rate_limiter_delay_seconds", 0.5, 0.99),
        "How long the law held messages back. It grows for as long as more is offered than the consumers can take.",
    ),
    Panel(
        "Memory",
        "bytes",
        {
            "{{job}} {{instance}}": "pace_process_resident_memory_bytes",
            "broker": "pace_broker_memory_bytes",
        },
        "An unbounded queue shows here first, a bounded buffer never.",
    ),
    Panel(
        "In flight, unacked, prefetch",
        "short",
        {
            "in flight": "sum(pace_in_flight_messages)",
            "unacked": "sum(pace_unacked_messages)",
            "prefetch": "sum(pace_prefetch_messages)",
        },
        "Between producer and broker; between broker and consumer; the limit of the unacknowledged.",
    ),
    Panel(
        "Confirm latency",
        "s",
        _quantiles("pace_confirm_latency_seconds", 0.5, 0.99),
        "What the broker needs to take a message. It says nothing about the consumer.",
    ),
    Panel(
        "Back-pressure events",
        "short",
        {"{{kind}}": f"sum by (kind) (increase(pace_events_total[{_WINDOW}]))"},
    ),
    Panel("Work", "s", _quantiles("message_processing_duration_seconds", 0.5, 0.99), "Time a message's work took."),
)

OPERATIONS = (
    _number("Alerts firing", "short", 'count(ALERTS{alertstate="firing"}) or vector(0)'),
    _number("Targets down", "short", "count(up == 0) or vector(0)"),
    _number("Limits breached", "short", "sum(pace_threshold_breached)"),
    _number("Broker reachable", "bool_yes_no", 'pace_source_up{source="broker"}'),
    _number("Broker alarms", "short", "sum(pace_broker_alarm)"),
    _number("Dead letters, 1 h", "short", "sum(increase(pace_messages_dead_lettered_total[1h]))"),
    Panel(
        "Headroom",
        "percentunit",
        {
            "consumers busy": f"avg(rate(pace_busy_seconds_total[{_WINDOW}]))",
            "held back by the law": "1 - pace_observed_allowed_rate_per_second / pace_observed_target_rate_per_second",
            "broker memory": "pace_broker_memory_bytes / pace_broker_memory_limit_bytes",
        },
        "Consumers near 100 % and much held back: more consumers help. Both low: the offered load is the limit.",
    ),
    Panel(
        "Wait of a message sent now",
        "s",
        {
            "{{queue}}": "pace_queue_messages / on () group_left () pace_observed_bottleneck_rate_per_second"
            " and on (queue) pace_work_queue_info"
        },
        "Depth of the work queue divided by what the consumers can do.",
    ),
    Panel("Limits breached", "short", {"{{threshold}}": "pace_threshold_breached"}, "The limits are in the settings."),
    Panel(
        "Failures",
        "cps",
        {
            "failed attempts": _rate("message_processing_errors_total"),
            "retried": _rate("pace_messages_retried_total"),
            "dead-lettered": _rate("pace_messages_dead_lettered_total"),
            "redelivered": _rate("pace_messages_redelivered_total"),
            "duplicates": _rate("pace_messages_duplicate_total"),
            "republished": _rate("pace_messages_republished_total"),
        },
    ),
    Panel("Processes", "short", {"{{role}}": "pace_observed_processes"}),
    Panel("Processor", "percentunit", {"{{job}} {{instance}}": f"rate(pace_process_cpu_seconds_total[{_WINDOW}])"}),
    Panel(
        "Control API, p99",
        "s",
        {
            "{{job}} {{endpoint}}": "histogram_quantile(0.99, "
            + _rate("http_request_duration_seconds_bucket", "job, endpoint, le")
            + ")"
        },
    ),
    Panel(
        "Age of what is known",
        "s",
        {
            "{{queue}} to the monitor": "pace_queue_reading_age_seconds",
            "to the law of {{instance}}": "pace_signal_age_seconds",
        },
        "Control is as good as its signals are fresh. The monitor reads the work queue four times a second.",
    ),
    Panel("Connections", "short", {"connections": "pace_broker_connections"}),
    Panel("Consumers of each queue", "short", {"{{queue}}": "pace_queue_consumers"}),
    Panel(
        "RabbitMQ: memory of each node",
        "percentunit",
        {"{{instance}}": "rabbitmq_process_resident_memory_bytes / rabbitmq_resident_memory_limit_bytes"},
        "At 100 % of its limit a node blocks all publishers.",
    ),
    Panel(
        "RabbitMQ: confirmed and acknowledged",
        "cps",
        {
            "confirmed": _rate("rabbitmq_global_messages_confirmed_total"),
            "acknowledged": _rate("rabbitmq_global_messages_acknowledged_total"),
        },
        "All clients of the cluster, ours or not.",
    ),
)


def dashboard(uid: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """Return a dashboard in Grafana's format."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["pace"],
        "timezone": "browser",
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": _placed(panels),
    }


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """Place the panels from left to right and top to bottom; those of one row have the same height."""
    placed, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        height = 4 if panel.kind == "stat" else 8
        placed.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": height}))
        x += panel.width
        if x >= _COLUMNS:
            x, y = 0, y + height
    return placed


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "prometheus"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": source, "expr": query, "legendFormat": legend}
            for at, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def dashboards() -> dict[str, str]:
    """Return the text of each dashboard, by file name."""
    written = (
        dashboard("backpressure-lab", "Backpressure Lab", LAB),
        dashboard("pace-operations", "Pace operations", OPERATIONS),
    )
    return {f"{content['uid']}.json": json.dumps(content, indent=1) + "\n" for content in written}


def main() -> None:
    """Write both files."""
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
