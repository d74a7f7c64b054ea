"""Translates librdkafka's errors into ours: what went wrong in one short sentence, and whether waiting can help."""

from __future__ import annotations

import re

from confluent_kafka import KafkaError

from backpressure.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    NotConnectedError,
    QueueNotFoundError,
    TransportError,
)
from backpressure.transports.base import Cause, Refusal

MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 -- librdkafka's own codes begin so, and are documented
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 -- see above
        KafkaError._NOENT,  # noqa: SLF001 -- see above
    }
)
REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 -- see above
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_LOGIN_FAILED = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}  # noqa: SLF001 -- see above
_HOW_TO_LOG_IN = "the user and password are part of the URL: kafka://user:password@host:9092"
_BROKER_GIVEN_UP = -137  # KafkaError._DESTROY_BROKER, which older clients do not name
_AWAY = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001 -- see above
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 -- see above
        KafkaError._TIMED_OUT,  # noqa: SLF001 -- see above
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001 -- see above
        KafkaError._WAIT_COORD,  # noqa: SLF001 -- see above
        KafkaError._DESTROY,  # noqa: SLF001 -- see above
        _BROKER_GIVEN_UP,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)
_CAUSES = {
    KafkaError._QUEUE_FULL: Cause.FULL,  # noqa: SLF001 -- see above
    KafkaError.MSG_SIZE_TOO_LARGE: Cause.TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE: Cause.TOO_LARGE,
    KafkaError.INVALID_RECORD: Cause.INVALID,
    KafkaError.INVALID_TIMESTAMP: Cause.INVALID,
    KafkaError.POLICY_VIOLATION: Cause.INVALID,
    KafkaError._INVALID_ARG: Cause.INVALID,  # noqa: SLF001 -- see above
} | dict.fromkeys(REFUSED, Cause.FORBIDDEN)
_UNTRUSTED = {
    "certificate verify failed": "certificate not trusted: for another host, or by no authority of broker.ca_file",
    "alert bad certificate": "it asks for a client certificate: broker.cert_file, broker.key_file",
    "alert certificate required": "it asks for a client certificate: broker.cert_file, broker.key_file",
}


def dial_error(error: KafkaError | None, address: str) -> TransportError:
    """Return why the connection failed: an `AccessRefusedError` where waiting does not help."""
    if error is None:  # librdkafka does not report that the broker closes the connection
        return BrokerUnavailableError(
            address, "no answer in time; does it want TLS (kafka+ssl://…) or a login (user:password@…)?"
        )
    if error.code() in _LOGIN_FAILED:
        return AccessRefusedError(address, f"{reason_of(error)}; {_HOW_TO_LOG_IN}")
    if error.code() in REFUSED or reason_of(error) in _UNTRUSTED.values():
        return AccessRefusedError(address, reason_of(error))
    return BrokerUnavailableError(address, reason_of(error))


def kafka_error(error: KafkaError, address: str, queue: str = "") -> TransportError:
    """Return why a request about ``queue`` failed."""
    if error.code() in MISSING:
        return QueueNotFoundError(queue)
    if error.code() in REFUSED:
        return AccessRefusedError(address, reason_of(error))
    if error.code() in _AWAY:
        return NotConnectedError(f"lost the broker at {address} ({reason_of(error)})")
    return TransportError(f"{address} refused: {reason_of(error)} ({error.name()})")


def refusal_of(error: KafkaError, *, alone: bool = True) -> Refusal:
    """Return why a message was not written, and whether it may succeed later.

    A broker refuses a whole batch because of one message, or because of its size. So a message that was not ``alone``
    in its batch may be fine.
    """
    cause = _CAUSES.get(error.code(), Cause.FAILED)
    if not alone and cause in {Cause.TOO_LARGE, Cause.INVALID}:
        return Refusal(Cause.FAILED, f"Kafka refused the batch it was in: {reason_of(error)}")
    reason = "the producer's buffer is full" if cause is Cause.FULL else f"Kafka refused it: {reason_of(error)}"
    return Refusal(cause, reason)


def reason_of(error: KafkaError | None) -> str:
    """Return librdkafka's sentence without addresses, timings and the names of its layers."""
    if error is None or error.code() == KafkaError._TIMED_OUT:  # noqa: SLF001 -- see above
        return "no answer in time"
    for words, sentence in _UNTRUSTED.items():
        if words in error.str():
            return sentence
    text = re.sub(r"^(\S+://)?\S+/(bootstrap|\d+): ", "", error.str())
    text = re.sub(r"^Connect to \S+ failed: ", "", text)
    text = re.sub(r"^(Broker|Local): ", "", text)
    text = re.sub(r" \(after \d+ms in state .*\)$", "", text)
    return text if text[:2].isupper() else text[:1].lower() + text[1:]
