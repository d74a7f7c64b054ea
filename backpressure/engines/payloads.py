"""What generated messages look like: body, headers and properties, from templates, samples or recorded messages.

Everything about a message follows from the seed and its number, so a run can be repeated.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from pathlib import Path

from backpressure.core.fields import MessageField, time_ns
from backpressure.core.message import HeaderValue, value
from backpressure.core.profiles import Profile, parse_profile
from backpressure.core.templates import Draw, Filler, Template, chosen_by_share
from backpressure.derived import body_of
from backpressure.errors import ConfigError
from backpressure.settings import Settings

__all__ = ["Payload", "Payloads", "profile_of", "recorded_times_s"]


@value
class Payload:
    """One message as the user wants it; ``routing_key`` is empty for the queue's own."""

    body: bytes
    headers: dict[str, HeaderValue]
    priority: int | None
    routing_key: str


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
            self._route(draw.number) if self._route is not None else "",
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
