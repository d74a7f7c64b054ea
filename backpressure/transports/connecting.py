"""How all transports reach a broker: which of its servers, TLS, longer and longer pauses while it is away, the log."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableSequence
from typing import TypeVar

from backpressure.errors import BrokerUnavailableError, ConfigError, TransportError
from backpressure.settings import BrokerSettings

_log = logging.getLogger("backpressure")

Server = tuple[str, int]
"""Host and port."""
_T = TypeVar("_T")


def pauses(min_s: float, max_s: float, uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Yield the seconds to wait before each attempt: doubling, the upper half at random.

    Without the randomness all clients of a restarted broker would reconnect at the same moments.
    """
    pause = min_s
    while True:
        yield uniform(pause / 2, pause)
        pause = min(2 * pause, max_s)


class Servers:
    """The servers of one broker in the order in which to try them: at random, and those that failed last.

    Each client has an order of its own, so a cluster's nodes share the connections.
    """

    def __init__(
        self, servers: Iterable[Server], shuffle: Callable[[MutableSequence[Server]], None] = random.shuffle
    ) -> None:
        self._order = list(dict.fromkeys(servers))
        self._late: set[asyncio.Future[None]] = set()
        shuffle(self._order)

    @property
    def several(self) -> bool:
        """Whether there is another one to go to."""
        return len(self._order) > 1

    def failed(self, server: Server) -> None:
        """Try ``server`` after the others from now on."""
        self._order.remove(server)
        self._order.append(server)

    async def first(
        self,
        attempt: Callable[[Server], Awaitable[_T]],
        *,
        discard: Callable[[_T], object] = lambda _result: None,
        head_start_s: float = 0.5,
    ) -> tuple[Server, _T]:
        """Return a server and the result of ``attempt`` there, from the first server to succeed.

        The next one is tried as soon as one has failed, or has not answered within its head start; so a server that
        takes connections and does not answer costs no more than that. ``discard`` gets a result that came too late.
        Raises the first error when all have failed: rather one that says more than that there is no broker.
        """
        if not self.several:
            (only,) = self._order
            return only, await attempt(only)
        waiting, errors = self._order[:], list[Exception]()
        attempts: dict[asyncio.Future[_T], Server] = {}
        try:
            while waiting or attempts:
                if waiting:
                    server = waiting.pop(0)
                    attempts[asyncio.ensure_future(attempt(server))] = server
                timeout_s = head_start_s if waiting else None
                ended, _ = await asyncio.wait(attempts, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(ended, key=list(attempts).index):
                    server = attempts.pop(task)
                    try:
                        result = task.result()
                    except Exception as error:  # noqa: BLE001 -- whatever an attempt raises is for the caller
                        errors.append(error)
                        self.failed(server)
                    else:
                        self._prefer(server, [*attempts.values()])
                        return server, result
            raise min(errors, key=lambda error: isinstance(error, BrokerUnavailableError))
        finally:
            self._give_up(attempts, discard)

    def _prefer(self, server: Server, slower: Iterable[Server]) -> None:
        for each in slower:
            self.failed(each)
        self._order.remove(server)
        self._order.insert(0, server)

    def _give_up(self, attempts: Iterable[asyncio.Future[_T]], discard: Callable[[_T], object]) -> None:
        """Cancel ``attempts`` without waiting: a server that does not answer takes its time for that too."""
        for task in attempts:
            task.cancel()
            late = asyncio.ensure_future(_ended(task, discard))
            self._late.add(late)
            late.add_done_callback(self._late.discard)


async def _ended(attempt: asyncio.Future[_T], discard: Callable[[_T], object]) -> None:
    await asyncio.wait({attempt})
    if not attempt.cancelled() and attempt.exception() is None:
        discard(attempt.result())


class Outage:
    """Logs once that the broker is away and once that it is back, however many connections notice.

    Attributes:
        reason: why it cannot be reached now; "": it can, as far as is known.
    """

    def __init__(self, address: str) -> None:
        self.reason = ""
        self._address = address
        self._since: float | None = None

    def begin(self, error: TransportError) -> None:
        """Report a failure; the first one of an outage is logged."""
        self.reason = str(error)
        if self._since is not None:
            return
        self._since = time.monotonic()
        if isinstance(error, BrokerUnavailableError):
            _log.warning("no broker at %s (%s): waiting for one", self._address, error.reason)
        else:
            _log.warning("%s: connecting again", error)

    def end(self, address: str = "") -> None:
        """Report a success, at the ``address`` of one of several servers."""
        if self._since is None:
            return
        where = address or self._address
        _log.info("connected to the broker at %s after %.1f s", where, time.monotonic() - self._since)
        self._since, self.reason = None, ""


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
