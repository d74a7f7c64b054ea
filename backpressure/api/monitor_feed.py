"""The live page's memory: one point a second for fifteen minutes, streamed to every page that is open."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from backpressure.api.monitor_json import plain, point
from backpressure.core.snapshot import Snapshot

__all__ = ["LiveFeed"]

_INTERVAL_S = 1.0
_KEPT_S = 900
_EVENTS_SHOWN = 100
_BEHIND = 10  # ticks a page may be behind before it misses some

Item = tuple[str, str]
"""Event name and JSON text."""


class LiveFeed:
    """Takes a point of the loop each second, keeps the last 15 minutes and hands all of them to new subscribers."""

    def __init__(self, snapshot: Callable[[], Snapshot], advise: Callable[[Snapshot], list[str]]) -> None:
        """Show each ``snapshot`` and what ``advise`` says about it."""
        self._snapshot = snapshot
        self._advise = advise
        self._points: deque[dict[str, Any]] = deque(maxlen=round(_KEPT_S / _INTERVAL_S))
        self._subscribers: set[asyncio.Queue[Item | None]] = set()
        self._closed = False

    async def run(self) -> None:
        """Take points until cancelled."""
        while True:
            self.take()
            await asyncio.sleep(_INTERVAL_S)

    def take(self) -> None:
        """Take one point and send it to every subscriber."""
        seen = self._snapshot()
        latest = point(seen)
        self._points.append(latest)
        if not self._subscribers:
            return
        now = plain(seen)
        now["events"] = now["events"][-_EVENTS_SHOWN:]
        item = ("tick", _json({"point": latest, "now": now, "advice": self._advise(seen)}))
        for subscriber in self._subscribers:
            if subscriber.full():
                subscriber.get_nowait()
            subscriber.put_nowait(item)

    def close(self) -> None:
        """End every subscription, so that a server can stop at once."""
        self._closed = True
        for subscriber in self._subscribers:
            if subscriber.full():
                subscriber.get_nowait()
            subscriber.put_nowait(None)

    async def subscribe(self) -> AsyncIterator[Item]:
        """Yield what was kept as ``history``, then each new point as ``tick``, until `close`."""
        subscriber: asyncio.Queue[Item | None] = asyncio.Queue(maxsize=_BEHIND)
        self._subscribers.add(subscriber)
        try:
            yield ("history", _json(list(self._points)))
            while not self._closed and (item := await subscriber.get()) is not None:
                yield item
        finally:
            self._subscribers.discard(subscriber)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
