"""A producer hears reports of other programs, in virtual time, and says which it cannot read."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from stage import WORK, RecordingBroker, producing, settings_of
from virtual_time import run_virtually

from backpressure.transports.memory import MemoryTransport


def sent(*payloads: dict[str, object]) -> None:
    """Let a producer hear ``payloads``, one each tenth of a second."""

    async def story() -> None:
        settings, broker = settings_of(), RecordingBroker()
        feedback = MemoryTransport(settings, broker).feedback()
        await feedback.start()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(producing(settings, broker))
            for payload in payloads:
                feedback.send(json.dumps(payload).encode())
                await asyncio.sleep(0.1)
        await feedback.stop()

    run_virtually(story())


REPORT = {
    "v": 2, "role": "consumer", "id": "orders-1", "queue": WORK, "processed": 0, "held": 0, "prefetch": 1, "busy_s": 0,
}  # fmt: skip


def test_reports_of_a_later_version_are_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sent(*(REPORT | {"v": 3, "at_ns": n * 10**8, "mood": "good"} for n in range(20)))
    lines = [record.getMessage() for record in caplog.records if "report" in record.getMessage()]
    assert len(lines) == 1
    assert "version 3: this program reads version 2" in lines[0]


def test_unknown_fields_add_no_line_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sent(*(REPORT | {"at_ns": n * 10**8, "mood": "good"} for n in range(20)))
    assert [record.getMessage() for record in caplog.records if "report" in record.getMessage()] == []


def test_however_many_kinds_of_nonsense_are_sent_the_log_stays_short(caplog: pytest.LogCaptureFixture) -> None:
    sent(*({"v": number} for number in range(100, 200)))
    assert len([record for record in caplog.records if "report" in record.getMessage()]) == 10
