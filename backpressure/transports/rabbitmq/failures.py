"""Translates pika's exceptions into ours: what went wrong in one short sentence, and whether waiting can help."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

from pika import exceptions
from pika.adapters.utils import connection_workflow

from backpressure.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    ExchangeNotFoundError,
    NotConnectedError,
    PreconditionFailedError,
    QueueNotFoundError,
    TransportError,
    UnsupportedError,
)

_ACCESS_REFUSED, _NOT_FOUND, _LOCKED, _PRECONDITION_FAILED = 403, 404, 405, 406
_SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.IncompatibleProtocolError, "what listens there does not speak AMQP 0-9-1"),
    (exceptions.AMQPHeartbeatTimeout, "heartbeats missed"),
    (exceptions.ConnectionBlockedTimeout, "blocked for too long"),
    (exceptions.StreamLostError, "connection lost"),
    (exceptions.ConnectionOpenAborted, "no answer in time"),
    (connection_workflow.AMQPConnectorStackTimeout, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (socket.gaierror, "host name unknown"),
)
_HOW_TO_LOG_IN = (
    "give the user and password with --username and --password, RABBITMQ_USER and RABBITMQ_PASS, or in the URL"
)
_REFUSALS = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)


def dial_error(error: BaseException, address: str) -> TransportError:
    """Return why the connection failed: an `AccessRefusedError` where waiting does not help."""
    reason = _reason(error)
    if isinstance(error, exceptions.AuthenticationError) or _is_untrusted(error):
        return AccessRefusedError(address, reason if _is_untrusted(error) else f"{reason}; {_HOW_TO_LOG_IN}")
    # pika takes any end during the handshake for a refusal, also that of a broker which is shutting down
    if isinstance(error, _REFUSALS) and re.search(r"ACCESS_REFUSED|NOT_ALLOWED(?!.* is down)", reason):
        return AccessRefusedError(address, reason if "NOT_ALLOWED" in reason else f"{reason}; {_HOW_TO_LOG_IN}")
    return BrokerUnavailableError(address, reason)


def lost_error(error: BaseException, address: str) -> TransportError:
    """Say why a connection ended."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, exceptions.ChannelClosedByBroker):
        return request_error(error, address)
    return NotConnectedError(f"lost the broker at {address} ({_reason(error)})")


def request_error(error: BaseException, address: str, asked: str = "") -> TransportError:
    """Return why the broker refused a method, which it says by closing the channel.

    ``asked`` is the name in the request: a reply has 255 octets at most, so a long name is cut, in a character even.
    """
    if not isinstance(error, exceptions.ChannelClosedByBroker):
        return lost_error(error, address)
    text = _text(error.reply_text)
    found = re.search(r"(?:queue|exchange) '([^']*)'", text)
    name = found.group(1) if found else asked
    if "consumer prefetch count is not set" in text:  # only streams want one
        return stream_error(name)
    return _refusal(error.reply_code, text, name, address)


def stream_error(queue: str) -> UnsupportedError:
    """Return why a stream cannot be used."""
    return UnsupportedError(
        f"{queue!r} is a stream: consumers take nothing out of it, so its length says nothing about their pace; use a "
        "classic or a quorum queue"
    )


def _refusal(reply_code: int, text: str, name: str, address: str) -> TransportError:
    match reply_code:
        case code if code == _LOCKED or "in exclusive use" in text:
            user = "connection" if code == _LOCKED else "consumer"
            return UnsupportedError(f"queue {name!r} is in exclusive use: another {user} has it for itself")
        case code if code == _ACCESS_REFUSED:
            return AccessRefusedError(address, text)
        case code if code == _NOT_FOUND and "no queue '" in text:
            return QueueNotFoundError(name)
        case code if code == _NOT_FOUND and "no exchange '" in text:
            return ExchangeNotFoundError(name)
        case code if code == _PRECONDITION_FAILED and (argument := re.search(r"\barg '([^']*)'", text)):
            return PreconditionFailedError(name, argument.group(1), text)
        case code:
            return TransportError(f"{address} refused: {text} ({code})")


def _text(reply_text: str | bytes) -> str:
    """Return the broker's text; pika leaves it as bytes when it is not UTF-8."""
    return reply_text if isinstance(reply_text, str) else reply_text.decode(errors="replace")


def _reason(error: BaseException) -> str:
    """Return the innermost cause as a short sentence."""
    cause = list(_causes(error))[-1]
    for kind, sentence in _SENTENCES:
        if isinstance(cause, kind):
            return sentence
    match cause:
        case exceptions.ConnectionClosedByBroker():
            return f"{_text(cause.reply_text)} ({cause.reply_code})"
        case exceptions.ProbableAuthenticationError() | exceptions.ProbableAccessDeniedError():
            return _quoted_reply(cause)
        case ssl.SSLCertVerificationError():
            return f"certificate not trusted: {cause.verify_message}"
        case OSError() if cause.strerror:
            return cause.strerror.lower()
        case _:
            return str(cause) or type(cause).__name__


def _quoted_reply(cause: BaseException) -> str:
    """Return the broker's words from pika's exception: ``ConnectionClosedByBroker: (403) 'ACCESS_REFUSED - …'``."""
    found = re.search(r"\((\d+)\) (['\"])(.*?)\2", str(cause), re.DOTALL)
    return f"{found.group(3)} ({found.group(1)})" if found else "the broker ended the login"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Follow pika's wrappers inwards."""
    yield error
    inner: object = None
    match error:
        case connection_workflow.AMQPConnectionWorkflowFailed():
            inner = error.exceptions[-1]
        case connection_workflow.AMQPConnectorPhaseErrorBase():
            inner = error.exception
        case exceptions.AMQPConnectionError() if error.args:
            inner = error.args[0]
    if isinstance(inner, BaseException):
        yield from _causes(inner)


def _is_untrusted(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))
