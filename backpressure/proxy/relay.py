"""One client and its connection to the broker: bytes in from both sides, bytes out to both sides.

Everything is forwarded as it came, whole frames at a time and in the order of their channels. The relay adds frames of
its own in three cases, all on channel 0: heartbeats to the broker while what the client sends waits here, and
``connection.blocked`` and ``connection.unblocked`` to a client that is held for longer than a second and knows them.
Bytes that are not AMQP end all understanding of a side, not the connection: the other side answers them.
Must not know: sockets, tasks, clocks.

Source: AMQP 0-9-1 sections 2.2.4, 2.3 and 4.2; RabbitMQ's ``connection.blocked``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pamqp import commands

from backpressure.amqp.frames import FRAME_METHOD, HEARTBEAT, PROTOCOL_HEADER, DecodeError, Splitter
from backpressure.amqp.methods import decode_method, method_frame
from backpressure.proxy.relay_channel import RelayChannel
from backpressure.proxy.view import View

_METHOD = struct.Struct(">I")
_HEADER_SIZE = len(PROTOCOL_HEADER)
_TELL_AFTER_S = 1.0
_TELL_ANEW_S = 10.0  # many clients give up a connection that stays blocked for longer than they were told to wait
_LARGEST_FRAME = 16 << 20
_OUR_PRODUCT = "Pace Matching"  # a program of this project paces and reports itself: it only passes
_REASON = "pace: the consumers are slower than this client publishes"
_CHANNEL_OPEN, _CHANNEL_CLOSE, _CHANNEL_CLOSE_OK = (
    commands.Channel.Open.index,
    commands.Channel.Close.index,
    commands.Channel.CloseOk.index,
)
_CONNECTION_CLOSE = commands.Connection.Close.index
_SHORTEST_METHOD = 12
_MALFORMED = (struct.error, IndexError, UnicodeError, ValueError)


Wait = Callable[[bytes], None]
"""Takes a frame that does not go at once."""


@dataclass(slots=True)
class _Negotiated:
    """What client and broker have agreed on so far."""

    knows_blocked: bool = False
    heartbeat_s: int = 0
    virtual_host: str = ""
    ours: bool = False
    open: bool = False


class Relay:
    """The state of one proxied connection.

    Attributes:
        to_broker, to_client: what to send next; their owner sends and clears them.
        blocked_by_broker: the broker has told the client to stop.
        told_blocked: the client was told that it is held, and not yet that it is over.
        blocked_tellings: how often it was told.
        negotiated: what client and broker have agreed on.
    """

    def __init__(self, view: View, on_output: Callable[[], None] = lambda: None) -> None:
        """``on_output`` is called when something that waited is let go, and stands in ``to_broker``."""
        self.to_broker: list[bytes] = []
        self.to_client: list[bytes] = []
        self.negotiated = _Negotiated()
        self.blocked_by_broker = False
        self.told_blocked = False
        self.blocked_tellings = 0
        self._told_at = 0.0
        self._held_since: float | None = None
        self._view = view
        self._on_output = on_output
        self._client, self._broker = Splitter(), Splitter()
        self._channels: dict[int, RelayChannel] = {}
        self._holding: dict[int, RelayChannel] = {}
        self._coming: dict[int, RelayChannel] = {}
        self._watched = False
        self._farewell: list[bytes] = []
        self._full = False

    # --- from the client --------------------------------------------------------------------------------------------

    def from_client(self, data: bytes, now: float) -> None:
        """Take what the client sent after its protocol header."""
        data, frames = self._client.feed(data)
        sent = 0  # up to here everything is sent, or waits
        for kind, number, start, end in frames:
            if not number:
                if kind != FRAME_METHOD or self._client_method(data, start, end):
                    continue
                wait: Wait = self._farewell.append
            else:
                channel = self._channels.get(number)
                if channel is None:
                    self._perhaps_opened(number, kind, data, start, end)
                    continue
                if kind != FRAME_METHOD:
                    if channel.content_passes(kind, data, start, end):
                        continue
                    wait = channel.content
                elif self._may_pass(channel, data, start, end, now):
                    if channel.prefix:
                        self._flush(data, sent, start)
                        self.to_broker.append(channel.prefix)
                        channel.prefix, sent = b"", start
                    continue
                else:
                    wait = partial(self._hold, number, channel, now)
            self._flush(data, sent, start)
            wait(data[start:end])
            sent = end
        self._flush(data, sent, len(data))
        if self._client.opaque:
            self._understand_no_more(now)
        self._note_fill()

    def _perhaps_opened(self, number: int, kind: int, data: bytes, start: int, end: int) -> None:
        if not self._watched or kind != FRAME_METHOD or end - start < _SHORTEST_METHOD:
            return
        if _METHOD.unpack_from(data, start + 7)[0] == _CHANNEL_OPEN:
            self._channels[number] = RelayChannel(number, self._view, self._forward)

    def _hold(self, number: int, channel: RelayChannel, now: float, frame: bytes) -> None:
        channel.hold(frame, now)
        self._holding[number] = channel

    def _may_pass(self, channel: RelayChannel, data: bytes, start: int, end: int, now: float) -> bool:
        try:
            return channel.passes(_METHOD.unpack_from(data, start + 7)[0], data, start, end, now)
        except _MALFORMED:
            return not channel.lane  # the broker will refuse it

    def _forward(self, frames: list[bytes]) -> None:
        self.to_broker.extend(frames)
        self._on_output()

    def _flush(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            self.to_broker.append(data if end - start == len(data) else data[start:end])

    def _client_method(self, data: bytes, start: int, end: int) -> bool:
        """Take a method of channel 0; return whether it goes at once."""
        if end - start < _SHORTEST_METHOD:
            return True
        negotiated = self.negotiated
        if negotiated.open:
            if _METHOD.unpack_from(data, start + 7)[0] == _CONNECTION_CLOSE:
                return not self.holds
            return True
        try:
            decoded = decode_method(data[start + 7 : end - 1])
        except DecodeError:
            return True
        match decoded:
            case commands.Connection.StartOk():
                properties = decoded.client_properties or {}
                negotiated.ours = properties.get("product") == _OUR_PRODUCT
                capabilities = properties.get("capabilities")
                negotiated.knows_blocked = isinstance(capabilities, dict) and (
                    capabilities.get("connection.blocked") is True
                )
            case commands.Connection.TuneOk():
                negotiated.heartbeat_s = decoded.heartbeat
                largest = min(decoded.frame_max or _LARGEST_FRAME, _LARGEST_FRAME)
                self._client.largest_payload = self._broker.largest_payload = largest
            case commands.Connection.Open():
                negotiated.virtual_host = decoded.virtual_host
            case _:
                pass
        return True

    def let_go(self, now: float) -> None:
        """Send at once what waits."""
        self._release_all(now)

    def leaving(self, now: float) -> None:
        """The client sends nothing more: what waits, and what it sent last, goes to the broker at once."""
        self._release_all(now)
        rest = self._client.rest()
        if rest:
            self.to_broker.append(rest)

    # --- from the broker --------------------------------------------------------------------------------------------

    def from_broker(self, data: bytes, now: float) -> None:
        """Take what the broker sent."""
        data, frames = self._broker.feed(data)
        sent = 0
        for kind, number, start, end in frames:
            if kind != FRAME_METHOD:
                if self._coming:
                    self._content_comes(number, kind, data, start, end)
                continue
            if end - start < _SHORTEST_METHOD:
                continue
            method = _METHOD.unpack_from(data, start + 7)[0]
            if not number:
                self._broker_method(method, now)
            elif not self._broker_answers(number, method, data, start, end, now):
                if start > sent:
                    self.to_client.append(data[sent:start])
                sent = end
        if sent < len(data):
            self.to_client.append(data[sent:] if sent else data)
        self.released()  # a channel that the broker has closed holds nothing any more

    def _broker_answers(self, number: int, method: int, data: bytes, start: int, end: int, now: float) -> bool:
        """Take a method of a channel; return whether it is for the client."""
        channel = self._channels.get(number)
        if channel is None:
            return True
        if method in {_CHANNEL_CLOSE, _CHANNEL_CLOSE_OK}:
            channel.lane.release_all(now)  # the broker ignores it
            self._drop(number, now)
            return True
        try:
            return channel.answer(method, data, start, end, now)
        except _MALFORMED:
            return True  # the client will refuse it
        finally:
            if channel.coming is not None:
                self._coming[number] = channel

    def _content_comes(self, number: int, kind: int, data: bytes, start: int, end: int) -> None:
        channel = self._coming.get(number)
        if channel is not None and (channel.coming is None or channel.coming.take(kind, data, start, end)):
            channel.coming = None
            del self._coming[number]

    def _broker_method(self, method: int, now: float) -> None:
        if method == commands.Connection.OpenOk.index:
            self.negotiated.open = True
            self._watched = self.negotiated.virtual_host == self._view.virtual_host and not self.negotiated.ours
        elif method == commands.Connection.Blocked.index:
            self.blocked_by_broker = True
        elif method == commands.Connection.Unblocked.index:
            self.blocked_by_broker = self.told_blocked = False
        elif method == _CONNECTION_CLOSE:
            self._release_all(now)  # the broker ignores it
            self._watched = False

    def _drop(self, number: int, now: float) -> None:
        channel = self._channels.pop(number, None)
        self._holding.pop(number, None)
        self._coming.pop(number, None)
        if channel is not None:
            channel.end(now)

    # --- what waits -------------------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether anything waits."""
        return any(channel.lane for channel in self._holding.values())

    @property
    def held_messages(self) -> int:
        """How many messages wait."""
        return sum(channel.lane.messages for channel in self._holding.values())

    @property
    def held_octets(self) -> int:
        """How many bytes wait."""
        return sum(channel.lane.octets for channel in self._holding.values())

    @property
    def channels(self) -> int:
        """How many channels are open."""
        return len(self._channels)

    @property
    def wants_client(self) -> bool:
        """Whether the client's socket may be read: not while a channel holds as much as it may."""
        return not self._full

    def released(self) -> None:
        """Something that waited was let go: see what follows from it."""
        if self._farewell and not self.holds:
            self.to_broker.extend(self._farewell)
            self._farewell.clear()
        self._note_fill()
        if self.told_blocked and not self.holds:
            self._tell_unblocked()

    def tick(self, now: float, *, broker_written_at: float) -> None:
        """Do what is due; call it about four times a second.

        ``broker_written_at``: when bytes were last sent to the broker.
        """
        heartbeat_s = self.negotiated.heartbeat_s
        # A client that is not read, or whose messages wait, may have no reason to send heartbeats of its own.
        waits = self._full or self.holds
        if heartbeat_s and waits and not self._client.opaque and now - broker_written_at >= heartbeat_s / 2:
            self.to_broker.append(HEARTBEAT)
        if not self.negotiated.knows_blocked or self._broker.opaque:
            return
        if not self.holds:
            self._held_since = None
        elif self._held_since is None:
            self._held_since = now
        if self.told_blocked:
            if self._held_since is None or now - self._told_at >= _TELL_ANEW_S:
                self._tell_unblocked()
        elif self._held_since is not None and now - self._held_since > _TELL_AFTER_S and not self.blocked_by_broker:
            self.told_blocked, self._told_at = True, now
            self.blocked_tellings += 1
            self.to_client.append(method_frame(0, commands.Connection.Blocked(_REASON)))

    def _tell_unblocked(self) -> None:
        self.told_blocked, self._held_since = False, None
        if not self.blocked_by_broker and not self._broker.opaque:
            self.to_client.append(method_frame(0, commands.Connection.Unblocked()))

    def _note_fill(self) -> None:
        if not self._holding:
            self._full = False
            return
        limits, full = self._view.limits, False
        part = (
            2 if self._full else 1
        )  # once full, half of it has to go first: a socket is not switched for each message
        for number, channel in list(self._holding.items()):
            lane = channel.lane
            if not lane:
                del self._holding[number]
            elif lane.messages * part >= limits.messages or lane.octets * part >= limits.octets:
                full = True
        self._full = full

    def _release_all(self, now: float) -> None:
        for channel in self._channels.values():
            channel.lane.release_all(now)
        self.to_broker.extend(self._farewell)
        self._farewell.clear()
        self._note_fill()

    def _understand_no_more(self, now: float) -> None:
        """The client's bytes are not AMQP any more: everything goes to the broker, which will answer."""
        held = self.to_broker[:]
        self.to_broker.clear()
        self._release_all(now)
        self.to_broker.extend(held)
        self._end_channels(now)
        self._watched = False

    def _end_channels(self, now: float) -> None:
        for number in list(self._channels):
            self._drop(number, now)

    def lost(self, now: float) -> None:
        """Both sides are gone."""
        for channel in self._channels.values():
            channel.lane.leave()
        self._end_channels(now)


def foreign_protocol(header: bytes) -> str:
    """Return the name of what a client speaks whose first bytes are not those of AMQP 0-9-1; "" if they are."""
    if PROTOCOL_HEADER.startswith(header[:_HEADER_SIZE]):
        return ""
    return next((name for start, name in _PROTOCOLS if header.startswith(start)), "no AMQP")


def refusal(header: bytes) -> bytes:
    """Return the answer to a client that does not speak AMQP 0-9-1, in its own protocol where that has one."""
    if foreign_protocol(header) == "MQTT":
        version_5 = b"\x00\x04MQTT\x05" in header
        return b"\x20\x03\x00\x84\x00" if version_5 else b"\x20\x02\x00\x01"  # CONNACK: protocol not supported
    if foreign_protocol(header) == "RabbitMQ's stream protocol" and len(header) >= _STREAM_REQUEST.size:
        _, key, version, correlation = _STREAM_REQUEST.unpack_from(header)
        return _STREAM_ANSWER.pack(_STREAM_ANSWER.size - 4, key | 0x8000, version, correlation, _STREAM_UNKNOWN_FRAME)
    return PROTOCOL_HEADER


_STREAM_REQUEST, _STREAM_ANSWER = struct.Struct(">IHHI"), struct.Struct(">IHHIH")
_STREAM_UNKNOWN_FRAME = 13
_PROTOCOLS = (
    (b"AMQP\x00\x01", "AMQP 1.0"),
    (b"AMQP\x02\x01", "AMQP 1.0"),
    (b"AMQP\x03\x01", "AMQP 1.0"),
    (b"AMQP", "another version of AMQP"),
    (b"\x16\x03", "TLS"),
    (b"\x10", "MQTT"),
    (b"\x00\x00", "RabbitMQ's stream protocol"),
    (b"GET ", "HTTP"),
    (b"POST ", "HTTP"),
    (b"CONNECT\n", "STOMP"),
    (b"STOMP\n", "STOMP"),
)
