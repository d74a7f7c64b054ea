"""Messages on request: sent ahead of the schedule, and answered when the broker has answered.

No caller waits forever. What waits is bounded in number and in bytes; a request beyond that is refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from backpressure.core.journal import Outcome
from backpressure.engines.composer import Outgoing, Settlement
from backpressure.engines.sender import Sender
from backpressure.errors import NotConnectedError, RefusedError

__all__ = ["Submissions"]

_PATIENCE_S = 10.0
_WINDOWS = 10
_MOST_BYTES = 64 << 20


class Submissions:
    """The open requests: waiting, or in flight."""

    def __init__(self, sender: Sender) -> None:
        """``sender`` sends it."""
        self._sender = sender
        self._open = self._open_bytes = 0

    async def submit(
        self, messages: Sequence[tuple[str | None, bytes, float | None]], traceparent: str, window: int
    ) -> list[Settlement]:
        """Send ``messages``, unless ten windows are open already; see `ProducerEngine.submit`."""
        if self._sender.blocked:
            raise NotConnectedError("the broker blocks publishing")
        if not self._sender.connected:
            raise NotConnectedError("the broker is away")
        if self._open >= _WINDOWS * window or self._open_bytes >= _MOST_BYTES:
            raise RefusedError(f"{self._open} requested messages wait for the broker already")
        items = [self._request(*message, traceparent) for message in messages]
        waiting = {item.result for item in items if item.result is not None}
        while waiting:
            _, still = await asyncio.wait(waiting, timeout=_PATIENCE_S)
            if len(still) == len(waiting):
                break  # no answer in all this time
            waiting = still
        return [_settlement(item) for item in items]

    def _request(
        self, given_id: str | None, body: bytes, processing_time_s: float | None, traceparent: str
    ) -> Outgoing:
        item = self._sender.request(given_id, body, processing_time_s, traceparent)
        item.result = asyncio.get_running_loop().create_future()
        self._open += 1
        self._open_bytes += len(body)
        item.result.add_done_callback(lambda _: self._closed(len(body)))
        return item

    def _closed(self, size_bytes: int) -> None:
        self._open -= 1
        self._open_bytes -= size_bytes


def _settlement(item: Outgoing) -> Settlement:
    if item.result is not None and item.result.done():
        return item.result.result()
    reason = f"the broker has not answered for {_PATIENCE_S:g} s, so it may still arrive"
    return Settlement(item.message.message_id or "", Outcome.UNSETTLED, reason, may_have_arrived=True)
