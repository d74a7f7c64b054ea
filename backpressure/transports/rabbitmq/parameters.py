"""From our settings to pika's connection parameters, TLS included."""

from __future__ import annotations

import ssl
from urllib.parse import unquote, urlsplit

from pika import ConnectionParameters, PlainCredentials, SSLOptions

from backpressure.errors import ConfigError
from backpressure.settings import BrokerSettings

__all__ = ["connection_parameters"]


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
        credentials=PlainCredentials(
            unquote(url.username) if url.username else broker.username,
            unquote(url.password) if url.password else broker.password.get_secret_value(),
        ),
        heartbeat=broker.heartbeat_s,
        socket_timeout=broker.connect_timeout_s,
        stack_timeout=broker.connect_timeout_s,
        blocked_connection_timeout=broker.blocked_timeout_s,
        ssl_options=SSLOptions(_tls(broker), host) if secure else None,
        client_properties={"connection_name": name, "product": "Pace Matching"},
    )


def _tls(broker: BrokerSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=broker.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("broker.ca_file", broker.ca_file, f"expected a PEM file of authorities: {error}") from error
    if broker.cert_file:
        try:
            context.load_cert_chain(broker.cert_file, broker.key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError("broker.cert_file", broker.cert_file, f"expected a PEM certificate: {error}") from error
    return context
