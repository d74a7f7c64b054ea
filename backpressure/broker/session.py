"""One client's connection, without its socket: bytes in, bytes out.

Contains the handshake, heartbeats, the channels by number, and flow control (a peer that reads slowly, the memory
alarm). Must not know: sockets, asyncio, the clock (``now`` is passed in).

`Session.receive` has three distinct outcomes: output to send; nothing yet, because bytes are missing; the end of the
connection (``closed``), before which the last output must still be sent.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from itertools import count
from typing import Any

from pamqp import commands

from backpressure.amqp.frames import (
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_MIN_SIZE,
    HEARTBEAT,
    PROTOCOL_HEADER,
    DecodeError,
    FrameReader,
)
from backpressure.amqp.methods import decode_method, method_frame
from backpressure.broker import handshake
from backpressure.broker.channel import Channel
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.peer import Confirming
from backpressure.broker.replies import (
    ConnectionRefusal,
    channel_error,
    command_invalid,
    not_allowed,
)
from backpressure.broker.timers import Timer
from backpressure.broker.vhost import VirtualHost

OUTPUT_LIMIT_BYTES = 256 * 1024
"""With this much unsent output, deliveries to a session stop and its requests wait."""
HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0


class SessionState(Enum):
    """The state of a connection."""

    PROTOCOL_HEADER = auto()
    START = auto()
    TUNE = auto()
    OPEN = auto()
    RUNNING = auto()
    CLOSING = auto()
    CLOSED = auto()


_identities = count(1)


class Session:
    """The state of one connection."""

    def __init__(
        self,
        vhost: VirtualHost,
        config: SessionConfig,
        wake: Callable[[Session], None],
        *,
        peer: tuple[str, int] = ("", 0),
        local: tuple[str, int] = ("", 0),
    ) -> None:
        """``wake`` is called when there is output, or work that can continue; it must not call back immediately.

        ``peer`` and ``local`` are the addresses of both ends, for the management API.
        """
        self.vhost = vhost
        self.config = config
        self.peer = peer
        self.local = local
        self.identity = next(_identities)
        self.state = SessionState.PROTOCOL_HEADER
        self.user = ""
        self.client_properties: dict[str, Any] = {}
        self.channels: dict[int, Channel] = {}
        self.frame_max = config.frame_max_bytes
        self.channel_max = config.channel_max
        self.heartbeat_s = 0
        self.congested = False
        self.blocked = False
        self.stalled = vhost.faults.settings.stall_reads
        self.received_bytes = 0
        self.sent_bytes = 0
        self.connected_at_s = vhost.epoch_s
        self._wake = wake
        self._reader = FrameReader(FRAME_MIN_SIZE)
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._write_paused = False
        self._unconfirmed: set[Confirming] = set()
        self._confirm_at_s = 0.0
        self._heard_at_s = self._spoke_at_s = vhost.now
        self._timer: Timer = vhost.timers.at(vhost.now + HANDSHAKE_TIMEOUT_S, self.lost)
        vhost.sessions.add(self)

    # -- bytes in ------------------------------------------------------------------------------------------------

    @property
    def wants_input(self) -> bool:
        """Whether input should be read: not while the peer does not read, nor while it is blocked."""
        return not (self.congested or self.blocked or self.stalled or self.state is SessionState.CLOSED)

    @property
    def holds_memory_while_blocked(self) -> bool:
        """Whether a memory alarm that blocks this connection may last until the connection ends."""
        channels = self.channels.values()
        return self.blocked and any(c.publishing.reserved_bytes or c.consuming.unacked for c in channels)

    @property
    def closed(self) -> bool:
        """Whether the connection must be dropped once its output is sent."""
        return self.state is SessionState.CLOSED

    def receive(self, data: bytes, now: float) -> None:
        """Process input in pieces of any size."""
        self.vhost.now = self._heard_at_s = now
        self.received_bytes += len(data)
        self._reader.feed(data)
        self._proceed()

    def _proceed(self) -> None:
        try:
            if not self._frames_may_follow():
                return
            for kind, number, payload in self._reader.frames():
                self._handle(kind, number, payload)
                if not self.wants_input:
                    break
        except DecodeError as error:
            self._fail(ConnectionRefusal(error.code, error.name, error.detail, error.method_index))
        except ConnectionRefusal as fault:
            self._fail(fault)

    def _frames_may_follow(self) -> bool:
        if self.state is SessionState.PROTOCOL_HEADER:
            header = self._reader.protocol_header()
            if header is None:
                return False
            if header == PROTOCOL_HEADER:
                self.state = SessionState.START
                self.send(method_frame(0, handshake.start(self.config)))
            else:  # another protocol or version: answer with the supported one
                self.send(PROTOCOL_HEADER)
                self.lost()
        return self.wants_input

    def _handle(self, kind: int, number: int, payload: bytes) -> None:
        channel = self.channels.get(number)
        if kind == FRAME_HEARTBEAT:
            return
        if channel is not None and self.state is SessionState.RUNNING:
            channel.handle(kind, payload)
        elif number == 0 or self.state is not SessionState.RUNNING:
            self._connection_frame(kind, number, payload)
        else:
            self._open_channel(kind, number, payload)

    def _connection_frame(self, kind: int, number: int, payload: bytes) -> None:
        if self.state is SessionState.CLOSING and (number or kind != FRAME_METHOD):
            return
        if number or kind != FRAME_METHOD:
            raise command_invalid("expected a connection method on channel 0")
        method = decode_method(payload)
        match method:
            case commands.Connection.CloseOk() if self.state is SessionState.CLOSING:
                self.lost()
            case commands.Connection.Close():
                self.send(method_frame(0, commands.Connection.CloseOk()))
                self.lost()
            case _ if self.state is SessionState.CLOSING:
                pass
            case commands.Connection.StartOk() if self.state is SessionState.START:
                self._login(method)
            case commands.Connection.TuneOk() if self.state is SessionState.TUNE:
                self._tuned(method)
            case commands.Connection.Open() if self.state is SessionState.OPEN:
                self._opened(method)
            case commands.Connection.UpdateSecret() if self.state is SessionState.RUNNING:
                self.send(method_frame(0, commands.Connection.UpdateSecretOk()))  # a password does not expire
            case _:
                raise command_invalid(f"unexpected method {method.name}")

    # -- handshake -----------------------------------------------------------------------------------------------

    def _login(self, method: commands.Connection.StartOk) -> None:
        self.client_properties = method.client_properties
        self.user = handshake.log_in(self.config, method)
        self.state = SessionState.TUNE
        self.send(method_frame(0, handshake.tune(self.config)))

    def _tuned(self, method: commands.Connection.TuneOk) -> None:
        handshake.check_tune(self.config, method)
        self.channel_max, self.heartbeat_s = method.channel_max, method.heartbeat
        self.frame_max = self._reader.frame_max = method.frame_max
        self.state = SessionState.OPEN

    def _opened(self, method: commands.Connection.Open) -> None:
        handshake.check_open(method)
        self.state = SessionState.RUNNING
        self._timer.cancel()
        if self.heartbeat_s:
            self._beat()
        self.send(method_frame(0, commands.Connection.OpenOk()))

    def can(self, capability: str) -> bool:
        """Whether the client announced a capability, such as ``connection.blocked``."""
        return handshake.can(self.client_properties, capability)

    def _open_channel(self, kind: int, number: int, payload: bytes) -> None:
        if kind != FRAME_METHOD:
            raise channel_error("expected 'channel.open'")
        method = decode_method(payload)
        if isinstance(method, (commands.Channel.CloseOk, commands.Channel.Close)):
            return  # both sides closed the channel at the same time
        if not isinstance(method, commands.Channel.Open):
            raise channel_error("expected 'channel.open'")
        if len(self.channels) >= self.channel_max:
            raise not_allowed(
                f"number of channels opened ({len(self.channels)}) "
                f"has reached the negotiated channel_max ({self.channel_max})"
            )
        self.channels[number] = Channel(self, number)
        self.send(method_frame(number, commands.Channel.OpenOk()))

    def forget(self, number: int) -> None:
        """A channel is closed on both sides."""
        self.channels.pop(number, None)

    # -- bytes out -----------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Queue output for the peer."""
        if not data:
            return
        if not self._output:
            self._wake(self)
        self._output.append(data)
        self._output_bytes += len(data)
        if self._output_bytes >= OUTPUT_LIMIT_BYTES:
            self.congested = True

    def confirm_later(self, publishing: Confirming) -> None:
        """A channel has outcomes to confirm; they are part of the next output."""
        if not self._unconfirmed:
            self._wake(self)
        self._unconfirmed.add(publishing)

    def confirm_now(self, publishing: Confirming) -> None:
        """Send a channel's outcomes; if a fault delays them, send them later and in order."""
        self._unconfirmed.discard(publishing)
        frames = publishing.confirms()
        now, delay_s = self.vhost.now, self.vhost.faults.settings.confirm_delay_ms / 1000
        self._confirm_at_s = max(now + delay_s, self._confirm_at_s)
        if self._confirm_at_s <= now:
            self.send(frames)
        elif frames:
            self.vhost.timers.at(self._confirm_at_s, lambda: self._confirm_delayed(publishing, frames))

    def _confirm_delayed(self, publishing: Confirming, frames: bytes) -> None:
        if any(channel.publishing is publishing and not channel.closing for channel in self.channels.values()):
            self.send(frames)

    def take_output(self) -> bytes:
        """Return the output to send now, including the confirms since the last call."""
        for publishing in list(self._unconfirmed):
            self.confirm_now(publishing)
        data = b"".join(self._output)
        self._output.clear()
        self._output_bytes = 0
        if data:
            self._spoke_at_s = self.vhost.now
            self.sent_bytes += len(data)
        return data

    def output_paused(self) -> None:
        """The peer does not read: stop deliveries, and let its requests wait."""
        self._write_paused = self.congested = True

    def output_resumed(self) -> None:
        """The peer reads again."""
        self._write_paused = False
        self._wake(self)

    def go_on(self, now: float) -> None:
        """Continue with what waited, after output was sent or an obstacle has gone."""
        self.vhost.now = now
        if self.closed:
            return
        if self.congested and not self._write_paused:
            self.congested = False
            for channel in list(self.channels.values()):
                channel.consuming.pump_all()
        self._proceed()

    # -- holding publishers back ---------------------------------------------------------------------------------

    def block(self) -> None:
        """Block a connection that publishes during a memory alarm: notify it and stop reading."""
        if not self.blocked:
            self.blocked = True
            if self.can("connection.blocked"):
                self.send(method_frame(0, commands.Connection.Blocked("low on memory")))

    def alarm_changed(self, *, active: bool) -> None:
        """The memory alarm began or ended."""
        if not active and self.blocked:
            self.blocked = False
            self._heard_at_s = self.vhost.now
            if self.can("connection.blocked"):
                self.send(method_frame(0, commands.Connection.Unblocked()))
            self._wake(self)

    def stall(self, stalled: bool) -> None:
        """Stop or resume reading; a fault for experiments."""
        if self.stalled is not stalled:
            self.stalled = stalled
            self._heard_at_s = self.vhost.now
            self._wake(self)

    # -- the end -------------------------------------------------------------------------------------------------

    def _fail(self, fault: ConnectionRefusal) -> None:
        """Close with the reason; before login, only if the client asked for it in its capabilities."""
        logged_in = self.state in {SessionState.OPEN, SessionState.RUNNING}
        if logged_in or (self.state is SessionState.START and self.can("authentication_failure_close")):
            self.close(fault.code, fault.text, fault.method_index)
        else:
            self.lost()

    def close(self, code: int, text: str, method_index: int = 0) -> None:
        """Close from our side: release everything, and wait a limited time for the peer's answer."""
        if self.state in {SessionState.CLOSING, SessionState.CLOSED}:
            return
        self._release()
        self.blocked = False
        self.state = SessionState.CLOSING
        close = commands.Connection.Close(code, text, method_index >> 16, method_index & 0xFFFF)
        self.send(method_frame(0, close))
        self._timer.cancel()
        self._timer = self.vhost.timers.at(self.vhost.now + CLOSE_TIMEOUT_S, self.lost)

    def lost(self) -> None:
        """The connection has ended."""
        if self.state is not SessionState.CLOSED:
            self._release()
            self.state = SessionState.CLOSED
            self._timer.cancel()
            self.vhost.sessions.discard(self)
            self._wake(self)

    def _release(self) -> None:
        """Cancel all consumers before requeueing: nothing must be delivered to this connection again."""
        channels, self.channels = list(self.channels.values()), {}
        self.congested = True
        for channel in channels:
            channel.close()
        for queue in [queue for queue in self.vhost.queues.values() if queue.owner is self]:
            self.vhost.delete_queue(queue)

    def _beat(self) -> None:
        """Run twice per heartbeat interval: send a heartbeat if needed, and drop a peer silent for two intervals.

        A peer whose input is not read is not dropped, unless the reason is that it does not read ours.
        """
        now, interval_s = self.vhost.now, self.heartbeat_s
        if (self.wants_input or self._write_paused) and now - self._heard_at_s > 2 * interval_s:
            self.lost()
            return
        if now - self._spoke_at_s >= interval_s / 2 and not self.congested:
            self.send(HEARTBEAT)
        self._timer = self.vhost.timers.at(now + interval_s / 2, self._beat)
