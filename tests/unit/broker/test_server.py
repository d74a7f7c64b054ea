"""The broker's process without its sockets: when it wakes up, and what is kept before it answers."""

from __future__ import annotations

import asyncio
import base64
import json
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backpressure.broker.descriptors import peer_has_closed
from backpressure.broker.server import BrokerConfig, Server

AUTHORIZATION = {b"authorization": b"Basic " + base64.b64encode(b"guest:guest")}


class Transport:
    """A socket that takes everything and says nothing."""

    def get_extra_info(self, _name: str) -> None:
        return None


class Connection:
    transport = Transport()


@pytest.fixture
def wakes_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Server], Any]], None]:
    """After ``act`` the server plans to wake up for the deadline that ``act`` has set."""
    monkeypatch.setattr("backpressure.broker.server.SAMPLE_PERIOD_S", 3600.0)

    def _wakes_up(act: Callable[[Server], Any]) -> None:
        async def plan() -> None:
            server = Server(BrokerConfig())
            server.vhost.now = server.now()
            before = server.vhost.timers.next_deadline()
            act(server)
            after = server.vhost.timers.next_deadline()
            assert before is not None
            assert after is not None
            assert after < before
            assert server._deadline is not None
            assert server._deadline.when() == after

        asyncio.run(plan())

    return _wakes_up


def declare(server: Server, **arguments: int) -> Any:
    named = {f"x-{name}": value for name, value in arguments.items()}
    return server.vhost.declare_queue("q", None, durable=False, exclusive=False, auto_delete=False, arguments=named)


def publish_short(server: Server, peer_class: Any) -> None:
    declare(server)
    peer = peer_class(server.vhost).login(1)
    peer.publish("q", expiration="50")


def test_a_message_that_nobody_confirms_expires_in_time(wakes_up: Any, peer_class: Any) -> None:
    wakes_up(lambda server: publish_short(server, peer_class))


def test_a_queue_that_nobody_answers_for_expires_in_time(wakes_up: Any) -> None:
    wakes_up(lambda server: declare(server, expires=50))


def test_a_policy_set_over_http_takes_effect_in_time(wakes_up: Any) -> None:
    def act(server: Server) -> None:
        declare(server)
        policy = json.dumps({"pattern": "q", "definition": {"expires": 50}}).encode()
        server._answer("PUT", "/api/policies/%2F/p", AUTHORIZATION, policy)

    wakes_up(act)


def test_a_client_that_only_connects_is_given_up_in_time(wakes_up: Any) -> None:
    wakes_up(lambda server: server.admit(Connection()))  # type: ignore[arg-type]


def test_what_http_answers_is_kept_before(tmp_path: Path) -> None:
    policy = json.dumps({"pattern": "q", "definition": {"max-length": 5}}).encode()

    async def life(*requests: tuple[str, bytes]) -> list[str]:
        server = Server(BrokerConfig(data_dir=tmp_path))
        for method, body in requests:
            assert server._answer(method, "/api/policies/%2F/p", AUTHORIZATION, body).status < 300
        known = list(server.vhost.policies)
        assert server._store is not None
        server._store.close()  # no further write
        return known

    assert asyncio.run(life(("PUT", policy))) == ["p"]
    assert asyncio.run(life()) == ["p"]


def test_a_defect_in_one_timer_or_connection_does_not_stop_the_others() -> None:
    class Broken(Connection):
        transport: Any

        def __init__(self) -> None:
            self.transport = self
            self.aborted = False

        def get_extra_info(self, _name: str) -> None:
            return None

        def flush(self) -> None:
            raise ZeroDivisionError

        def abort(self) -> None:
            self.aborted = True

    class Sound(Broken):
        flushed = False

        def flush(self) -> None:
            self.flushed = True

    async def life() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["exception"]))
        server = Server(BrokerConfig())
        broken, sound = Broken(), Sound()
        for connection in (broken, sound):
            server._wake(server.admit(connection))  # type: ignore[arg-type]
        server._flush()
        assert (broken.aborted, sound.flushed, len(told)) == (True, True, 1)
        server.vhost.timers.at(server.now() - 1, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            server._advance()
        assert server._deadline is not None

    asyncio.run(life())


def test_a_closed_connection_is_noticed_while_its_last_octets_are_unread() -> None:
    here, there = socket.socketpair()

    class Paused(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return here if name == "socket" else default

    there.sendall(b"unread")
    assert not peer_has_closed(Paused())
    there.close()
    assert peer_has_closed(Paused()) is hasattr(select, "POLLRDHUP")
    here.close()
