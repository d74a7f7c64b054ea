"""`Paced` and `SyncPaced`: publish to one queue at the pace of its consumers, in one line.

Both are a `Limiter` and a *client*: a module of this package that sends one message with some client library, and says
what became of it by one of three errors. Everything else (waiting, sending again, connecting again) is here.

A message may be sent twice: if the connection is lost before the broker has answered, nobody knows whether it took it.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from math import inf
from types import TracebackType
from typing import Any, Self

from backpressure.core.schedule import RetryPolicy
from backpressure.errors import NotConnectedError, PaceError, RefusedError, UnconfirmedError
from backpressure.integrations.clients import BLOCKING_CLIENTS, CLIENTS, AsyncClient, BlockingClient, client_class
from backpressure.integrations.limiter import Limiter, PaceStatus

_AGAIN = RetryPolicy(max_attempts=1 << 31, backoff_min_s=0.1, backoff_max_s=2.0, jitter=0.5)
"""A refused message is sent again, until the time is over: a full queue has room again soon."""

_RECONNECT = RetryPolicy(max_attempts=1 << 31, backoff_min_s=0.2, backoff_max_s=3.0, jitter=0.25)


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
        self._given = client
        self._kind = client_class(client, clients)
        self._place = {"exchange": exchange, "routing_key": queue if routing_key is None else routing_key}
        self._client = self._kind(client, **self._place)
        self._limiter = Limiter(queue, url or self._client.url, **limits)
        self._retry = retry or RetryPolicy(max_attempts=1, backoff_min_s=0, backoff_max_s=0)
        self._is_open = False

    @property
    def limiter(self) -> Limiter:
        """What decides when the next message may go, for those who send in another way as well."""
        return self._limiter

    def may_send(self) -> bool:
        """Return whether a message that is published now need not wait."""
        return not self._is_away() and self._limiter.may_send()

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

    def _is_away(self) -> bool:
        """Return whether the connection is lost, and about to be opened again."""
        raise NotImplementedError

    def _watch(self) -> None:
        self._limiter.url = self._limiter.url or self._client.url
        self._limiter.open()
        self._is_open = True

    def _pause_s(self, policy: RetryPolicy, attempts: int) -> float:
        pause_s = policy.pause_s(attempts, random.random())  # noqa: S311 - jitter
        return inf if pause_s is None else pause_s


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
                confluent-kafka, or the broker's URL, for a connection of its own. Of several servers,
                ``amqp://one,two/``, any that answers is used, and another when it is lost.
            queue: the queue that consumers read, and whose depth counts (Kafka: the topic).
            url: the broker's URL for the connections that watch the queue; None: that of ``client``.
            exchange: where to publish, if not directly to the queue.
            routing_key: with which routing key; None: the name of the queue.
            retry: pauses before a refused message is sent again; None: `publish` raises `RefusedError` at once.
            limits: see `Limiter`: ``max_per_s``, ``min_per_s``, ``weight``, ``law``, ``target_wait_s``, ``group``,
                ``management_url``, ``prometheus_url``.

        Raises:
            ConfigError: a value is not allowed, or this kind of client has no place in a task.
        """
        super().__init__(
            client, queue, CLIENTS, url=url, exchange=exchange, routing_key=routing_key, retry=retry, **limits
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and begin to watch the queue; opening twice is harmless.

        Raises:
            NotConnectedError: there is no broker.
            ConfigError: the URL is none of a broker.
        """
        if self._is_open:
            return
        self._loop = asyncio.get_running_loop()
        try:
            await self._client.open()
            self._watch()
        except BaseException:
            await self._client.close()
            raise

    async def close(self) -> None:
        """Stop watching, and close what was opened here; a given connection stays open. Closing twice is harmless.

        Tasks that still publish get a `NotConnectedError`.
        """
        self._is_open = False
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        try:
            await asyncio.to_thread(self._limiter.close)
        finally:
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
        not sent delays no other. (One whose confirm is on its way may have been taken.)

        Args:
            message: the body, or a message of the client library (`aio_pika.Message`).
            timeout: seconds for all of it; None: as long as it takes.
            options: what the client library takes: ``headers`` and others, in Kafka ``key`` and ``partition``.

        Raises:
            BackpressureError: nothing may be sent in time; nothing was sent.
            RefusedError: the broker refused it, and ``retry`` gave up, or the time is over.
            UnconfirmedError: it was sent, and not confirmed in time.
            UnroutableError: there is no such queue.
            NotConnectedError: there is no connection within the time, or this is not open.
        """
        deadline = inf if timeout is None else time.monotonic() + timeout
        failed = 0
        while True:
            self._check()
            await self._limiter.acquire_async(_left(deadline))
            try:
                with self._limiter.counted():
                    async with asyncio.timeout(_left(deadline)):
                        await self._client.send(message, options)
            except RefusedError:
                failed += 1
                pause_s = self._pause_s(self._retry, failed)
                if pause_s == inf or time.monotonic() + pause_s > deadline:
                    raise
                await asyncio.sleep(pause_s)
            except NotConnectedError as error:
                await self._connected_again(error, _left(deadline))
            except TimeoutError:
                raise _unconfirmed(self._limiter.queue, timeout) from None
            else:
                return

    async def try_publish(self, message: Any, *, timeout: float | None = None, **options: Any) -> bool:  # noqa: ASYNC109 - an error of its own
        """Send ``message`` if it need not wait for the consumers; return whether the broker took it.

        It waits for the broker's answer only, ``timeout`` seconds at most. Arguments and errors are those of `publish`;
        after a `NotConnectedError` nobody knows, and the answer is False until there is a connection again.
        """
        self._check()
        if self._is_away() or not self._limiter.try_acquire():
            return False
        try:
            with self._limiter.counted():
                async with asyncio.timeout(timeout):
                    await self._client.send(message, options)
        except RefusedError:
            return False
        except TimeoutError:
            raise _unconfirmed(self._limiter.queue, timeout) from None
        except NotConnectedError:
            self._connect_again()
            raise
        return True

    def _check(self) -> None:
        if not self._is_open:
            raise _not_open("Paced")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this Paced was opened in another event loop: each loop needs one of its own")

    def _is_away(self) -> bool:
        return self._connecting is not None and not self._connecting.done()

    def _connect_again(self) -> asyncio.Task[None]:
        """Return the task that connects: one for all that publish."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name="pace: connect again")
            self._connecting.add_done_callback(_take_note)
        return self._connecting

    async def _connect(self) -> None:
        attempts = 0
        while True:
            attempts += 1
            await asyncio.sleep(self._pause_s(_RECONNECT, attempts))
            with suppress(NotConnectedError):
                return await self._client.open()

    async def _connected_again(self, lost: NotConnectedError, within_s: float | None) -> None:
        if not self._is_open:
            raise lost
        connecting = self._connect_again()
        await asyncio.wait({connecting}, timeout=within_s)
        if not connecting.done() or connecting.cancelled():
            raise lost
        connecting.result()


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
            client, queue, BLOCKING_CLIENTS, url=url, exchange=exchange, routing_key=routing_key, retry=retry, **limits
        )
        self._pid = 0
        self._beginning = threading.Lock()
        self._closing = threading.Event()
        self._connecting: Future[None] | None = None

    def open(self) -> None:
        """Do as `Paced.open`."""
        if self._is_open:
            return
        self._pid = os.getpid()
        self._closing.clear()
        try:
            self._client.open()
            self._watch()
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Do as `Paced.close`."""
        self._is_open = False
        self._closing.set()
        self._limiter.close()
        if self._pid == os.getpid():
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
            self._check()
            self._limiter.acquire(_left(deadline))
            try:
                with self._limiter.counted():
                    self._client.send(message, options, max(0.0, deadline - time.monotonic()))
            except RefusedError:
                failed += 1
                pause_s = self._pause_s(self._retry, failed)
                if pause_s == inf or time.monotonic() + pause_s > deadline or self._closing.wait(pause_s):
                    raise
            except NotConnectedError as error:
                self._connected_again(error, _left(deadline))
            except TimeoutError:
                raise _unconfirmed(self._limiter.queue, timeout) from None
            else:
                return

    def try_publish(self, message: Any, *, timeout: float | None = None, **options: Any) -> bool:
        """Do as `Paced.try_publish`."""
        self._check()
        if self._is_away() or not self._limiter.try_acquire():
            return False
        try:
            with self._limiter.counted():
                self._client.send(message, options, inf if timeout is None else timeout)
        except RefusedError:
            return False
        except TimeoutError:
            raise _unconfirmed(self._limiter.queue, timeout) from None
        except NotConnectedError:
            self._connect_again()
            raise
        return True

    def _check(self) -> None:
        if not self._is_open:
            raise _not_open("SyncPaced")
        if self._pid != os.getpid():
            with self._beginning:
                if self._pid != os.getpid():
                    self._begin_in_child()

    def _begin_in_child(self) -> None:
        """Open a connection for a process that was forked: it cannot share one, and threads are not inherited."""
        if not isinstance(self._given, str):
            raise NotConnectedError(
                "this process was forked after its connection was made: open one in each process, or give the URL"
            )
        _inherited.append(self._client)
        self._closing = threading.Event()
        self._connecting = None
        self._client = self._kind(self._given, **self._place)
        with suppress(NotConnectedError):  # what is published then finds that out
            self._client.open()
        self._pid = os.getpid()

    def _is_away(self) -> bool:
        return self._connecting is not None and not self._connecting.done()

    def _connect_again(self) -> Future[None]:
        """Connect in a thread, one for all that publish; return what is done when there is a connection."""
        with self._beginning:
            if self._connecting is None or self._connecting.done():
                self._connecting = Future()
                connect = threading.Thread(target=self._connect, args=(self._connecting,), name="pace-connect")
                connect.daemon = True
                connect.start()
            return self._connecting

    def _connect(self, done: Future[None]) -> None:
        attempts = 0
        while True:
            attempts += 1
            if self._closing.wait(self._pause_s(_RECONNECT, attempts)):
                return done.set_exception(_not_open("SyncPaced"))
            try:
                self._client.open()
            except NotConnectedError:
                continue
            except PaceError as error:
                return done.set_exception(error)
            return done.set_result(None)

    def _connected_again(self, lost: NotConnectedError, within_s: float | None) -> None:
        if not self._is_open:
            raise lost
        try:
            self._connect_again().result(within_s)
        except TimeoutError:
            raise lost from None


_inherited: list[object] = []
"""Clients of a parent process. They stay: taking one down waits for threads that this process does not have."""


def _left(deadline: float) -> float | None:
    return None if deadline == inf else max(0.0, deadline - time.monotonic())


def _unconfirmed(queue: str, timeout_s: float | None) -> UnconfirmedError:
    return UnconfirmedError(f"a message to {queue!r} was sent, and not confirmed within {timeout_s} s")


def _not_open(kind: str) -> NotConnectedError:
    return NotConnectedError(f"this {kind} is not open: use it by `with`, or call open()")


def _take_note(connecting: asyncio.Task[None]) -> None:
    """Retrieve the exception, in case that nobody waits any more."""
    if not connecting.cancelled():
        connecting.exception()
