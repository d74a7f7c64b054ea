"""The start of a connection: what the server offers, and which answers it accepts.

Contains the server's properties and limits, and the checks of login, tuning and virtual host. Each check raises the
refusal that RabbitMQ gives. Must not know: bytes, channels, queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pamqp import commands

from backpressure.amqp.field_tables import FieldTable
from backpressure.amqp.frames import FRAME_MIN_SIZE
from backpressure.broker.replies import ConnectionRefusal, not_allowed
from backpressure.core.addresses import is_loopback
from backpressure.errors import ConfigError
from backpressure.version import __version__

PRODUCT = "Pace Matching embedded broker"
RABBITMQ_VERSION = "4.0.5"
"""The RabbitMQ whose behaviour this broker has. Clients decide by product and version what they may expect."""
_SERVER_PROPERTIES: Any = {
    "implementation": PRODUCT,
    "implementation_version": __version__,
    "platform": "Python",
    "copyright": "MIT licence",
    "information": "For experiments on one machine; not durable unless started with a data directory",
    "capabilities": {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    },
}


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What every connection is offered, with RabbitMQ's defaults."""

    users: dict[str, str] = field(default_factory=lambda: {"guest": "guest"})
    tags: dict[str, list[str]] = field(default_factory=dict)
    """Of users with others than *administrator*; only *impersonator* changes what one may do."""
    frame_max_bytes: int = 131_072
    channel_max: int = 2047
    heartbeat_s: int = 60
    max_message_bytes: int = 16_777_216
    own_name: bool = False
    """Whether product and version are this broker's own, and not those of the RabbitMQ that it behaves like."""

    def tags_of(self, user: str) -> list[str]:
        """Return the tags of a user."""
        return self.tags.get(user, ["administrator"])

    @property
    def product(self) -> tuple[str, str]:
        """The name and the version that clients are told."""
        return (PRODUCT, __version__) if self.own_name else ("RabbitMQ", RABBITMQ_VERSION)


def users_for(host: str, options: Iterable[str]) -> dict[str, str]:
    """Return who may log in: guest too, unless other machines could; `ConfigError` as `parse_user`."""
    named = dict(map(parse_user, options))
    return {"guest": "guest", **named} if is_loopback(host) or not named else named


def parse_user(option: str) -> tuple[str, str]:
    """Return name and password of ``NAME:PASSWORD``; `ConfigError` without a colon or a name."""
    name, colon, password = option.partition(":")
    if not name or not colon:
        raise ConfigError("--user", name, "must be NAME:PASSWORD")
    return name, password


def start(config: SessionConfig) -> commands.Connection.Start:
    """Return the server's first method."""
    product, version = config.product
    properties = {"product": product, "version": version, **_SERVER_PROPERTIES}
    return commands.Connection.Start(server_properties=properties, mechanisms="PLAIN AMQPLAIN")


def can(client_properties: Mapping[str, Any], capability: str) -> bool:
    """Whether the client announced a capability, such as ``connection.blocked``."""
    capabilities = client_properties.get("capabilities")
    return isinstance(capabilities, dict) and bool(capabilities.get(capability))


def log_in(config: SessionConfig, method: commands.Connection.StartOk) -> str:
    """Return the user's name; `ConnectionRefusal` 403 for a wrong name, password or mechanism."""
    user, password = _credentials(method)
    if password is None or config.users.get(user) != password:
        raise ConnectionRefusal(
            403,
            "ACCESS_REFUSED",
            f"Login was refused using authentication mechanism {method.mechanism}. For details see the broker logfile.",
        )
    return user


def _credentials(method: commands.Connection.StartOk) -> tuple[str, str | None]:
    """Name and password; None for what was not given."""
    response = str(method.response)
    if method.mechanism == "PLAIN":
        _, _, credentials = response.partition("\0")
        user, _, password = credentials.partition("\0")
        return user, password
    if method.mechanism == "AMQPLAIN":  # a table without its length
        octets = response.encode(errors="surrogateescape")
        try:
            table = FieldTable(len(octets).to_bytes(4, "big") + octets)
        except ValueError:
            return "", None
        login, given = table.get("LOGIN"), table.get("PASSWORD")
        return str(login), given if isinstance(given, str) else None
    return "", None


def tune(config: SessionConfig) -> commands.Connection.Tune:
    """Return the limits that the server offers."""
    return commands.Connection.Tune(config.channel_max, config.frame_max_bytes, config.heartbeat_s)


def check_tune(config: SessionConfig, method: commands.Connection.TuneOk) -> None:
    """Raise `ConnectionRefusal` 530 if a client wants more than was offered, or frames that are too small."""
    for name, asked, limit in (
        ("channel_max", method.channel_max, config.channel_max),
        ("frame_max", method.frame_max, config.frame_max_bytes),
    ):
        if asked == 0 or asked > limit:
            shown = "0 (no limit)" if asked == 0 else asked
            raise not_allowed(f"negotiated {name} = {shown} is higher than the maximum allowed value ({limit})")
    if method.frame_max < FRAME_MIN_SIZE:
        raise not_allowed(
            f"negotiated frame_max = {method.frame_max} is lower than the minimum allowed value ({FRAME_MIN_SIZE})"
        )


def check_open(method: commands.Connection.Open) -> None:
    """Raise `ConnectionRefusal` 530 for any virtual host but ``/``."""
    if method.virtual_host != "/":
        raise not_allowed(f"vhost {method.virtual_host} not found")
