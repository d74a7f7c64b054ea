"""pace check against the real scripts: a stack that runs passes, one that loses its consumer does not."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow


def address(script: Any) -> str:
    return str(script.says(r"control API (http://\S+)")[1])


def test_a_running_stack_passes_and_a_stopped_consumer_shows(start: Any, broker: Any) -> None:
    queue = ("--url", broker.url, "--queue", "checked")
    consumer = start("slow_consumer.py", *queue, "--api-port", "0")
    producer = start("fast_producer.py", *queue, "--api-port", "0", "--rate", "50")
    stack = ("--url", address(producer), "--monitor-url", "", "--requests", "50")
    check = start("check", *stack, "--consumer-url", address(consumer))
    assert check.ends() == 0, check.text
    assert check.text.count("passed") == 9
    assert "50 of 50 confirmed" in check.text

    consumer.discard()
    check = start("check", *stack, "--consumer-url", address(consumer))
    assert check.ends() == 3, check.text
    assert "start python slow_consumer.py" in " ".join(check.text.split())

    idle = start("slow_consumer.py", "--url", broker.url, "--queue", "another", "--api-port", "0")
    check = start("check", *stack, "--consumer-url", address(idle), "--timeout", "1")
    assert check.ends() == 1, check.text
    assert "were consumed within 1 s" in " ".join(check.text.split())


def test_the_monitor_counts_for_all_consumers(start: Any, broker: Any) -> None:
    own = {
        "PACE_FEEDBACK__EXCHANGE": "counted.feedback",
        "PACE_QUEUE__WORK": "counted",
        "PACE_QUEUE__ROUTING_KEY": "counted",
    }
    for _ in range(2):
        start("slow_consumer.py", "--url", broker.url, "--no-api", **own)
    producer = start("fast_producer.py", "--url", broker.url, "--api-port", "0", "--rate", "20", **own)
    monitor = start("monitor.py", "--url", broker.url, "--port", "0", "--no-ui", **own)
    url = monitor.says(r"live page and metrics at (http://\S+)/")[1]
    check = start("check", "--url", address(producer), "--consumer-url", "", "--monitor-url", url)
    assert check.ends() == 0, check.text
    assert "delivery" in check.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--url", "localhost:5000"), "expected http://host:port"),
        (("--monitor-url", "ftp://localhost"), "--monitor-url"),
        (("--url", ""), "--url"),
        (("--requests", "0"), "--requests"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(start: Any, flags: tuple[str, ...], said: str) -> None:
    check = start("check", *flags)
    assert check.ends() == 2
    assert said in check.text
    assert "Traceback" not in check.text
