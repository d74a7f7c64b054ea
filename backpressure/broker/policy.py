"""What bounds a queue: its own arguments merged with the policy that matches its name.

May not know: queues, exchanges, HTTP. Merging follows RabbitMQ: of two numbers the smaller one rules, of two other
values the queue's own argument.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from backpressure.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from backpressure.amqp.tables import Table

__all__ = ["Limits", "Policy", "matching"]

OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
_NUMBERS = frozenset(("max-length", "max-length-bytes", "message-ttl", "expires", "delivery-limit"))
_TEXTS = frozenset(("overflow", "dead-letter-exchange", "dead-letter-routing-key", "queue-mode", "alternate-exchange"))


@dataclass(frozen=True, slots=True)
class Policy:
    """A definition that applies to every queue or exchange whose name matches ``pattern``."""

    name: str
    pattern: re.Pattern[str]
    definition: Mapping[str, int | str]
    apply_to: Literal["all", "queues", "exchanges"] = "all"
    priority: int = 0

    @classmethod
    def parse(cls, name: str, document: Mapping[str, object]) -> Policy:
        """Read the management API's JSON; ConfigError names the key that is wrong."""
        text = document.get("pattern")
        if not isinstance(text, str):
            raise ConfigError("pattern", text, "must be a string")
        try:
            pattern = re.compile(text)
        except re.error as cause:
            raise ConfigError("pattern", text, f"is no regular expression: {cause}") from cause
        definition = document.get("definition")
        if not isinstance(definition, dict) or not definition:
            raise ConfigError("definition", definition, "must be an object with at least one key")
        for key, value in definition.items():
            _check(key, value)
        apply_to = document.get("apply-to", "all")
        if apply_to not in ("all", "queues", "exchanges"):  # a tuple: what JSON has need not be hashable
            raise ConfigError("apply-to", apply_to, "must be one of: all, queues, exchanges")
        priority = document.get("priority", 0)
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise ConfigError("priority", priority, "must be an integer")
        return cls(name, pattern, dict(definition), apply_to, priority)

    def document(self) -> Table:
        """The management API's JSON."""
        return {
            "vhost": "/",
            "name": self.name,
            "pattern": self.pattern.pattern,
            "apply-to": self.apply_to,
            "definition": dict(self.definition),
            "priority": self.priority,
        }


def _check(key: str, value: object) -> None:
    if key in _NUMBERS:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"definition.{key}", value, "must be an integer of 0 or more")
    elif key not in _TEXTS:
        allowed = ", ".join(sorted(_NUMBERS | _TEXTS))
        raise ConfigError(f"definition.{key}", value, f"is not known here; allowed: {allowed}")
    elif not isinstance(value, str):
        raise ConfigError(f"definition.{key}", value, "must be a string")
    elif key == "overflow" and value not in OVERFLOWS:
        raise ConfigError("definition.overflow", value, f"must be one of: {', '.join(OVERFLOWS)}")


def matching(policies: Iterable[Policy], kind: Literal["queues", "exchanges"], name: str) -> Policy | None:
    """The one policy that applies: of those that match, the one with the highest priority."""
    candidates = (p for p in policies if p.apply_to in {"all", kind} and p.pattern.search(name))
    return max(candidates, key=lambda policy: policy.priority, default=None)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds in force on one queue. None: no bound."""

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
            delivery_limit=number("delivery-limit"),
        )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
