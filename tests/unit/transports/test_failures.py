"""What pika's exceptions mean for a user."""

from __future__ import annotations

import socket
import ssl

import pytest
from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

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
from backpressure.transports.rabbitmq.failures import _HOW_TO_LOG_IN, dial_error, lost_error, request_error

ADDRESS = "amqp://broker.example:5672"


def wrapped(error: BaseException) -> Exception:
    """As pika reports a failure below AMQP."""
    failed = workflow.AMQPConnectionWorkflowFailed([workflow.AMQPConnectorSocketConnectError(error)])
    return exceptions.AMQPConnectionError(failed)


def untrusted(why: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_message = why  # set by the TLS library, not by the constructor
    return error


def closed(code: int, text: str) -> exceptions.ChannelClosedByBroker:
    return exceptions.ChannelClosedByBroker(code, text)


def test_a_name_that_the_broker_has_cut_off_is_the_one_that_was_asked_for() -> None:
    name = "ü" * 125
    cut = f"NOT_FOUND - no queue '{name}' in vhost '/'".encode()[:255]
    error = request_error(closed(404, cut.decode(errors="ignore")), ADDRESS, name)
    assert isinstance(error, QueueNotFoundError)
    assert error.queue == name
    as_bytes = exceptions.ChannelClosedByBroker(404, b"NOT_FOUND - no queue 'caf\xe9")  # pika's for what is not UTF-8
    assert isinstance(request_error(as_bytes, ADDRESS, name), QueueNotFoundError)
    assert isinstance(lost_error(exceptions.ConnectionClosedByBroker(501, b"caf\xe9"), ADDRESS), NotConnectedError)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (wrapped(ConnectionRefusedError(111, "Connection refused")), "connection refused"),
        (wrapped(socket.gaierror(-2, "Name or service not known")), "host name unknown"),
        (wrapped(TimeoutError("TCP connection attempt timed out: 'broker.example'/…")), "no answer in time"),
        (wrapped(workflow.AMQPConnectorStackTimeout("Timeout while …")), "no answer in time"),
        (exceptions.ConnectionOpenAborted("aborted"), "no answer in time"),
        (exceptions.IncompatibleProtocolError("StreamLostError: …"), "what listens there does not speak AMQP 0-9-1"),
        (exceptions.StreamLostError("Transport indicated EOF"), "connection lost"),
        (
            exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED - broker forced connection closure"),
            "CONNECTION_FORCED - broker forced connection closure (320)",
        ),
        # pika takes any end during the login for a refusal; a broker that is going down ends it as well
        (
            exceptions.ProbableAuthenticationError("StreamLostError: ('Transport indicated EOF',)"),
            "the broker ended the login",
        ),
        (
            exceptions.ProbableAccessDeniedError("ConnectionClosedByBroker: (530) \"NOT_ALLOWED - '/' is down\""),
            "NOT_ALLOWED - '/' is down (530)",
        ),
    ],
)
def test_what_may_heal_is_a_broker_that_is_not_available(error: Exception, reason: str) -> None:
    failure = dial_error(error, ADDRESS)
    assert isinstance(failure, BrokerUnavailableError)
    assert str(failure) == f"no broker at {ADDRESS}: {reason}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            exceptions.ProbableAuthenticationError("ConnectionClosedByBroker: (403) 'ACCESS_REFUSED - Login was …'"),
            f"ACCESS_REFUSED - Login was … (403); {_HOW_TO_LOG_IN}",
        ),
        (
            exceptions.ProbableAccessDeniedError(
                "ConnectionClosedByBroker: (530) \"NOT_ALLOWED - vhost 'x' not found\""
            ),
            "NOT_ALLOWED - vhost 'x' not found (530)",
        ),
        (wrapped(untrusted("self-signed certificate")), "certificate not trusted: self-signed certificate"),
    ],
)
def test_what_waiting_cannot_heal_is_refused_access(error: Exception, reason: str) -> None:
    failure = dial_error(error, ADDRESS)
    assert isinstance(failure, AccessRefusedError)
    assert failure.reason == reason


def test_a_connection_that_ends_says_why() -> None:
    assert str(lost_error(exceptions.AMQPHeartbeatTimeout("…"), ADDRESS)) == (
        f"lost the broker at {ADDRESS} (heartbeats missed)"
    )
    assert isinstance(lost_error(exceptions.ConnectionBlockedTimeout("…"), ADDRESS), NotConnectedError)
    own = QueueNotFoundError("q")
    assert lost_error(own, ADDRESS) is own


def test_a_missing_queue_is_named() -> None:
    error = request_error(closed(404, "NOT_FOUND - no queue 'work.queue' in vhost '/'"), ADDRESS)
    assert isinstance(error, QueueNotFoundError)
    assert error.queue == "work.queue"


def test_a_missing_exchange_is_not_taken_for_a_queue() -> None:
    error = request_error(closed(404, "NOT_FOUND - no exchange 'x' in vhost '/'"), ADDRESS)
    assert not isinstance(error, QueueNotFoundError)
    assert isinstance(error, ExchangeNotFoundError)
    assert error.exchange == "x"
    queue_like = request_error(closed(404, "NOT_FOUND - no exchange 'my.queue' in vhost '/'"), ADDRESS)
    assert isinstance(queue_like, ExchangeNotFoundError)


def test_a_failed_precondition_names_the_argument_that_differs() -> None:
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'work.queue' in vhost '/': "
        "received '5' but current is '10'"
    )
    error = request_error(closed(406, text), ADDRESS)
    assert isinstance(error, PreconditionFailedError)
    assert (error.name, error.argument, error.reply_text) == ("work.queue", "x-max-length", text)


def test_any_other_refusal_carries_the_brokers_words() -> None:
    text = "PRECONDITION_FAILED - unknown delivery tag 7"
    error = request_error(closed(406, text), ADDRESS)
    assert type(error) is TransportError
    assert text in str(error)


@pytest.mark.parametrize(
    ("code", "text", "user"),
    [
        (403, "ACCESS_REFUSED - queue 'orders' in vhost '/' in exclusive use", "another consumer"),
        (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'orders' in vhost '/'", "connection"),
    ],
)
def test_a_queue_in_exclusive_use_is_no_matter_of_credentials(code: int, text: str, user: str) -> None:
    error = request_error(closed(code, text), ADDRESS)
    assert isinstance(error, UnsupportedError)
    assert str(error).startswith("queue 'orders' is in exclusive use")
    assert user in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "PRECONDITION_FAILED - consumer prefetch count is not set for stream queue 'events' in vhost '/'",
        "PRECONDITION_FAILED - consumer prefetch count is not set for 'queue 'events' in vhost '/''",
    ],
)
def test_a_stream_that_is_consumed_is_named_as_what_it_is(text: str) -> None:
    error = request_error(exceptions.ChannelClosedByBroker(406, text), "amqp://there")
    assert isinstance(error, UnsupportedError)
    assert str(error).startswith("'events' is a stream: consumers take nothing out of it")
