"""Sockets and the limit on open files: how many connections fit, accepting them, and noticing that one was closed.

In one turn of its loop, asyncio accepts all waiting connections before it closes one that is too many, and it prints a
traceback for each connection that gets no descriptor. So some descriptors are kept in reserve, few connections are
accepted per turn, and one line is printed. Must not know: AMQP, HTTP, what a connection is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

from backpressure.broker.web import MAX_CONNECTIONS

_QUEUED = 1024
_ACCEPTED_PER_TURN = 32
_RESERVE = MAX_CONNECTIONS + 2 * 3 * _ACCEPTED_PER_TURN + 64
"""HTTP; on both ports, what is accepted before one too many is closed two turns later; files and the loop's own."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_MOST_SELECTED = 512
_REPEAT_S = 60.0
_HANDSHAKE_TIMEOUT_S = 10.0


def room_for_connections(wanted: int) -> int:
    """Raise this process's limit on open files as far as needed and allowed; how many of ``wanted`` then fit."""
    if sys.platform == "win32":  # where sockets are no files, and the loop waits for at most so many
        return min(wanted, _MOST_SELECTED - _RESERVE)
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVE
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):  # the system may know a lower one
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _RESERVE))


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, tls: ssl.SSLContext | None = None
) -> asyncio.Server:
    """Listen with a long queue; few connections are accepted per iteration of the event loop."""
    server = await asyncio.get_running_loop().create_server(
        factory,
        host,
        port,
        backlog=_ACCEPTED_PER_TURN,
        ssl=tls,
        ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S if tls else None,
    )
    for listening in server.sockets:
        listener = socket.socket(fileno=listening.fileno())
        listener.listen(_QUEUED)
        listener.detach()
    return server


def peer_has_closed(transport: asyncio.BaseTransport) -> bool:
    """Whether the other end has closed the connection, also when its last octets are still unread."""
    if sys.platform == "win32":
        return False
    connected = transport.get_extra_info("socket")
    event = getattr(select, "POLLRDHUP", 0)  # Linux has it; elsewhere only heartbeats tell
    if connected is None or not event:
        return False
    poll = select.poll()
    poll.register(connected, event)
    return bool(poll.poll(0))


class QuietAcceptErrors:
    """An event loop's exception handler: one line a minute for connections that cannot be accepted."""

    def __init__(self) -> None:
        self._said_at_s: float | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report ``context``; asyncio accepts again a second later by itself."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
            loop.default_exception_handler(context)
        elif self._said_at_s is None or loop.time() - self._said_at_s >= _REPEAT_S:
            self._said_at_s = loop.time()
            sys.stderr.write(f"embedded broker: cannot accept connections for now: {error.strerror}\n")
