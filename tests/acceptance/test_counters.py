"""The counters that Prometheus reads agree with the journals, and outlive the process they came from."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backpressure.core.journal import Outcome, read_records

pytestmark = pytest.mark.slow


def counter(address: str, name: str, **labels: str) -> float | None:
    """Return one sample of ``address``/metrics, or None when it is not there."""
    text = httpx.get(f"{address}/metrics", trust_env=False, timeout=60).raise_for_status().text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)), None)


def count(journal: Path, outcome: Outcome) -> int:
    """Return how many different messages ended so."""
    records = read_records(journal.read_bytes())
    return len({(record.session, record.sequence) for record in records if record.outcome is outcome})


def test_every_counter_agrees_with_the_journals_and_survives_its_process(
    start: Any, broker: Any, wait_until: Any, tmp_path: Path
) -> None:
    where = ("--url", broker.url)
    of_this_test = {"PACE_QUEUE__WORK": "q.counters", "PACE_FEEDBACK__EXCHANGE": "counters.feedback"}

    def begin(script: str, *flags: str, journal: str, **settings: str) -> tuple[Any, str]:
        settings |= of_this_test | {"PACE_PROCESS__JOURNAL_FILE": str(tmp_path / journal)}
        running = start(script, *where, *flags, **settings)
        return running, running.says(r"(http://127\.0\.0\.1:\d+)")[1]

    def seen(stage: str) -> float | None:
        return counter(monitor, "pace_observed_messages_total", stage=stage)

    def send(messages: int) -> None:
        answer = httpx.post(f"{producer}/produce", json={"count": messages}, timeout=60, trust_env=False)
        assert answer.json()["messages_produced"] == messages

    work = ("slow_consumer.py", "--api-port", "0", "--rate", "2000")
    _, monitor = begin("monitor.py", "--port", "0", "--no-ui", journal="unused")
    first, consumer = begin(*work, journal="first")
    _, producer = begin("fast_producer.py", "--api-port", "0", journal="sent", PACE_PRODUCER__START_PAUSED="true")

    send(300)
    wait_until(lambda: seen("processed") == 300, "the monitor has seen 300 messages processed")
    assert counter(producer, "messages_produced_total") == count(tmp_path / "sent", Outcome.CONFIRMED) == 300
    assert counter(consumer, "messages_consumed_total") == count(tmp_path / "first", Outcome.PROCESSED) == 300
    assert counter(consumer, "message_processing_duration_seconds_count") == 300
    assert counter(consumer, "pace_queue_wait_seconds_count") == 300

    first.signal(signal.SIGTERM)
    assert first.ends() == 0
    _, successor = begin(*work, journal="second")
    send(200)
    wait_until(lambda: seen("processed") == 500, "the monitor has seen 500 messages processed")
    assert seen("confirmed") == counter(producer, "messages_produced_total") == 500
    assert counter(successor, "messages_consumed_total") == count(tmp_path / "second", Outcome.PROCESSED) == 200
