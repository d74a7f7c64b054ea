"""A relay with a client and a broker that are played by the test, on a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pamqp import commands

from backpressure.amqp.frames import FRAME_BODY, FRAME_HEADER, Splitter, frame
from backpressure.amqp.methods import decode_method, method_frame
from backpressure.core.signals import Decision
from backpressure.proxy.paced_queue import PacedQueue
from backpressure.proxy.relay import Relay
from backpressure.proxy.routing import Topology
from backpressure.proxy.view import HoldLimits, View


@dataclass
class FakeTime:
    at: float = 100.0

    def now(self) -> float:
        return self.at


def publish(queue: str, body: bytes = b"x", *, channel: int = 1, exchange: str = "") -> bytes:
    """The frames of a message."""
    return (
        method_frame(channel, commands.Basic.Publish(0, exchange, queue, False, False))
        + frame(FRAME_HEADER, channel, b"\x00\x3c\x00\x00" + len(body).to_bytes(8, "big") + b"\x00\x00")
        + (frame(FRAME_BODY, channel, body) if body else b"")
    )


def deliver(tag: int, *, consumer: str = "c", channel: int = 1, redelivered: bool = False, body: bytes = b"x") -> bytes:
    return (
        method_frame(channel, commands.Basic.Deliver(consumer, tag, redelivered, "", "orders"))
        + frame(FRAME_HEADER, channel, b"\x00\x3c\x00\x00" + len(body).to_bytes(8, "big") + b"\x00\x00")
        + frame(FRAME_BODY, channel, body)
    )


@dataclass
class Staging:
    """One proxied connection; ``orders`` is paced."""

    time: FakeTime = field(default_factory=FakeTime)
    limits: HoldLimits = field(default_factory=HoldLimits)
    prefetch_auto: bool = False
    woken: int = 0

    def __post_init__(self) -> None:
        self.view = View(
            "/", Topology(), limits=self.limits, ignored_exchange="pace.feedback", prefetch_auto=self.prefetch_auto
        )
        self.orders = self.paced("orders")
        self.relay = self.connection()

    def paced(self, name: str, rate_per_s: float = 10.0) -> PacedQueue:
        queue = PacedQueue(name, self.time, burst_s=0.001, dry_run=False, engaged=True, wake=self._wake)
        queue.apply(Decision(rate_per_s, "test"))
        self.view.pace(queue)
        return queue

    def _wake(self) -> None:
        self.woken += 1

    def connection(self, *, knows_blocked: bool = True, virtual_host: str = "/", heartbeat_s: int = 0) -> Relay:
        relay = Relay(self.view)
        capabilities: dict[str, Any] = {"connection.blocked": True} if knows_blocked else {}
        properties = {"capabilities": capabilities}
        relay.from_client(method_frame(0, commands.Connection.StartOk(properties, "PLAIN", "\0u\0p")), self.time.at)
        relay.from_client(method_frame(0, commands.Connection.TuneOk(100, 131072, heartbeat_s)), self.time.at)
        relay.from_client(method_frame(0, commands.Connection.Open(virtual_host)), self.time.at)
        relay.from_broker(method_frame(0, commands.Connection.OpenOk()), self.time.at)
        self.open_channel(relay, 1)
        relay.to_broker.clear()
        relay.to_client.clear()
        return relay

    def open_channel(self, relay: Relay, number: int) -> None:
        relay.from_client(method_frame(number, commands.Channel.Open()), self.time.at)
        relay.from_broker(method_frame(number, commands.Channel.OpenOk()), self.time.at)

    def client(self, *parts: Any, channel: int = 1, relay: Relay | None = None) -> None:
        """The client sends methods, or bytes."""
        data = b"".join(p if isinstance(p, bytes) else method_frame(channel, p) for p in parts)
        (relay or self.relay).from_client(data, self.time.at)

    def broker(self, *parts: Any, channel: int = 1) -> None:
        """The broker sends methods, or bytes."""
        data = b"".join(p if isinstance(p, bytes) else method_frame(channel, p) for p in parts)
        self.relay.from_broker(data, self.time.at)

    def after(self, seconds: float) -> None:
        """Time passes, and what may go goes."""
        end = self.time.at + seconds
        while self.time.at < end:
            self.time.at = min(end, self.time.at + 0.005)
            for queue in self.view.paced.values():
                queue.release(self.time.at)
        self.relay.released()

    def to_broker(self, relay: Relay | None = None) -> bytes:
        """Take what the broker gets."""
        pieces = (relay or self.relay).to_broker
        data = b"".join(pieces)
        pieces.clear()
        return data

    def to_client(self) -> bytes:
        """Take what the client gets."""
        data = b"".join(self.relay.to_client)
        self.relay.to_client.clear()
        return data


def names(data: bytes) -> list[str]:
    """The methods in ``data``, and content frames as header and body."""
    data, frames = Splitter().feed(data)
    kinds = {FRAME_HEADER: "header", FRAME_BODY: "body", 8: "heartbeat"}
    return [kinds.get(kind) or type(decode_method(data[start + 7 : end - 1])).name for kind, _, start, end in frames]
