"""The law `pace` before a consumer of another program: its reports are enough, and lies do no harm."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from backpressure import FeedbackError, Pacer, Reporter

_PREFETCH = 100
_WORK_MS = 10
_SECONDS = 40

Change = Callable[[dict[str, Any], int], dict[str, Any] | bytes]


def loop(change: Change | None) -> tuple[float, int]:
    """Return utilisation and the largest backlog of the second half, in messages.

    All that is sent fits into the prefetch, so a passive declare always says 0. The consumer reports ten times a
    second. ``change`` turns each report, with its number, into what is published after it; None: no report arrives.
    """
    now = 0.0
    pacer = Pacer("pace", now=now, queue="orders")
    reporter = Reporter("orders", prefetch=_PREFETCH, name="orders-1", clock=lambda: now)
    backlog = largest = working_ms = idle_ms = 0
    for ms in range(_SECONDS * 1000):
        now = ms / 1000
        if ms % 100 == 0 and change is not None:
            report = json.loads(reporter.report())
            lie = change(report, ms // 100)
            for payload in (json.dumps(report).encode(), lie if isinstance(lie, bytes) else json.dumps(lie).encode()):
                with contextlib.suppress(FeedbackError):
                    pacer.report(payload, now=now)
        if pacer.wants_reading(now):
            pacer.reading(max(0, backlog - _PREFETCH), 1, now=now)
        if pacer.may_send(now):
            pacer.sent(now)
            pacer.confirmed()
            reporter.received()
            backlog += 1
        if backlog:
            working_ms += 1
            if working_ms == _WORK_MS:
                reporter.done(_WORK_MS / 1000)
                backlog, working_ms = backlog - 1, 0
        if ms >= _SECONDS * 500:
            largest = max(largest, backlog)
            idle_ms += not backlog
    return 1 - idle_ms / (_SECONDS * 500), largest


def now_and_then(**lies: object) -> Change:
    """Return a change that tells ``lies`` under the consumer's own name every two seconds."""

    def change(report: dict[str, Any], number: int) -> dict[str, Any] | bytes:
        return report | lies | ({} if "at_ns" in lies else {"at_ns": report["at_ns"] + 1}) if number % 20 == 7 else b""

    return change


def test_without_reports_the_prefetch_fills_up() -> None:
    _, largest = loop(None)
    assert largest >= _PREFETCH


def test_reports_keep_the_backlog_far_below_the_prefetch() -> None:
    utilisation, largest = loop(lambda *_: b"")
    assert utilisation >= 0.97
    assert largest <= 15


LIES: dict[str, Change] = {
    "no JSON": lambda *_: b"\xff{",
    "a later version": lambda report, _: report | {"v": 3, "processed": 1 << 62},
    "texts": lambda report, _: report | {"processed": "many", "busy_s": "long"},
    "no numbers": lambda report, _: report | {"busy_s": float("nan")},
    "negative": lambda report, _: report | {"processed": -5, "held": -1},
    "about another queue": lambda report, _: report | {"queue": "other", "processed": 1 << 62},
    "enormous counts": now_and_then(processed=1 << 62),
    "enormous work": now_and_then(busy_s=1e18),
    "enormous squares": now_and_then(service_sum_s2=1e18),
    "counters that fall": now_and_then(processed=0),
    "all counters fall": now_and_then(processed=0, busy_s=0.0, service_sum_s=0.0, service_sum_s2=0.0),
    "a clock that is far ahead": now_and_then(at_ns=1 << 62),
    "a clock that is far behind": now_and_then(at_ns=0),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_lies_do_not_disturb_the_law(lie: Change) -> None:
    utilisation, largest = loop(lie)
    assert utilisation >= 0.95
    assert largest <= 20


def test_a_consumer_on_a_machine_with_another_time_is_as_good_as_any() -> None:
    def shifted(report: dict[str, Any], _: int) -> bytes:
        report["at_ns"] += 10**18  # the report itself, before it is published
        return b""

    utilisation, largest = loop(shifted)
    assert utilisation >= 0.97
    assert largest <= 15
