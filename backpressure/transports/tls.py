"""TLS contexts from the settings, for every client library."""

from __future__ import annotations

import ssl

from backpressure.errors import ConfigError
from backpressure.settings import BrokerSettings

__all__ = ["tls_context"]


def tls_context(broker: BrokerSettings) -> ssl.SSLContext:
    """Return a context that verifies the broker and presents our certificate, if there is one.

    Raises `ConfigError` for a file that cannot be used.
    """
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
