"""Sends with pika: with the connections that call back, from tasks or threads, and with the blocking one."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from math import inf
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.exceptions import AMQPError, NackError
from pika.exceptions import UnroutableError as PikaUnroutableError

from backpressure.core.addresses import bracketed
from backpressure.errors import ConfigError, NotConnectedError, PaceError, RefusedError, UnroutableError
from backpressure.integrations.clients import several_servers

_OPEN_S = 10.0
_ANSWERS_WITHIN_S = 1.5  # of several servers, one that takes longer is passed over
_CLOSE_S = 5.0


def address(parameters: Any) -> str:
    """Return pika's parameters as a URL, password included."""
    scheme = "amqps" if parameters.ssl_options else "amqp"
    credentials: Any = parameters.credentials
    user, password = quote(credentials.username, safe=""), quote(credentials.password, safe="")
    host = bracketed(parameters.host)
    return f"{scheme}://{user}:{password}@{host}:{parameters.port}/{quote(parameters.virtual_host, safe='')}"


def persistent() -> pika.BasicProperties:
    """Return properties of a message that survives a restart of the broker, with an identity to find it again."""
    return pika.BasicProperties(delivery_mode=2, message_id=uuid4().hex)  # type: ignore[no-untyped-call]  # pika's


class _ConfirmingChannel:
    """A channel whose messages have a future each. What begins with ``_`` and has no lock runs in pika's own loop."""

    def __init__(self, client: str | Channel | SelectConnection, *, exchange: str, routing_key: str) -> None:
        self._exchange = exchange
        self._routing_key = routing_key
        self._connection: Any = None
        self._given: Any = None
        self._channel: Channel | None = None
        self._thread: threading.Thread | None = None
        self._opening: list[Future[None]] = []
        self._waiting: dict[int, tuple[str | None, Future[None]]] = {}
        self._returned: set[str | None] = set()
        self._tag = 0
        if isinstance(client, str):
            self._servers = _parameters(client)
            self._kind: Any = SelectConnection
            self._loop: Any = None
            self.url = client
            return
        self._connection = self._given = client.connection if isinstance(client, Channel) else client
        self._kind = type(self._connection)
        self._servers = [self._connection.params]
        self._loop = self._connection.ioloop
        self.url = address(self._connection.params)

    def _in_loop(self, call: Callable[[], None]) -> None:
        later = getattr(self._loop, "add_callback_threadsafe", None) or self._loop.call_soon_threadsafe
        later(call)

    def _opened(self) -> Future[None]:
        """Return a future that is done when there is a channel; from any thread."""
        if self._given is None and self._thread is None:
            self._loop = IOLoop()
            self._thread = threading.Thread(target=self._loop.start, name="pace-pika", daemon=True)
            self._thread.start()
        done: Future[None] = Future()

        def begin() -> None:
            if self._channel is not None and self._channel.is_open:
                done.set_result(None)
                return
            self._opening.append(done)
            if len(self._opening) > 1:
                return
            if self._connection is not None and self._connection.is_open:
                self._open_channel(self._connection)
            else:
                self._connect(len(self._servers))

        self._in_loop(begin)
        return done

    def _connect(self, attempts: int) -> None:
        """Connect to the first server, or to one of those after it; each that fails is tried last from then on."""

        def failed(_: Any, error: BaseException) -> None:
            self._servers.append(self._servers.pop(0))
            if attempts > 1:
                self._connect(attempts - 1)
            else:
                self._failed(error)

        def lost(_: Any, error: BaseException) -> None:
            self._servers.append(self._servers.pop(0))
            self._failed(error)

        self._connection = self._kind(
            self._servers[0],
            on_open_callback=self._open_channel,
            on_open_error_callback=failed,
            on_close_callback=lost,
            custom_ioloop=self._loop,
        )

    def _open_channel(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._use)

    def _use(self, channel: Channel) -> None:
        self._tag = 0
        self._returned.clear()
        channel.add_on_close_callback(lambda _, error: self._failed(error))
        channel.add_on_return_callback(lambda _, _method, properties, _body: self._returned.add(properties.message_id))
        channel.confirm_delivery(self._on_answer, callback=lambda _: self._ready(channel))

    def _ready(self, channel: Channel) -> None:
        self._channel = channel
        opening, self._opening = self._opening, []
        for done in opening:
            _settle(done)

    def _failed(self, error: BaseException) -> None:
        self._channel = None
        lost = NotConnectedError(f"the connection was lost: {error!r}")
        opening, self._opening = self._opening, []
        waiting, self._waiting = self._waiting, {}
        for done in [*opening, *(done for _, done in waiting.values())]:
            _settle(done, lost)

    def _sent(self, message: Any, options: Mapping[str, Any]) -> Future[None]:
        """Return a future that is done when the broker has taken the message; from any thread."""
        done: Future[None] = Future()
        properties = options.get("properties") or persistent()

        def send() -> None:
            if self._channel is None or not self._channel.is_open:
                _settle(done, NotConnectedError("not connected to the broker"))
                return
            self._tag += 1
            self._waiting[self._tag] = (properties.message_id, done)
            try:
                self._channel.basic_publish(self._exchange, self._routing_key, message, properties, mandatory=True)
            except AMQPError as error:
                del self._waiting[self._tag]
                _settle(done, NotConnectedError(f"the connection was lost: {error!r}"))

        self._in_loop(send)
        return done

    def _on_answer(self, frame: Any) -> None:
        method = frame.method
        tags = (
            [tag for tag in self._waiting if tag <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        )
        for tag in tags:
            message_id, done = self._waiting.pop(tag, (None, None))
            if done is None:
                continue
            if method.NAME == "Basic.Nack":
                _settle(done, RefusedError(f"the broker refuses a message to {self._routing_key!r}: the queue is full"))
            elif message_id in self._returned:
                self._returned.discard(message_id)
                _settle(done, UnroutableError(f"the broker has no queue for routing key {self._routing_key!r}"))
            else:
                _settle(done)

    def _closed(self) -> Future[None]:
        """Close what was opened here; from any thread."""
        done: Future[None] = Future()

        def close() -> None:
            ending = self._channel if self._connection is self._given else self._connection
            if ending is None or ending.is_closed or ending.is_closing:
                ended()
                return
            ending.add_on_close_callback(lambda *_: ended())
            try:
                ending.close()
            except AMQPError:  # it was about to open
                ended()

        def ended() -> None:
            if self._thread is not None:
                self._loop.stop()
            _settle(done)

        self._in_loop(close)
        return done


class PikaCallbackClient(_ConfirmingChannel):
    """An `AsyncClient`, on a channel of its own: delivery tags count per channel."""

    async def open(self) -> None:
        """See `AsyncClient.open`."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._opened()), _OPEN_S)
        except TimeoutError:
            raise NotConnectedError(f"not connected to the broker within {_OPEN_S} s") from None

    async def send(self, message: Any, options: Mapping[str, Any]) -> None:
        """See `AsyncClient.send`; ``options``: ``properties``."""
        await asyncio.wrap_future(self._sent(message, options))

    async def close(self) -> None:
        """See `AsyncClient.close`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self._closed()), _CLOSE_S)


class BlockingPikaCallbackClient(_ConfirmingChannel):
    """A `BlockingClient`, for threads other than that of pika's loop; many may wait for confirms at once."""

    def open(self) -> None:
        """See `BlockingClient.open`."""
        try:
            self._opened().result(_OPEN_S)
        except TimeoutError:
            raise NotConnectedError(f"not connected to the broker within {_OPEN_S} s") from None

    def send(self, message: Any, options: Mapping[str, Any], timeout_s: float) -> None:
        """See `BlockingClient.send`; ``options``: ``properties``."""
        self._sent(message, options).result(None if timeout_s == inf else timeout_s)

    def close(self) -> None:
        """See `BlockingClient.close`."""
        if self._thread is not None or self._given is not None:
            with suppress(TimeoutError):
                self._closed().result(_CLOSE_S)
        if self._thread is not None:
            self._in_loop(self._loop.stop)  # the broker may not have answered
            self._thread.join(_CLOSE_S)
            if not self._thread.is_alive():
                self._loop.close()
            self._thread = self._connection = self._channel = None  # opening again starts from nothing


def _parameters(url: str) -> list[Any]:
    """Return pika's parameters of each server in ``url``, in the order in which to try them."""
    several = several_servers(url)
    try:
        servers: list[Any] = [pika.URLParameters(each) for each in (several.single() if several else [url])]
    except (ValueError, TypeError):
        raise ConfigError("client", url, "expected amqp://user:password@host:port/") from None
    if len(servers) > 1:
        random.shuffle(servers)
        for parameters in servers:
            parameters.socket_timeout = parameters.stack_timeout = _ANSWERS_WITHIN_S
    return servers


def _settle(done: Future[None], error: PaceError | None = None) -> None:
    with suppress(InvalidStateError):  # whoever waited was cancelled
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


class PikaBlockingClient:
    """A `BlockingClient` on a channel or a connection that nobody else uses meanwhile.

    Threads take turns: a blocking connection answers one message at a time. A connection that is lost, for example
    because nothing was sent for two heartbeats, is replaced by another one with the same parameters. While the broker
    has an alarm, pika waits for it, whatever the timeout says: set ``blocked_connection_timeout`` in its parameters.
    """

    def __init__(self, client: BlockingChannel | pika.BlockingConnection, *, exchange: str, routing_key: str) -> None:
        self._exchange = exchange
        self._routing_key = routing_key
        self._turn = threading.Lock()
        self._own: pika.BlockingConnection | None = None
        self._own_channel = not isinstance(client, BlockingChannel)
        self._channel: BlockingChannel | None = client if isinstance(client, BlockingChannel) else None
        self._connection: pika.BlockingConnection = client.connection if isinstance(client, BlockingChannel) else client
        self._parameters = self._connection._impl.params  # noqa: SLF001 - there is no other way to learn them
        self.url = address(self._parameters)

    def open(self) -> None:
        """See `BlockingClient.open`."""
        with self._turn:
            try:
                if not self._connection.is_open:
                    self._connection = self._own = pika.BlockingConnection(self._parameters)
                channel = self._channel
                if channel is None or not channel.is_open or channel.connection is not self._connection:
                    self._own_channel = True
                    self._channel = channel = self._connection.channel()
                channel.confirm_delivery()
            except (AMQPError, OSError) as error:
                raise NotConnectedError(f"not connected to the broker: {error!r}") from error

    def send(self, message: Any, options: Mapping[str, Any], timeout_s: float) -> None:
        """See `BlockingClient.send`; ``options``: ``properties``."""
        if not self._turn.acquire(timeout=-1 if timeout_s == inf else timeout_s):
            raise TimeoutError
        try:
            if self._channel is None:
                raise NotConnectedError("not open")
            properties = options.get("properties") or persistent()
            self._channel.basic_publish(self._exchange, self._routing_key, message, properties, mandatory=True)
        except PikaUnroutableError as error:
            raise UnroutableError(f"the broker has no queue for routing key {self._routing_key!r}") from error
        except NackError as error:
            raise RefusedError(f"the broker refuses a message to {self._routing_key!r}: the queue is full") from error
        except (AMQPError, OSError) as error:
            raise NotConnectedError(f"the connection was lost: {error!r}") from error
        finally:
            self._turn.release()

    def close(self) -> None:
        """See `BlockingClient.close`."""
        with self._turn, suppress(AMQPError, OSError):
            if self._own is not None:
                self._own.close()
            elif self._own_channel and self._channel is not None:
                self._channel.close()
