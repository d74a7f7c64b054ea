"""pika's asyncio connection with awaitable methods, joined writes, and a short way for what comes most.

Everything that touches pika's insides lives here, each touch with its reason. Nothing here reconnects (`link` does) and
nothing knows what a publisher or a subscriber is.
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

from backpressure.transports.rabbitmq.incoming import NEEDS_MORE, NOT_OURS, Incoming

__all__ = ["Channel", "Connection", "read_elsewhere"]

_T = TypeVar("_T")

# pika logs each step of a failure, with traceback, as errors of its own; `link` says the same in one line.
# Whoever wants to see them sets the level of the logger "pika" before importing this package.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def read_elsewhere(*_: object) -> None:
    """Stand in for the callback that pika wants for each consumer: ``Connection.incoming`` reads all deliveries."""
    raise AssertionError("a delivery that nobody asked `Incoming` for")


class Connection(AsyncioConnection):
    """One connection, from dialling to its end, and never again.

    ``lost`` ends with the first cause of the loss (a vital channel may die before the socket does). Messages and
    confirms come from ``incoming``, the rest by pika's callbacks, all in order of arrival.
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

    async def open_channel(self, *, vital: bool) -> Channel:
        """Open a channel; when a ``vital`` one closes, the connection counts as lost."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            channel = Channel(self.channel(on_open_callback=lambda _channel: opened.set_result(None)))
        except ConnectionWrongStateError as error:
            raise self.lost.result() if self.lost.done() else error from None
        await channel.wait_for(opened)
        if vital:
            self.depend_on(channel)
        return channel

    def depend_on(self, channel: Channel) -> None:
        """Count the connection as lost when ``channel`` closes."""
        channel.closed.add_done_callback(lambda closed: self.fail(closed.result()))

    def fail(self, error: BaseException) -> None:
        """Declare the connection lost because of ``error``; the first cause counts."""
        if not self.lost.done():
            self.lost.set_result(error)

    async def shut(self, patience_s: float = 5.0) -> None:
        """Close, sending what was written; without an answer in time, or while blocked, drop the socket."""
        if not (self.is_closing or self.is_closed):
            self.close()
        if not self.blocked:  # a blocked connection is not read by the broker: it would never answer
            await asyncio.wait({self._gone}, timeout=patience_s)
        while not self._gone.done():
            if self._transport is not None:
                self._transport.abort()  # pika has no public way to stop waiting for CloseOk
            await asyncio.wait({self._gone}, timeout=patience_s)

    @property
    def write_buffer_bytes(self) -> int:
        """Bytes handed over that the socket has not taken yet."""
        buffered: int = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._unsent_bytes + buffered

    @property
    def body_max_bytes(self) -> int:
        """How much of a body fits in one frame, as client and broker have agreed."""
        size: int = self._body_max_length  # pika keeps it to itself
        return size

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
        """Make an error of what pika gives when dialling was given up: the class of one, at which it fails itself."""
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    def _on_data_available(self, data_in: bytes) -> None:
        """Take what is complete, by the short way where there is one; pika does the rest, frame by frame."""
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
            self.bytes_received += at  # by this pika sees that the broker is alive

    def _adapter_emit_data(self, data: bytes) -> None:
        """Collect the frames of one loop iteration: pika makes a `send` of each, three for every message.

        One `send` for all of them saves a fifth of the client's time.
        """
        if not self._unsent:
            self.ioloop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        if self._transport is None:  # the connection ended in this very iteration
            return
        data = data[self._sent_at_once(self._transport, data) :]
        if data:
            super()._adapter_emit_data(data)

    def _sent_at_once(self, transport: Any, data: bytes) -> int:
        """Return how much the socket took without being asked whether it would: as a rule, all of it.

        pika waits for the loop to find the socket writable: two changes to its list of sockets and one more iteration
        for each write, a tenth of a producer's time. What fails here fails again there, and is dealt with there.
        """
        if self.params.ssl_options is not None or transport.get_write_buffer_size():
            return 0
        try:
            return int(transport._sock.send(data))  # noqa: SLF001 -- pika shows its socket to nobody
        except (OSError, AttributeError):  # it takes nothing now, or there is none any more
            return 0


class Channel:
    """A pika channel whose methods can be awaited. ``closed`` ends with the reason."""

    def __init__(self, raw: PikaChannel) -> None:
        self.raw = raw
        self.closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        raw.add_on_close_callback(lambda _channel, reason: self.closed.set_result(reason))

    @property
    def is_open(self) -> bool:
        """Whether methods may be sent."""
        return bool(self.raw.is_open)

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """Send one method by its pika name and return the reply; raises what closed the channel instead."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_reply(frame: Any) -> None:
            if not reply.done():  # cancelled: nobody waits any more
                reply.set_result(frame.method)

        if self.closed.done():
            raise self.closed.result()
        getattr(self.raw, method)(**arguments, callback=on_reply)
        return await self.wait_for(reply)

    async def wait_for(self, reply: asyncio.Future[_T]) -> _T:
        """Return what arrives first: the reply, or (raised) the end of the channel."""
        either: set[asyncio.Future[Any]] = {reply, self.closed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if reply.done():
            return reply.result()
        raise self.closed.result()

    async def close(self) -> None:
        """Close the channel; does nothing when it is closed already."""
        try:
            self.raw.close()
        except AMQPError:
            return
        await self.closed
