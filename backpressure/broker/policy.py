"""Policies, and the limits of a queue: its arguments merged with the policy that matches its name.

Merging follows RabbitMQ: the smaller of two numbers applies, and for other values the queue's own argument.
Must not know: queues, exchanges, HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeGuard, cast

from backpressure.amqp.field_tables import Table
from backpressure.broker.patterns import Pattern, PatternError
from backpressure.errors import ConfigError

MAX_TTL_MS = 315_360_000_000
"""Ten years, as in RabbitMQ."""
MAX_NAME_OCTETS = 255
"""The longest short string: no exchange name and no routing key is longer."""
OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
QUEUE_TYPES = ("classic", "quorum")
QUEUE_MODES = ("default", "lazy")
QUEUE_VERSIONS = (1, 2)
LEADER_LOCATORS = ("client-local", "balanced", "random", "least-leaders")
DEAD_LETTER_STRATEGIES = ("at-most-once", "at-least-once")
DELIVERY_LIMIT = 20
"""Of a quorum queue that has none by argument or policy, since RabbitMQ 4."""
_NUMBERS = frozenset(
    (
        "max-length",
        "max-length-bytes",
        "message-ttl",
        "expires",
        "delivery-limit",
        "queue-version",
        "target-group-size",
    )
)
_TEXTS = frozenset(
    (
        "overflow",
        "dead-letter-exchange",
        "dead-letter-routing-key",
        "dead-letter-strategy",
        "queue-mode",
        "queue-leader-locator",
        "alternate-exchange",
    )
)
_BOUNDS: dict[str, tuple[int | None, int | None]] = {
    "message-ttl": (0, MAX_TTL_MS),
    "expires": (1, MAX_TTL_MS),
    "delivery-limit": (None, None),
    "queue-version": (1, 2),
    "target-group-size": (1, None),
}
_CHOICES = {
    "overflow": OVERFLOWS,
    "queue-mode": QUEUE_MODES,
    "queue-leader-locator": LEADER_LOCATORS,
    "dead-letter-strategy": DEAD_LETTER_STRATEGIES,
}
_APPLY_TO = ("all", "queues", "classic_queues", "quorum_queues", "streams", "exchanges")
ApplyTo = Literal["all", "queues", "classic_queues", "quorum_queues", "streams", "exchanges"]


@dataclass(frozen=True, slots=True)
class Policy:
    """A definition that applies to every queue or exchange whose name matches ``pattern``."""

    name: str
    pattern: Pattern
    definition: Mapping[str, int | str]
    apply_to: ApplyTo = "all"
    priority: float = 0

    @classmethod
    def parse(cls, name: str, document: Mapping[str, object]) -> Policy:
        """Parse the management API's JSON; ConfigError names the key that is wrong."""
        text = document.get("pattern")
        if not isinstance(text, str):
            raise ConfigError("pattern", text, "must be a string")
        try:
            pattern = Pattern(text)
        except PatternError as cause:
            raise ConfigError("pattern", text, str(cause)) from cause
        definition = document.get("definition")
        if not isinstance(definition, dict) or not definition:
            raise ConfigError("definition", definition, "must be an object with at least one key")
        for key, value in definition.items():
            _check(key, value)
        apply_to = document.get("apply-to", "all")
        if apply_to not in _APPLY_TO:  # a tuple, because JSON values need not be hashable
            raise ConfigError("apply-to", apply_to, f"must be one of: {', '.join(_APPLY_TO)}")
        priority = document.get("priority", 0)
        if isinstance(priority, bool) or not (isinstance(priority, int) or _is_finite(priority)):
            raise ConfigError("priority", priority, "must be a number")
        return cls(name, pattern, dict(definition), cast("ApplyTo", apply_to), priority)

    def document(self) -> Table:
        """Return the management API's JSON."""
        return {
            "vhost": "/",
            "name": self.name,
            "pattern": self.pattern.text,
            "apply-to": self.apply_to,
            "definition": dict(self.definition),
            "priority": self.priority,
        }


def _check(key: str, value: object) -> None:
    """Refuse a value that could not work: later there is no client to tell."""
    name = f"definition.{key}"
    if key in _NUMBERS:
        least, most = _BOUNDS.get(key, (0, None))
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(name, value, "must be an integer")
        if least is not None and value < least:
            raise ConfigError(name, value, f"must be {least} or more")
        if most is not None and value > most:
            raise ConfigError(name, value, f"must be {most} or less")
    elif key not in _TEXTS:
        raise ConfigError(name, value, f"is not known here; allowed: {', '.join(sorted(_NUMBERS | _TEXTS))}")
    elif not isinstance(value, str):
        raise ConfigError(name, value, "must be a string")
    elif key in _CHOICES and value not in _CHOICES[key]:
        raise ConfigError(name, value, f"must be one of: {', '.join(_CHOICES[key])}")
    elif key not in _CHOICES and not is_name(value):
        raise ConfigError(name, value, f"must be text of at most {MAX_NAME_OCTETS} octets")


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, float) and math.isfinite(value)


def is_name(text: str) -> bool:
    """Whether this can be an exchange name or a routing key."""
    try:
        return len(text.encode(errors="surrogateescape")) <= MAX_NAME_OCTETS
    except UnicodeEncodeError:
        return False


def matching(policies: Iterable[Policy], name: str, *kinds: ApplyTo) -> Policy | None:
    """Return the policy with the highest priority that matches ``name`` and applies to one of ``kinds``, or to all."""
    candidates = (p for p in policies if p.apply_to in {"all", *kinds} and p.pattern.found_in(name))
    return max(candidates, key=lambda policy: policy.priority, default=None)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one queue; None means no limit."""

    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: str = "drop-head"
    message_ttl_s: float | None = None
    expires_s: float | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    delivery_limit: int | None = None
    bounded: bool = field(init=False)

    def __post_init__(self) -> None:
        bounded = self.max_length is not None or self.max_length_bytes is not None
        object.__setattr__(self, "bounded", bounded)

    @classmethod
    def of(cls, arguments: Table, policy: Policy | None) -> Limits:
        """Merge a queue's ``x-`` arguments with the policy that matches it."""
        definition = policy.definition if policy else {}

        def number(key: str) -> int | None:
            values = [v for v in (arguments.get(f"x-{key}"), definition.get(key)) if isinstance(v, int)]
            return min(values, default=None)

        def text(key: str) -> str | None:
            value = arguments.get(f"x-{key}", definition.get(key))
            return value if isinstance(value, str) else None

        return cls(
            max_length=number("max-length"),
            max_length_bytes=number("max-length-bytes"),
            overflow=text("overflow") or "drop-head",
            message_ttl_s=_seconds(number("message-ttl")),
            expires_s=_seconds(number("expires")),
            dead_letter_exchange=text("dead-letter-exchange"),
            dead_letter_routing_key=text("dead-letter-routing-key"),
            delivery_limit=_delivery_limit(arguments.get("x-delivery-limit"), definition.get("delivery-limit")),
        )


def _delivery_limit(*given: object) -> int | None:
    """The smaller one of argument and policy; one below 0 is none, and without any there is RabbitMQ's."""
    limits = [limit for limit in given if isinstance(limit, int)]
    return min((limit for limit in limits if limit >= 0), default=None if limits else DELIVERY_LIMIT)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
