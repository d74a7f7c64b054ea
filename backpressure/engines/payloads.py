"""What generated messages look like: body, headers and properties, from templates, samples or recorded messages.

Everything about a message follows from the seed and its number, so a run can be repeated. A `PayloadSource` takes them
from a function of the user's instead, called ahead of the sender, which never waits for it.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from backpressure.core.fields import MessageField, time_ns
from backpressure.core.message import HeaderValue, value
from backpressure.core.profiles import Profile, parse_profile
from backpressure.core.templates import Draw, Filler, Template, chosen_by_share
from backpressure.derived import body_of
from backpressure.engines.work import load_function
from backpressure.errors import ConfigError, PaceError
from backpressure.settings import Settings

Made = tuple[bytes, dict[str, HeaderValue]]
"""Body and headers of a message."""


@value
class Payload:
    """One message as the user wants it; ``routing_key`` is None for the queue's own."""

    body: bytes
    headers: dict[str, HeaderValue]
    priority: int | None
    routing_key: str | None


class Payloads:
    """Makes the payload of each message by its number."""

    def __init__(self, settings: Settings) -> None:
        """Read the files that ``settings`` names; raises `ConfigError` when one cannot be read."""
        producer = settings.producer
        seed = settings.process.seed if settings.process.seed is not None else random.getrandbits(32)
        self._folder = Path(settings.process.folder)
        self._lines: dict[str, list[str]] = {}
        self._producer = producer.identity()
        self._text = body_of(producer)
        self._pad = producer.payload_bytes
        self._samples = self._read("producer.samples", producer.samples) if producer.samples else None
        self._at_random = producer.samples_order == "random"
        self._sample_key = _key(seed, "samples")
        self._body = self._filler("producer.template", producer.template, seed) if producer.template else None
        self._headers = [
            (name, self._filler(f"producer.headers.{name}", text, seed) if isinstance(text, str) else text)
            for name, text in producer.headers.items()
        ]
        self._priority = self._filler("producer.priority", producer.priority, seed) if producer.priority else None
        shares = settings.queue.routing_keys
        self._route = chosen_by_share(shares, _key(seed, "routing keys")) if shares else None

    def make(self, draw: Draw) -> Payload:
        """Return the payload of one message."""
        headers: dict[str, HeaderValue] = {}
        for name, made in self._headers:
            headers[name] = _header(made(draw)) if callable(made) else made
        return Payload(
            self._body_of(draw),
            headers,
            None if self._priority is None else _priority(self._priority(draw)),
            self._route(draw.number) if self._route is not None else None,
        )

    def _body_of(self, draw: Draw) -> bytes:
        if self._body is not None:
            return self._body(draw).encode().ljust(self._pad, b" ")
        if self._samples is None:
            return self._text
        index = draw.number
        if self._at_random:
            index = int.from_bytes(
                blake2b(index.to_bytes(8, "little"), digest_size=8, key=self._sample_key).digest(), "little"
            )
        return self._samples[index % len(self._samples)].encode()

    def _filler(self, key: str, text: str, seed: int) -> Filler:
        try:
            return Template(text).bind(seed, lambda path: self._read(key, path))
        except ValueError as error:
            raise ConfigError(key, text, str(error)) from None

    def _read(self, key: str, path: str) -> list[str]:
        if path not in self._lines:
            lines = [line for line in _text_of(key, self._folder / path).splitlines() if line.strip()]
            if not lines:
                raise ConfigError(key, path, "has no lines")
            self._lines[path] = lines
        return self._lines[path]


def profile_of(settings: Settings) -> Profile:
    """Return how the offered load varies; raises `ConfigError`."""
    producer = settings.producer
    folder = Path(settings.process.folder)
    try:
        profile = parse_profile(
            producer.profile, producer.rate, lambda path: _text_of("producer.profile", folder / path)
        )
    except ValueError as error:
        raise ConfigError("producer.profile", producer.profile, str(error)) from None
    peak = profile.peak_per_s()
    if peak is not None and peak > producer.rate > 0:
        allowed = f"the table goes up to {peak:g} msg/s: set producer.rate to at least that"
        raise ConfigError("producer.rate", producer.rate, allowed)
    return profile


def recorded_times_s(settings: Settings) -> list[float] | None:
    """Return when each recorded message is due, in seconds from the first; None: they have no times to keep to."""
    producer = settings.producer
    if not producer.recorded_at:
        return None
    field = MessageField.parse(producer.recorded_at)
    path = Path(settings.process.folder) / producer.samples
    times: list[int] = []
    for number, line in enumerate(_text_of("producer.samples", path).splitlines(), start=1):
        if not line.strip():
            continue
        at_ns = time_ns(field.find(line))
        if at_ns is None:
            raise ConfigError(
                "producer.recorded_at", producer.recorded_at, f"line {number} of {path} has no time there"
            )
        if times and at_ns < times[-1]:
            raise ConfigError(
                "producer.samples", str(path), f"the time in line {number} is before that of the line above"
            )
        times.append(at_ns)
    return [(at_ns - times[0]) / 1e9 / producer.recorded_speed for at_ns in times]


def _text_of(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(key, str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(key, str(path), "is not UTF-8 text") from None


def _key(seed: int, what: str) -> bytes:
    return blake2b(f"{seed}/{what}".encode(), digest_size=32).digest()


def _header(text: str) -> HeaderValue:
    """Return a whole number as a number, and any other text as it is."""
    return int(text) if text.isdecimal() and (text == "0" or text[0] != "0") and len(text) < 19 else text


def _priority(text: str) -> int:
    return min(max(int(text), 0), 255)


class PayloadSource:
    """Calls a function for each message, or takes the next one from a generator, as far ahead as it is told to.

    A coroutine function or an asynchronous generator is awaited. Any other runs on a thread, so that confirms,
    heartbeats and reports go on while it works.

    Attributes:
        failure: why no more can be made; what was made before is still there.
    """

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        """A function is called with the number of the message, from 0; a generator function once, without arguments."""
        self.failure: PaceError | None = None
        self._function = function
        self._name = name or getattr(function, "__qualname__", repr(function))
        self._ready: deque[Made] = deque()
        self._number = 0
        self._until = 0
        self._ended = False
        self._asked = asyncio.Event()

    @classmethod
    def load(cls, path: str) -> PayloadSource:
        """Return the source for the function at ``path`` (``package.module:function``); raises `ConfigError`."""
        return cls(load_function("producer.handler", path), path)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left, and there will be nothing more."""
        return self._ended and not self._ready

    def make_until(self, number: int) -> None:
        """Have so many made in all."""
        if number > self._until:
            self._until = number
            self._asked.set()

    def take(self) -> Made:
        """Return the oldest that is ready."""
        return self._ready.popleft()

    async def run(self, on_made: Callable[[], None]) -> None:
        """Make what is asked for until there is nothing more, or it fails; ``on_made`` is called after each batch."""
        try:
            make = self._maker()
            while True:
                await self._asked.wait()
                self._asked.clear()
                while self._number < self._until:
                    if not await make():
                        return
                    on_made()
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises ends the producer in one line
            self.failure = PaceError(f"producer.handler {self._name} failed at message {self._number}: {error!r}")
        finally:
            self._ended = True
            on_made()

    def _maker(self) -> Callable[[], Awaitable[bool]]:
        """Return what makes at least one payload, and returns False at the end of a generator."""
        function = self._function
        if inspect.isasyncgenfunction(function):
            return self._next_of(function())
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 - an object may be called
            return self._awaited
        steps = cast("Iterator[object]", function()) if inspect.isgeneratorfunction(function) else None
        return lambda: asyncio.to_thread(self._on_a_thread, steps)

    def _next_of(self, steps: AsyncIterator[object]) -> Callable[[], Awaitable[bool]]:
        async def make() -> bool:
            try:
                self._take_in(await anext(steps))
            except StopAsyncIteration:
                return False
            return True

        return make

    async def _awaited(self) -> bool:
        self._take_in(await self._function(self._number))
        return True

    def _on_a_thread(self, steps: Iterator[object] | None) -> bool:
        """Make all that are asked for: going to the thread and back takes longer than a short function."""
        while self._number < self._until:
            if steps is None:
                self._take_in(self._function(self._number))
                continue
            try:
                self._take_in(next(steps))
            except StopIteration:
                return False
        return True

    def _take_in(self, made: object) -> None:
        body, headers = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes) or not isinstance(headers, Mapping) or not all(map(_is_text, headers)):
            raise TypeError(f"expected a body (bytes or str) or a pair of body and headers, got {type(made).__name__}")
        self._ready.append((body, dict(headers)))
        self._number += 1


def _is_text(value: object) -> bool:
    return isinstance(value, str)
