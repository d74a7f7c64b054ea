"""pika's asyncio connection with methods that can be awaited, joined writes, and its own reading of messages.

This is the one module that uses private parts of pika, each with its reason; tests/unit/transports/test_pika.py fails
first when a new pika changes them. Nothing here reconnects (`link` does) or knows publishers and subscribers.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Self, TypeVar

from pika import ConnectionParameters
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel
from pika.exceptions import AMQPError, ConnectionWrongStateError
from pika.frame import decode_frame

from backpressure.amqp.frames import FRAME_OVERHEAD
from backpressure.amqp.incoming import NEEDS_MORE, NOT_OURS, Incoming

_T = TypeVar("_T")

# pika logs each step of a failure as an error with traceback; `link` says the same in one line. To see pika's lines,
# set the level of the logger "pika" before importing this package.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def read_elsewhere(*_: object) -> None:
    """Serve as the callback that pika requires for a consumer: ``WireConnection.incoming`` reads all deliveries."""
    raise AssertionError("`Incoming` was not asked for the deliveries of this channel")


class WireConnection(AsyncioConnection):
    """One connection, from dialling to its end.

    ``lost`` is done with the first cause of the loss (a vital channel may close before the socket does). Messages and
    confirms come from ``incoming``, all other methods by pika's callbacks, in order of arrival.
    """

    def __init__(self, parameters: ConnectionParameters) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[BaseException] = loop.create_future()
        self.blocked = False
        self.incoming = Incoming()
        self._dialled: asyncio.Future[BaseException | None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        super().__init__(
            parameters,
            on_open_callback=lambda _connection: self._dialled.set_result(None),
            on_open_error_callback=lambda _connection, error: self._on_end(error),
            on_close_callback=lambda _connection, error: self._on_end(error),
            custom_ioloop=loop,
        )
        self.add_on_connection_blocked_callback(lambda _connection, _frame: self._set_blocked(True))
        self.add_on_connection_unblocked_callback(lambda _connection, _frame: self._set_blocked(False))

    @classmethod
    async def dial(cls, parameters: ConnectionParameters) -> Self:
        """Connect and log in; raises pika's own errors."""
        connection = cls(parameters)
        try:
            error = await asyncio.shield(connection._dialled)
        except asyncio.CancelledError:
            await connection.shut()
            raise
        if error is not None:
            raise error
        return connection

    async def open_channel(self, *, vital: bool) -> WireChannel:
        """Open a channel; when a ``vital`` one closes, the connection counts as lost."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            channel = WireChannel(self.channel(on_open_callback=lambda _channel: opened.set_result(None)))
        except ConnectionWrongStateError as error:
            raise self.lost.result() if self.lost.done() else error from None
        await channel.wait_for(opened)
        if vital:
            self.depend_on(channel)
        return channel

    def depend_on(self, channel: WireChannel) -> None:
        """Count the connection as lost when ``channel`` closes."""
        channel.closed.add_done_callback(lambda closed: self.fail(closed.result()))

    def fail(self, error: BaseException) -> None:
        """Declare the connection lost because of ``error``; the first cause counts."""
        if not self.lost.done():
            self.lost.set_result(error)

    async def shut(self, patience_s: float = 5.0) -> None:
        """Send what was written and close; drop the socket when blocked, or when no answer comes in time."""
        if not (self.is_closing or self.is_closed):
            self.close()
        if not self.blocked:  # the broker does not read from a blocked connection, so it would never answer
            await asyncio.wait({self._gone}, timeout=patience_s)
        while not self._gone.done():
            self.drop()
            await asyncio.wait({self._gone}, timeout=patience_s)

    def drop(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()  # pika has no public way to do it

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes handed over that the socket has not taken yet."""
        buffered: int = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._unsent_bytes + buffered

    @property
    def frame_max_bytes(self) -> int:
        """The largest frame that client and broker have agreed on."""
        size: int = self._body_max_length  # pika has no public name for it
        return size + FRAME_OVERHEAD

    def emit(self, frames: bytes) -> None:
        """Send whole frames that were encoded elsewhere."""
        self._output_marshaled_frames([frames])

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked

    def _on_end(self, error: BaseException) -> None:
        if not self._dialled.done():
            self._dialled.set_result(error)
        self.fail(error)
        self._gone.set_result(None)

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        """Pass an error where pika passes the class of one (when dialling is given up) and then fails at it."""
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    def _on_data_available(self, data_in: bytes) -> None:
        """Handle all complete frames: those that ``incoming`` takes, and the others by pika."""
        data, at = self._frame_buffer + data_in, 0
        try:
            while at < len(data):
                end = self.incoming.take(data, at)
                if end == NEEDS_MORE:
                    break
                if end == NOT_OURS:
                    size, frame = decode_frame(data[at:] if at else data)
                    if frame is None:
                        break
                    at += size
                    self._process_frame(frame)
                else:
                    at = end
        finally:
            self._frame_buffer = data[at:]
            self.bytes_received += at  # pika's heartbeat check looks at it

    def _adapter_emit_data(self, data: bytes) -> None:
        """Collect the frames of one iteration of the event loop, to be sent at once.

        pika sends each frame by itself, three for every message; one `send` for all saves a fifth of the client's time.
        """
        if not self._unsent:
            self.ioloop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if self._transport is None:  # the connection ended in the same iteration
            return
        data = data[self._sent_at_once(self._transport, data) :]
        if data:
            super()._adapter_emit_data(data)

    def _sent_at_once(self, transport: Any, data: bytes) -> int:
        """Try to write at once and return how many bytes the socket took: as a rule, all of them.

        pika waits until the event loop reports the socket as writable, which takes one more iteration for each write, a
        tenth of a producer's time. An error here comes again when pika writes, and is handled there.
        """
        if self.params.ssl_options is not None or transport.get_write_buffer_size():
            return 0
        try:
            return int(transport._sock.send(data))  # noqa: SLF001 -- pika has no public way to its socket
        except (OSError, AttributeError):  # its buffer is full, or it is closed
            return 0


class WireChannel:
    """A pika channel whose methods can be awaited. ``closed`` is done with the reason."""

    def __init__(self, raw: PikaChannel) -> None:
        self.raw = raw
        self.closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        raw.add_on_close_callback(lambda _channel, reason: self.closed.set_result(reason))

    @property
    def is_open(self) -> bool:
        """Whether methods may be sent."""
        return bool(self.raw.is_open)

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """Send one method by its pika name and return the reply; raises the error that closed the channel instead."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_reply(frame: Any) -> None:
            if not reply.done():  # else the caller was cancelled
                reply.set_result(frame.method)

        if self.closed.done():
            raise self.closed.result()
        getattr(self.raw, method)(**arguments, callback=on_reply)
        return await self.wait_for(reply)

    async def wait_for(self, reply: asyncio.Future[_T]) -> _T:
        """Return the reply; raises the error that closed the channel if that comes first."""
        either: set[asyncio.Future[Any]] = {reply, self.closed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if reply.done():
            return reply.result()
        raise self.closed.result()

    async def close(self) -> None:
        """Close the channel, if it is open."""
        try:
            self.raw.close()
        except AMQPError:
            return
        await self.closed
