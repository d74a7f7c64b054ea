"""Faults on demand: failures of real brokers, so that labs and tests can show how clients react.

Must not know: HTTP, sockets, random numbers. A share of publishes is refused evenly, so that all runs are equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableSet
from dataclasses import asdict, dataclass, fields, replace
from typing import Protocol

from backpressure.broker.meters import MemoryAlarm
from backpressure.broker.timers import Timer, Timers
from backpressure.errors import ConfigError

_LARGEST = 1e9


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """All faults; the defaults are a healthy broker."""

    nack_share: float = 0.0
    """Share of the messages published in confirm mode that is refused, 0 to 1."""
    confirm_delay_ms: float = 0.0
    """Delay of confirms."""
    stall_reads: bool = False
    """Input from clients is not read; heartbeats are still sent."""
    memory_alarm: bool = False
    """Publishers are blocked regardless of memory."""
    drop_every_s: float = 0.0
    """The interval at which all connections are cut without a close; 0 means never."""

    def updated(self, document: Mapping[str, object]) -> FaultSettings:
        """Return a copy with some values changed; ConfigError names a key or value that is not allowed."""
        known = {field.name: type(field.default) for field in fields(self)}
        for name, value in document.items():
            if name not in known:
                raise ConfigError(name, value, f"is not a fault; allowed: {', '.join(known)}")
            if known[name] is bool:
                if not isinstance(value, bool):
                    raise ConfigError(name, value, "must be true or false")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST:
                raise ConfigError(name, value, "must be a number from 0 to 1e9")
            elif name == "nack_share" and value > 1:
                raise ConfigError(name, value, "must be between 0 and 1")
        return replace(self, **document)  # type: ignore[arg-type]  # checked above, name by name

    def document(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)


class Connected(Protocol):
    """A client's connection, as the virtual host and the faults see it."""

    def alarm_changed(self, *, active: bool) -> None:
        """The memory alarm began or ended."""

    def stall(self, stalled: bool) -> None:
        """Read no more from the peer, or again."""

    def lost(self) -> None:
        """The connection is over."""


class FaultyHost(Protocol):
    """What the faults need of the virtual host."""

    now: float
    timers: Timers
    memory: MemoryAlarm

    @property
    def sessions(self) -> MutableSet[Connected]:
        """Every connection."""


class Faults:
    """The faults of one broker, and their effects."""

    def __init__(self, host: FaultyHost) -> None:
        """A healthy broker."""
        self._host = host
        self._debt = 0.0
        self._drop_timer: Timer | None = None
        self.settings = FaultSettings()

    def apply(self, settings: FaultSettings) -> None:
        """Replace the faults; takes effect at once."""
        before, self.settings = self.settings, settings
        self._host.memory.forced = settings.memory_alarm
        for session in list(self._host.sessions):
            session.stall(settings.stall_reads)
        if settings.drop_every_s != before.drop_every_s:
            if self._drop_timer is not None:
                self._drop_timer.cancel()
            self._plan_drop()

    def refuses_publish(self) -> bool:
        """Whether to refuse this message: every tenth one, for a share of 0.1."""
        self._debt += self.settings.nack_share
        if self._debt < 1 - 1e-9:
            return False
        self._debt -= 1
        return True

    def drop_connections(self) -> int:
        """Cut every connection; return their number."""
        sessions = list(self._host.sessions)
        for session in sessions:
            session.lost()
        return len(sessions)

    def _plan_drop(self) -> None:
        self._drop_timer = None
        if self.settings.drop_every_s:
            self._drop_timer = self._host.timers.at(self._host.now + self.settings.drop_every_s, self._drop_due)

    def _drop_due(self) -> None:
        self.drop_connections()
        self._plan_drop()


def parse_fault(option: str) -> tuple[str, object]:
    """Parse ``NAME=VALUE``; a value that is not JSON is returned as text, which `updated` refuses."""
    name, _, text = option.partition("=")
    try:
        return name.replace("-", "_"), json.loads(text)
    except ValueError:
        return name, text
