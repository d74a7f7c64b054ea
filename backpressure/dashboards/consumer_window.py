"""The consumer's end of its window: hands over the latest messages and counters, and does what the window asks for.

The window is a process of its own (`window`). It gets an update a few times a second, and none before it has
read the last one, so that neither a slow display nor a high message rate slows the consumer down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backpressure.config import replaced
from backpressure.core.reports import ConsumerReport
from backpressure.dashboards import window
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.tally import Consumed
from backpressure.errors import PaceError, WindowUnavailableError
from backpressure.presentation.numbers import UNKNOWN, amount, duration
from backpressure.program import printable

_REFRESH_S = 0.2
_RATE_SPAN = 6  # updates: rates are those of the last second
_PREVIEW_BYTES = 120
_STOP_TIMEOUT_S = 3

Row = tuple[str, str, str, str, str, str]
"""Time, outcome, sender, number, age and the beginning of the body, as they are shown."""


class MessageFeed:
    """The latest messages, as many as the window shows; taking them is cheaper than looking at each."""

    def __init__(self) -> None:
        self._latest: deque[tuple[float, Consumed]] = deque(maxlen=window.MOST_ROWS)

    def add(self, consumed: Consumed) -> None:
        """Remember a message that was settled just now."""
        self._latest.append((time.time(), consumed))

    def take(self) -> list[Row]:
        """Return what came since the last call, oldest first; of very many, the latest."""
        rows = [_row(at_s, consumed) for at_s, consumed in self._latest]
        self._latest.clear()
        return rows


@contextlib.asynccontextmanager
async def opened_window(engine: ConsumerEngine, feed: MessageFeed) -> AsyncIterator[None]:
    """Show ``feed`` and the counters of ``engine`` in a window; closing the window is the same as Ctrl-C.

    Raises `WindowUnavailableError` without Tk or a display.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",  # it needs the standard library only, wherever it is started from
        str(Path(window.__file__)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first = json.loads(await process.stdout.readline() or b'{"failed": "it ended at once"}')
        if "failed" in first:
            raise WindowUnavailableError(first["failed"])
        link = WindowLink(engine, feed, process.stdin, process.stdout)
        tasks = [asyncio.create_task(link.show(), name="window"), asyncio.create_task(link.obey(), name="window asks")]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


class WindowLink:
    """Updates to the window, requests from it."""

    def __init__(
        self, engine: ConsumerEngine, feed: MessageFeed, given: asyncio.StreamWriter, asked: asyncio.StreamReader
    ) -> None:
        """Connect ``engine`` and ``feed`` with a window that reads from ``given`` and writes to ``asked``."""
        self._engine, self._feed, self._given, self._asked = engine, feed, given, asked
        self._notice = ""
        self._lately = deque([engine.report()], maxlen=_RATE_SPAN)

    async def show(self) -> None:
        """Send updates until cancelled."""
        while not self._given.is_closing():
            if not self._given.transport.get_write_buffer_size():
                self._given.write(json.dumps(self._update()).encode() + b"\n")
            await asyncio.sleep(_REFRESH_S)

    async def obey(self) -> None:
        """Do what the window asks for, until it is closed: then end the consumer cleanly."""
        async for line in self._asked:
            request = json.loads(line)
            try:
                await self._do(request)
                self._notice = ""
            except PaceError as error:
                self._notice = str(error)
        if not self._engine.stopping:  # a second signal would end it at once and leave messages unacknowledged
            signal.raise_signal(signal.SIGINT)

    async def _do(self, request: dict[str, Any]) -> None:
        match request["do"]:
            case "pause":
                await self._engine.pause()
            case "resume":
                await self._engine.resume()
            case "prefetch":
                self._engine.reconfigure(replaced(self._engine.settings, {"consumer.prefetch": request["value"]}))

    def _update(self) -> dict[str, Any]:
        report = self._engine.report()
        self._lately.append(report)
        return {
            "title": f"{printable(report.id)} takes {printable(report.queue)}",
            "facts": _facts(report, self._lately[0]),
            "paused": report.paused,
            "notice": self._notice,
            "rows": self._feed.take(),
        }


def _facts(report: ConsumerReport, before: ConsumerReport) -> str:
    elapsed_s = (report.at_ns - before.at_ns) / 1e9
    rate = (report.processed - before.processed) / elapsed_s if elapsed_s > 0 else None
    wait_s = report.queue_wait.since(before.queue_wait).quantile_s(0.99)
    facts = (
        ("processed", f"{report.processed} ({amount(rate)}/s)"), ("held", amount(report.held)),
        ("prefetch", amount(report.prefetch)), ("p99 wait", duration(wait_s)), ("failed", amount(report.failed)),
        ("dead-lettered", amount(report.dead_lettered)), ("duplicates", amount(report.duplicates)),
        ("out of order", amount(report.out_of_order)),
    )  # fmt: skip
    return "    ".join(f"{name} {value}" for name, value in facts)


def _row(at_s: float, consumed: Consumed) -> Row:
    metadata, body = consumed.metadata, consumed.delivery.message.body
    preview = printable(body[:_PREVIEW_BYTES].decode("utf-8", "replace"))
    return (
        f"{datetime.fromtimestamp(at_s, UTC).astimezone():%H:%M:%S.%f}"[:-3],
        consumed.outcome.name.lower().replace("_", "-"),
        printable(metadata.producer_id or "unknown"),
        UNKNOWN if metadata.sequence is None else str(metadata.sequence),
        duration(consumed.queue_wait_s),
        preview if len(body) <= _PREVIEW_BYTES else f"{preview}… ({len(body)} bytes)",
    )
