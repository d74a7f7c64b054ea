"""A client without a socket, for sessions without one: it sends and receives AMQP methods."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp import body, commands, header
from pamqp import frame as pamqp_frame

from backpressure.broker.handshake import SessionConfig
from backpressure.broker.session import Session
from backpressure.broker.vhost import VirtualHost

LOGIN = (
    b"AMQP\x00\x00\x09\x01"
    + pamqp_frame.marshal(
        commands.Connection.StartOk(
            {"capabilities": {"connection.blocked": True, "consumer_cancel_notify": True}}, "PLAIN", "\0guest\0guest"
        ),
        0,
    )
    + pamqp_frame.marshal(commands.Connection.TuneOk(2047, 131072, 0), 0)
    + pamqp_frame.marshal(commands.Connection.Open("/"), 0)
)


class Peer:
    """One client of a virtual host."""

    LOGIN = LOGIN

    def __init__(self, vhost: VirtualHost, config: SessionConfig | None = None) -> None:
        self.woken = 0
        self.session = Session(vhost, config or SessionConfig(), self._wake)
        self._seen = b""

    def _wake(self, _session: Session) -> None:
        self.woken += 1

    def login(self, *channels: int) -> Peer:
        self.feed(LOGIN)
        for number in channels:
            self.send(commands.Channel.Open(), channel=number)
        self.frames()
        return self

    def feed(self, data: bytes) -> None:
        self.session.receive(data, self.session.vhost.now)

    def send(self, *frames: Any, channel: int = 1) -> None:
        self.feed(b"".join(f if isinstance(f, bytes) else pamqp_frame.marshal(f, channel) for f in frames))

    def publish(
        self, key: str, content: bytes = b"x", *, exchange: str = "", channel: int = 1, **properties: Any
    ) -> None:
        self.send(self.publish_bytes(key, content, exchange=exchange, channel=channel, **properties))

    @staticmethod
    def publish_bytes(key: str, content: bytes, *, exchange: str = "", channel: int = 1, **properties: Any) -> bytes:
        parts = [
            commands.Basic.Publish(exchange=exchange, routing_key=key),
            header.ContentHeader(body_size=len(content), properties=commands.Basic.Properties(**properties)),
            *([body.ContentBody(content)] if content else []),
        ]
        return b"".join(pamqp_frame.marshal(part, channel) for part in parts)

    def frames(self) -> list[Any]:
        """What the broker said since the last call; whatever waited for room goes on, as after a flush."""
        data, found = self.session.take_output(), []
        while data:
            self.session.go_on(self.session.vhost.now)
            while data:
                used, _, value = pamqp_frame.unmarshal(data)
                found.append(value)
                data = data[used:]
            data = self.session.take_output()
        return found

    def methods(self) -> list[Any]:
        """The methods among `frames`."""
        return [frame for frame in self.frames() if not isinstance(frame, (header.ContentHeader, body.ContentBody))]


@pytest.fixture(scope="session")
def peer_class() -> type[Peer]:
    return Peer


@pytest.fixture
def vhost() -> VirtualHost:
    return VirtualHost()


@pytest.fixture
def peer(vhost: VirtualHost) -> Peer:
    """A client with channel 1 open."""
    return Peer(vhost).login(1)
