"""From our settings to pika's connection parameters, TLS included."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from pika import ConnectionParameters, PlainCredentials, SSLOptions

from backpressure.settings import BrokerSettings
from backpressure.transports.tls import tls_context

__all__ = ["connection_parameters", "login"]


def connection_parameters(broker: BrokerSettings, name: str) -> ConnectionParameters:
    """Return what to dial; ``name`` is shown in the management pages. Raises `ConfigError` for unusable TLS files.

    Parts that a URL leaves out come from the other settings, so ``amqps://broker.example`` is enough.
    """
    url = urlsplit(broker.full_url())
    secure = url.scheme == "amqps"
    host = url.hostname or broker.host
    return ConnectionParameters(
        host=host,
        port=url.port or (5671 if secure else 5672),
        virtual_host=unquote(url.path[1:]) or "/",
        credentials=PlainCredentials(*login(broker)),
        heartbeat=broker.heartbeat_s,
        socket_timeout=broker.connect_timeout_s,
        stack_timeout=broker.connect_timeout_s,
        blocked_connection_timeout=broker.blocked_timeout_s,
        ssl_options=SSLOptions(tls_context(broker), host) if secure else None,
        client_properties={"connection_name": name, "product": "Pace Matching"},
    )


def login(broker: BrokerSettings) -> tuple[str, str]:
    """Return user and password; those in the URL come first."""
    url = urlsplit(broker.full_url())
    user = unquote(url.username) if url.username else broker.username
    return user, unquote(url.password) if url.password else broker.password.get_secret_value()
