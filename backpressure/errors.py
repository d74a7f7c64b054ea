"""All exceptions of the package.

Every error that users can see is a `PaceError`. It says what happened, carries the data behind that message, and has
the exit code of a command that ends with it (2: bad usage or configuration, 3: could not run or finish, 4: a job
ended with messages undelivered).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

__all__ = [
    "AccessRefusedError",
    "AnotherBrokerError",
    "BackpressureError",
    "BrokerUnavailableError",
    "ConfigError",
    "ExchangeNotFoundError",
    "ExperimentError",
    "FeedbackError",
    "MissingExtraError",
    "NotConnectedError",
    "PaceError",
    "PlatformError",
    "PortTakenError",
    "PreconditionFailedError",
    "QueueNotFoundError",
    "RefusedError",
    "TransportError",
    "UncarriableError",
    "UnconfirmedError",
    "UndeliveredError",
    "UnknownNameError",
    "UnroutableError",
    "UnsupportedError",
    "WindowUnavailableError",
]


_SECRETS = ("password", "token", "secret")


class PaceError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 3


class ConfigError(PaceError):
    """A setting, flag, scenario key or request field has a value that is not allowed."""

    exit_code = 2

    def __init__(self, key: str, value: object, allowed: str, source: str = "") -> None:
        """Name the ``key``, its ``value``, what is ``allowed`` and the ``source`` of the value.

        The error is shown to people and in logs, so it does not keep a value that is, or may be, a secret.
        """
        where = f" (from {source})" if source else ""
        self.key = key
        self.value = _presentable(key, value)
        super().__init__(f"{key} = {self.value!r}{where}: {allowed}")
        self.allowed = allowed
        self.source = source


def _presentable(key: str, value: object) -> object:
    """Hide secrets, even under a misspelled name, and user and password in a URL."""
    words = re.split("[^a-z]+", key.lower())
    if "pass" in words or any(difflib.get_close_matches(word, _SECRETS, cutoff=0.8) for word in words):
        return "***"
    return re.sub(r"//.*@", "//***@", value) if isinstance(value, str) else value


class UnknownNameError(PaceError):
    """Nothing has the requested name."""


class FeedbackError(PaceError):
    """A feedback report that this version cannot read."""


class BackpressureError(PaceError):
    """A message was not sent in time, because the consumers of its queue are behind. The broker has not seen it."""

    def __init__(self, queue: str, retry_after_s: float, reason: str) -> None:
        """``retry_after_s``: when it is worth another attempt; ``reason``: why the law holds messages back."""
        super().__init__(f"{queue!r} takes nothing more for now, try again in {retry_after_s:.1f} s: {reason}")
        self.queue = queue
        self.retry_after_s = retry_after_s
        self.reason = reason


class TransportError(PaceError):
    """The broker refused something, or the connection to it failed."""


class BrokerUnavailableError(TransportError):
    """No broker answers at the address."""

    def __init__(self, address: str, reason: str, what: str = "broker") -> None:
        """``address`` is the URL without its password; ``what`` was expected there."""
        super().__init__(f"no {what} at {address}: {reason}")
        self.address = address
        self.reason = reason


class NotConnectedError(TransportError):
    """The operation needs an open channel, and there is none at the moment."""


class AccessRefusedError(TransportError):
    """The broker does not accept these credentials or this virtual host."""

    def __init__(self, address: str, reason: str) -> None:
        """``address`` is the broker URL without its password."""
        super().__init__(f"access to {address} refused: {reason}")
        self.address = address
        self.reason = reason


class AnotherBrokerError(TransportError):
    """A management API is not that of the broker we are connected to: its numbers have nothing to do with ours."""

    def __init__(self, url: str) -> None:
        """``url`` is its address."""
        super().__init__(f"the management API at {url} is another broker's; set broker.management_url")


class UndeliveredError(PaceError):
    """A job came to its end, and not all of its messages to a queue."""

    exit_code = 4


class RefusedError(TransportError):
    """A message is refused because too many are waiting, usually in the queue: a later attempt may succeed."""


class UncarriableError(TransportError):
    """The broker will never accept this message from us: sending it again is useless."""


class UnconfirmedError(TransportError):
    """A message was sent, and the time was over before the broker had answered: it may or may not have taken it."""


class UnroutableError(TransportError):
    """The broker has no queue for this message."""


class UnsupportedError(TransportError):
    """This broker cannot do what was requested, and waiting does not help; the message says what to do instead."""


class QueueNotFoundError(TransportError):
    """The queue does not exist (AMQP 404)."""

    def __init__(self, queue: str, hint: str = "") -> None:
        """``queue`` is the requested name; ``hint`` says what to do."""
        super().__init__(f"queue {queue!r} does not exist{hint and ': '}{hint}")
        self.queue = queue


class ExchangeNotFoundError(TransportError):
    """The exchange does not exist (AMQP 404)."""

    def __init__(self, exchange: str, hint: str = "") -> None:
        """``exchange`` is the requested name; ``hint`` says what to do."""
        super().__init__(f"exchange {exchange!r} does not exist{hint and ': '}{hint}")
        self.exchange = exchange


class PreconditionFailedError(TransportError):
    """A queue or exchange exists with other arguments than the ones declared (AMQP 406)."""

    exit_code = 2

    def __init__(self, name: str, argument: str, reply_text: str, advice: Sequence[tuple[str, str]] = ()) -> None:
        """``argument`` is the one that differs; ``reply_text`` is the broker's own message.

        ``advice``: what to do about it, and how; the least harmful step comes first.
        """
        steps = [f"\n  {number}. {what}: {how}" for number, (what, how) in enumerate(advice, start=1)]
        super().__init__(f"{name!r} already exists with another {argument}: {reply_text}{''.join(steps)}")
        self.name = name
        self.argument = argument
        self.reply_text = reply_text

    def advised(self, advice: Sequence[tuple[str, str]]) -> PreconditionFailedError:
        """Return the same error with ``advice``."""
        return PreconditionFailedError(self.name, self.argument, self.reply_text, advice)


class PortTakenError(PaceError):
    """One of our servers cannot listen, because the port is taken."""

    def __init__(self, host: str, port: int, flag: str) -> None:
        """``flag`` is the command-line option that sets another port."""
        super().__init__(f"port {port} on {host} is taken: choose another one with {flag} (0 picks a free one)")
        self.host = host
        self.port = port
        self.flag = flag


class WindowUnavailableError(PaceError):
    """The requested window cannot be opened."""

    def __init__(self, reason: str) -> None:
        """State the ``reason`` and the alternative."""
        super().__init__(f"cannot open a window: {reason}; without --window, --verbose prints every message")
        self.reason = reason


class MissingExtraError(PaceError, ImportError):
    """A feature needs libraries that the core of the package does not bring."""

    exit_code = 2

    def __init__(self, extra: str, feature: str) -> None:
        """``feature`` needs ``extra``, one of the package's."""
        self.remedy = f"pip install 'pace-matching[{extra}]'"
        super().__init__(f"{feature} needs the extra {extra}: {self.remedy}")
        self.extra = extra
        self.feature = feature


class PlatformError(PaceError):
    """This operating system lacks what a feature needs."""

    exit_code = 2

    def __init__(self, feature: str, needs: str) -> None:
        """``feature`` needs what ``needs`` names."""
        super().__init__(f"{feature} does not work on Windows: it needs {needs} (WSL has them; see docs/platforms.md)")
        self.feature = feature
        self.needs = needs


class ExperimentError(PaceError):
    """An experiment could not start or could not finish."""
