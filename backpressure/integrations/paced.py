"""`Paced` and `SyncPaced`: publish to one queue at the pace of its consumers, in one line.

Both are a `Limiter` and a *client*: a module of this package that sends one message with some client library, and says
what became of it by one of three errors. Everything else (waiting, sending again, connecting again) is here.

A message may be sent twice: if the connection is lost before the broker has answered, nobody knows whether it took it.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from math import inf
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from backpressure.core.schedule import RetryPolicy
from backpressure.errors import ConfigError, NotConnectedError, RefusedError, UnconfirmedError
from backpressure.integrations.limiter import Limiter, PaceStatus

__all__ = ["AsyncClient", "BlockingClient", "Paced", "SyncPaced"]

_AGAIN = RetryPolicy(max_attempts=1 << 31, backoff_min_s=0.1, backoff_max_s=2.0, jitter=0.5)
"""A refused message is sent again, until the time is over: a full queue has room again soon."""

_RECONNECT = RetryPolicy(max_attempts=1 << 31, backoff_min_s=0.2, backoff_max_s=3.0, jitter=0.25)

_CLIENTS = {
    "aio_pika": "aio_pika_client:AioPikaClient",
    "aiokafka": "aiokafka_client:AioKafkaClient",
    "pika.channel": "pika_callback_client:PikaCallbackClient",
    "pika.adapters.asyncio_connection": "pika_callback_client:PikaCallbackClient",
    "pika.adapters.select_connection": "pika_callback_client:PikaCallbackClient",
    "confluent_kafka": "confluent_client:ConfluentClient",
    "cimpl": "confluent_client:ConfluentClient",
    "amqp": "aio_pika_client:AioPikaClient",
    "kafka": "aiokafka_client:AioKafkaClient",
}
"""Which class sends for an object of which module, or for a URL of which scheme, in a task."""

_BLOCKING_CLIENTS = {
    "pika.adapters.blocking_connection": "pika_blocking_client:PikaBlockingClient",
    "pika.channel": "pika_callback_client:BlockingPikaCallbackClient",
    "pika.adapters.asyncio_connection": "pika_callback_client:BlockingPikaCallbackClient",
    "pika.adapters.select_connection": "pika_callback_client:BlockingPikaCallbackClient",
    "confluent_kafka": "confluent_client:BlockingConfluentClient",
    "cimpl": "confluent_client:BlockingConfluentClient",
    "amqp": "pika_callback_client:BlockingPikaCallbackClient",
    "kafka": "confluent_client:BlockingConfluentClient",
}
"""The same in a thread."""


class AsyncClient(Protocol):
    """What `Paced` needs of a client library."""

    url: str
    """The broker of the connection, with its password; "": the library does not tell."""

    async def open(self) -> None:
        """Connect, unless there is a connection; called again after a loss. Raises `NotConnectedError`."""

    async def send(self, message: Any, options: Mapping[str, Any]) -> None:
        """Send one message and return when the broker has taken it.

        Raises `RefusedError` (it did not), `UnroutableError` (no queue) or `NotConnectedError` (nobody knows).
        """

    async def close(self) -> None:
        """Close what was opened here, and nothing that was given."""


class BlockingClient(Protocol):
    """What `SyncPaced` needs of a client library; every method may be called from any thread."""

    url: str
    """See `AsyncClient.url`."""

    def open(self) -> None:
        """See `AsyncClient.open`."""

    def send(self, message: Any, options: Mapping[str, Any], timeout_s: float) -> None:
        """See `AsyncClient.send`; raises `TimeoutError` if there is no answer after ``timeout_s`` (may be infinite)."""

    def close(self) -> None:
        """See `AsyncClient.close`."""


class _PacedBase:
    """What both have in common: the limiter, and what can be asked of it."""

    def __init__(
        self,
        client: object,
        queue: str,
        clients: Mapping[str, str],
        *,
        url: str | None,
        exchange: str,
        routing_key: str | None,
        retry: RetryPolicy | None,
        **limits: Any,
    ) -> None:
        kind = _kind(client, clients)
        self._client = kind(client, exchange=exchange, routing_key=queue if routing_key is None else routing_key)
        url = url or self._client.url
        if not url:
            raise ConfigError("url", None, "expected the broker's URL: this client library does not tell where it is")
        self._limiter = Limiter(queue, url, **limits)
        self._retry = retry or RetryPolicy(max_attempts=1, backoff_min_s=0, backoff_max_s=0)

    @property
    def limiter(self) -> Limiter:
        """What decides when the next message may go, for those who send in another way as well."""
        return self._limiter

    def may_send(self) -> bool:
        """Return whether a message that is published now need not wait."""
        return self._limiter.may_send()

    def wait_s(self) -> float:
        """Return how long a message that is published now would wait, in seconds, at the present rate."""
        return self._limiter.wait_s()

    @property
    def retry_after_s(self) -> int:
        """Whole seconds after which it is worth to try again, at least 1: the value of ``Retry-After`` in HTTP."""
        return self._limiter.retry_after_s

    def status(self) -> PaceStatus:
        """Return how the queue is paced at this moment."""
        return self._limiter.status()

    def _pause_s(self, policy: RetryPolicy, attempts: int) -> float | None:
        return policy.pause_s(attempts, random.random())  # noqa: S311 - jitter


class Paced(_PacedBase):
    """Publishes to one queue, at the pace of its consumers: ``async with Paced(channel, "orders") as paced``.

    Any number of tasks may publish at once; messages leave in the order of the calls.
    """

    _client: AsyncClient

    def __init__(
        self,
        client: object,
        queue: str,
        *,
        url: str | None = None,
        exchange: str = "",
        routing_key: str | None = None,
        retry: RetryPolicy | None = _AGAIN,
        **limits: Any,
    ) -> None:
        """Describe where to publish; nothing connects before `open` or ``async with``.

        Args:
            client: a channel or connection of aio-pika or of pika's ``AsyncioConnection``, a producer of aiokafka or
                confluent-kafka, or the broker's URL, for a connection of its own.
            queue: the queue that consumers read, and whose depth counts (Kafka: the topic).
            url: the broker's URL for the connections that watch the queue; None: that of ``client``.
            exchange: where to publish, if not directly to the queue.
            routing_key: with which routing key; None: the name of the queue.
            retry: pauses before a refused message is sent again; None: `publish` raises `RefusedError` at once.
            limits: see `Limiter`: ``max_per_s``, ``min_per_s``, ``weight``, ``law``, ``target_wait_s``, ``group``,
                ``management_url``.

        Raises:
            ConfigError: a value is not allowed, or this kind of client has no place in a task.
        """
        super().__init__(
            client, queue, _CLIENTS, url=url, exchange=exchange, routing_key=routing_key, retry=retry, **limits
        )

    async def open(self) -> None:
        """Connect, and begin to watch the queue; raises `NotConnectedError` if there is no broker."""
        await self._client.open()
        self._limiter.open()

    async def close(self) -> None:
        """Stop watching, and close what was opened here; a given connection stays open."""
        await asyncio.to_thread(self._limiter.close)
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def publish(self, message: Any, *, timeout: float | None = None, **options: Any) -> None:  # noqa: ASYNC109 - an error of its own
        """Send ``message`` when the consumers have room for it; return when the broker has taken it.

        A refused message is sent again, and so is one whose connection is lost. Cancelling is safe: a message that was
        not sent takes nobody's place. (One whose confirm is on its way may have been taken.)

        Args:
            message: the body, or a message of the client library (`aio_pika.Message`).
            timeout: seconds for all of it; None: as long as it takes.
            options: what the client library takes: ``headers`` and others, in Kafka ``key`` and ``partition``.

        Raises:
            BackpressureError: nothing may be sent in time; nothing was sent.
            RefusedError: the broker refused it, and ``retry`` gave up, or the time is over.
            UnconfirmedError: it was sent, and not confirmed in time.
            UnroutableError: there is no such queue.
        """
        deadline = inf if timeout is None else time.monotonic() + timeout
        failed = 0
        while True:
            await self._limiter.acquire_async(_left(deadline))
            try:
                with self._limiter.counted():
                    async with asyncio.timeout(_left(deadline)):
                        await self._client.send(message, options)
            except RefusedError:
                failed += 1
                pause_s = self._pause_s(self._retry, failed)
                if pause_s is None or time.monotonic() + pause_s > deadline:
                    raise
                await asyncio.sleep(pause_s)
            except NotConnectedError as error:
                await self._connect_again(error, deadline)
            except TimeoutError:
                raise _unconfirmed(self._limiter.queue, timeout) from None
            else:
                return

    async def try_publish(self, message: Any, **options: Any) -> bool:
        """Send ``message`` if it need not wait for the consumers; return whether the broker took it."""
        if not self._limiter.try_acquire():
            return False
        try:
            with self._limiter.counted():
                await self._client.send(message, options)
        except RefusedError:
            return False
        return True

    async def _connect_again(self, error: NotConnectedError, deadline: float) -> None:
        attempts = 0
        while True:
            attempts += 1
            pause_s = self._pause_s(_RECONNECT, attempts) or 0.0
            if time.monotonic() + pause_s > deadline:
                raise error
            await asyncio.sleep(pause_s)
            with suppress(NotConnectedError):
                return await self._client.open()


class SyncPaced(_PacedBase):
    """`Paced` for threads, of which any number may publish at once: ``with SyncPaced(channel, "orders") as paced``."""

    _client: BlockingClient

    def __init__(
        self,
        client: object,
        queue: str,
        *,
        url: str | None = None,
        exchange: str = "",
        routing_key: str | None = None,
        retry: RetryPolicy | None = _AGAIN,
        **limits: Any,
    ) -> None:
        """Describe where to publish; see `Paced`.

        ``client`` is a channel or connection of pika (`BlockingConnection`, which nobody else may use meanwhile, or
        one with callbacks, whose loop runs in another thread), a producer of confluent-kafka, or the broker's URL.
        """
        super().__init__(
            client, queue, _BLOCKING_CLIENTS, url=url, exchange=exchange, routing_key=routing_key, retry=retry, **limits
        )
        self._closing = threading.Event()

    def open(self) -> None:
        """Connect, and begin to watch the queue; raises `NotConnectedError` if there is no broker."""
        self._client.open()
        self._limiter.open()

    def close(self) -> None:
        """Stop watching, and close what was opened here; a given connection stays open."""
        self._closing.set()
        self._limiter.close()
        self._client.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, message: Any, *, timeout: float | None = None, **options: Any) -> None:
        """Send ``message`` when the consumers have room for it; return when the broker has taken it.

        Arguments and errors are those of `Paced.publish`; ``options`` of pika is ``properties``.
        """
        deadline = inf if timeout is None else time.monotonic() + timeout
        failed = 0
        while True:
            self._limiter.acquire(_left(deadline))
            try:
                with self._limiter.counted():
                    self._client.send(message, options, max(0.0, deadline - time.monotonic()))
            except RefusedError:
                failed += 1
                pause_s = self._pause_s(self._retry, failed)
                if pause_s is None or time.monotonic() + pause_s > deadline or self._closing.wait(pause_s):
                    raise
            except NotConnectedError as error:
                self._connect_again(error, deadline)
            except TimeoutError:
                raise _unconfirmed(self._limiter.queue, timeout) from None
            else:
                return

    def try_publish(self, message: Any, **options: Any) -> bool:
        """Send ``message`` if it need not wait for the consumers; return whether the broker took it."""
        if not self._limiter.try_acquire():
            return False
        try:
            with self._limiter.counted():
                self._client.send(message, options, inf)
        except RefusedError:
            return False
        return True

    def _connect_again(self, error: NotConnectedError, deadline: float) -> None:
        attempts = 0
        while True:
            attempts += 1
            pause_s = self._pause_s(_RECONNECT, attempts) or 0.0
            if time.monotonic() + pause_s > deadline or self._closing.wait(pause_s):
                raise error
            with suppress(NotConnectedError):
                return self._client.open()


def _left(deadline: float) -> float | None:
    return None if deadline == inf else max(0.0, deadline - time.monotonic())


def _unconfirmed(queue: str, timeout_s: float | None) -> UnconfirmedError:
    return UnconfirmedError(f"a message to {queue!r} was sent, and not confirmed within {timeout_s} s")


def _kind(client: object, clients: Mapping[str, str]) -> Callable[..., Any]:
    """Return the class that sends with ``client``; raises `ConfigError` for an object that is not known here."""
    if isinstance(client, str):
        names = [urlsplit(client).scheme.removesuffix("+ssl").replace("amqps", "amqp")]
    else:
        names = [cls.__module__ for cls in type(client).__mro__]
    for name in names:
        for prefix, place in clients.items():
            if name == prefix or name.startswith(f"{prefix}."):
                module, _, kind = place.partition(":")
                found: Callable[..., Any] = getattr(import_module(f"backpressure.integrations.{module}"), kind)
                return found
    shown = client if isinstance(client, str) else f"{type(client).__module__}.{type(client).__qualname__}"
    raise ConfigError("client", shown, f"expected a URL, or an object of {_libraries(clients)}")


def _libraries(clients: Mapping[str, str]) -> str:
    if clients is _CLIENTS:
        return "aio-pika, aiokafka, confluent-kafka or pika's AsyncioConnection (SyncPaced is for blocking ones)"
    return "pika or confluent-kafka (Paced is for asynchronous ones)"
