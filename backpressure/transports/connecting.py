"""How all transports reach a broker: TLS, longer and longer pauses while it is away, and two log lines at most."""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator

from backpressure.errors import BrokerUnavailableError, ConfigError, TransportError
from backpressure.settings import BrokerSettings

__all__ = ["Outage", "pauses", "tls_context"]

_log = logging.getLogger("backpressure")


def pauses(min_s: float, max_s: float, uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Yield the seconds to wait before each attempt: doubling, the upper half at random.

    Without the randomness all clients of a restarted broker would reconnect at the same moments.
    """
    pause = min_s
    while True:
        yield uniform(pause / 2, pause)
        pause = min(2 * pause, max_s)


class Outage:
    """Logs once that the broker is away and once that it is back, however many connections notice."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._since: float | None = None

    def begin(self, error: TransportError) -> None:
        """Report a failure; the first one of an outage is logged."""
        if self._since is not None:
            return
        self._since = time.monotonic()
        if isinstance(error, BrokerUnavailableError):
            _log.warning("no broker at %s (%s): waiting for one; --no-wait fails at once", self._address, error.reason)
        else:
            _log.warning("%s: connecting again", error)

    def end(self) -> None:
        """Report a success."""
        if self._since is None:
            return
        _log.info("connected to the broker at %s after %.1f s", self._address, time.monotonic() - self._since)
        self._since = None


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
