"""Connections to a broker are ended behind the back of whoever has them, and no others."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from backpressure.transports.kafka.fenced import disconnect

pytestmark = pytest.mark.kafka


def test_only_the_connections_to_one_server_end() -> None:
    with ExitStack() as stack:
        one, other = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        server, elsewhere = one.getsockname(), other.getsockname()
        ours = [stack.enter_context(socket.create_connection(server)) for _ in range(2)]
        theirs = stack.enter_context(socket.create_connection(elsewhere))
        accepted = stack.enter_context(other.accept()[0])
        assert disconnect(("localhost", server[1])) == 2
        assert [connection.recv(1) for connection in ours] == [b"", b""]
        theirs.sendall(b"x")
        assert accepted.recv(1) == b"x"
        assert one.accept()[0].close() is None  # it listens still


def test_a_server_whose_name_is_unknown_has_no_connections() -> None:
    assert disconnect(("no.such.host.invalid", 9092)) == 0


def test_looking_for_connections_leaves_nothing_open() -> None:
    with ExitStack() as stack:
        stack.enter_context(Path(os.devnull).open(encoding="utf-8"))
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        before = psutil.Process().num_fds()
        assert disconnect(server.getsockname()) == 0
        assert psutil.Process().num_fds() == before
