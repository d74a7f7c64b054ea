"""What a consumer does with a message: a handler of the user's, or simulated work at an exact rate."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol
from zlib import crc32

from backpressure.core.message import Delivery, Message, Metadata, value
from backpressure.core.schedule import ServiceSchedule
from backpressure.engines.clock import Clock
from backpressure.errors import ConfigError
from backpressure.settings import ConsumerSettings

_CRC_RANGE = 1 << 32
_WORTH_SLEEPING_S = 0.002  # shorter waits cost much in the event loop: those works end a little early, none starts late


@value
class Work:
    """When the work on one message began and how long it took; ``started_at`` in monotonic seconds."""

    started_at: float
    service_s: float


class Handler(Protocol):
    """Processes one message; raising an exception makes it an attempt that failed."""

    async def __call__(self, delivery: Delivery, metadata: Metadata) -> None:
        """Do the work."""


class Worker(Protocol):
    """Works on one message at a time."""

    @property
    def capacity_per_s(self) -> float | None:
        """Messages per second it reaches with a full queue, where that is known."""

    async def perform(
        self, delivery: Delivery, metadata: Metadata, available_at: float
    ) -> tuple[Work, Exception | None]:
        """Work on a message that was there at ``available_at``; return the work and the failure, if it failed."""


class SimulatedFailureError(Exception):
    """A failure that was asked for (``consumer.failure_rate``, ``consumer.poison_rate``)."""


class SimulatedWork:
    """Works at ``rate`` messages per second, exactly: a late timer never lowers the mean rate.

    One message at a time. ``factor`` stretches every service time (`POST /admin/slow-down`).
    """

    def __init__(self, settings: ConsumerSettings, clock: Clock, seed: int | None) -> None:
        """``seed`` makes service times and failures repeatable."""
        self.settings = settings
        self.factor = 1.0
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - service times, not secrets
        self._schedule = ServiceSchedule()

    @property
    def capacity_per_s(self) -> float | None:
        """Messages per second it reaches with a full queue; None when the work takes no time: that is not known."""
        mean_s = self.settings.mean_service_s * self.factor
        return 1 / mean_s if mean_s > 0 else None

    async def perform(
        self,
        delivery: Delivery,
        metadata: Metadata,
        available_at: float,
    ) -> tuple[Work, Exception | None]:
        """Let the time of the work pass; see `Worker`."""
        start, end = self._schedule.begin(available_at, self._service_s(metadata), self._clock.now())
        while (wait := end - self._clock.now()) > _WORTH_SLEEPING_S:  # noqa: ASYNC110 - it waits for a time
            await asyncio.sleep(wait)
        return Work(start, end - start), self._failure(delivery)

    def _failure(self, delivery: Delivery) -> SimulatedFailureError | None:
        settings = self.settings
        name = delivery.message.message_id
        if settings.poison_rate and name and crc32(name.encode()) < settings.poison_rate * _CRC_RANGE:
            return SimulatedFailureError("this message is poison")  # to every consumer, at every attempt
        if settings.failure_rate and self._random.random() < settings.failure_rate:
            return SimulatedFailureError("a failure was asked for")
        return None

    def _service_s(self, metadata: Metadata) -> float:
        if metadata.processing_time_s is not None:
            return metadata.processing_time_s * self.factor
        settings = self.settings
        if settings.distribution == "uniform":
            ms = self._random.uniform(settings.processing_min_ms, settings.processing_max_ms)
            return ms / 1000 * self.factor
        mean_s = settings.mean_service_s * self.factor
        return self._random.expovariate(1.0) * mean_s if settings.distribution == "exponential" else mean_s


class HandledWork:
    """Runs a user's handler, one message at a time."""

    capacity_per_s: float | None = None

    def __init__(self, handler: Handler, clock: Clock) -> None:
        """``handler`` does the work; whatever it raises makes the attempt a failed one."""
        self._handler = handler
        self._clock = clock

    async def perform(
        self,
        delivery: Delivery,
        metadata: Metadata,
        available_at: float,  # noqa: ARG002 - real work starts when it starts
    ) -> tuple[Work, Exception | None]:
        """Call the handler; see `Worker`."""
        started_at = self._clock.now()
        failure: Exception | None = None
        try:
            await self._handler(delivery, metadata)
        except Exception as error:  # noqa: BLE001 - whatever a user's handler raises is a failed attempt
            failure = error
        return Work(started_at, self._clock.now() - started_at), failure


def load_function(key: str, path: str) -> Callable[..., Any]:
    """Return the function of the user's own at ``path`` (``package.module:function``); raises `ConfigError`."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(key, path, "expected package.module:function, for example shop.worker:handle")
    try:
        found: Any = import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise ConfigError(
            key, path, f"cannot be imported: {error}; modules are looked for in this folder too"
        ) from None
    except AttributeError:
        raise ConfigError(key, path, f"{module_name} has no {name}") from None
    except Exception as error:
        raise ConfigError(key, path, f"{module_name} fails when it is imported: {error!r}") from error
    if not callable(found):
        raise ConfigError(key, path, "is not a function")
    return found  # type: ignore[no-any-return]  # callable, checked above


def load_handler(path: str) -> Handler:
    """Return the function at ``path`` as a handler; see `load_function`.

    It is called with the `Message`. A coroutine function is awaited; any other runs on a thread, so that heartbeats and
    reports go on while it works.
    """
    function: Callable[[Message], Any] = load_function("consumer.handler", path)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 - an object may be called

        async def awaited(delivery: Delivery, metadata: Metadata) -> None:  # noqa: ARG001 - as the protocol says
            await function(delivery.message)

        return awaited

    async def on_a_thread(delivery: Delivery, metadata: Metadata) -> None:  # noqa: ARG001 - as above
        await asyncio.to_thread(function, delivery.message)

    return on_a_thread
