"""The log at its most detailed level: machines can read it, and it has no payloads and no secrets."""

from __future__ import annotations

import json
import signal
from typing import Any
from urllib.parse import urlsplit

import httpx

PAYLOAD, PASSWORD, TOKEN = "p4yl0ad-of-a-customer", "p4ssw0rd", "t0ken-of-the-api"
TALKATIVE = {"LOG_LEVEL": "DEBUG", "PACE_LOG__FORMAT": "json", "PACE_API__TOKEN": TOKEN}


def logged(text: str) -> list[dict[str, str]]:
    """Return the log entries among the lines of a program; every line that begins like one must be one."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_neither_payloads_nor_the_token_are_written_when_work_fails_and_the_queue_is_full(
    start: Any, broker: Any
) -> None:
    where = ("--url", broker.url, "--queue", "q.logs", "--api-port", "0")
    producer = start(
        "fast_producer.py", *where, "--strategy", "bounded", "--text", PAYLOAD, **TALKATIVE, PACE_QUEUE__MAX_LENGTH="50"
    )
    failing = {"PACE_CONSUMER__FAILURE_RATE": "1", "PACE_RETRY__MAX_ATTEMPTS": "1", "PACE_QUEUE__MAX_LENGTH": "50"}
    consumer = start("slow_consumer.py", *where, "--verbose", **TALKATIVE, **failing)
    consumer.says("dead_lettered #")
    url = producer.says(r"control API (http://\S+)")[1]
    body = {"id": "mine", "payload": PAYLOAD}
    for token in (TOKEN, "wrong"):
        httpx.post(
            f"{url}/produce", json=body, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60
        )
    producer.says('"message": "the queue is full')
    for running in (producer, consumer):
        running.signal(signal.SIGTERM)
        assert running.ends() == 0, running.text
        assert PAYLOAD not in running.text
        assert TOKEN not in running.text
    assert {entry["level"] for entry in logged(producer.text)} >= {"WARNING"}
    assert all(entry.keys() >= {"time", "level", "logger", "message"} for entry in logged(producer.text))


def test_a_password_is_not_written_whether_the_broker_refuses_it_or_is_away(
    start: Any, broker: Any, free_port: int
) -> None:
    port = urlsplit(broker.url).port
    for address in (f"127.0.0.1:{port}", f"127.0.0.1:{free_port}"):
        for script in ("fast_producer.py", "slow_consumer.py", "monitor.py"):
            flags = ("--port", "0", "--no-ui") if script == "monitor.py" else ("--no-api",)
            running = start(script, "--url", f"amqp://guest:{PASSWORD}@{address}", *flags, "--no-wait", **TALKATIVE)
            assert running.ends() == 3
            assert address in running.text
            assert PASSWORD not in running.text
