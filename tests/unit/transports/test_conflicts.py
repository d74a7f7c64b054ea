"""Advice about a queue that exists with other arguments: what it names exists, and would help."""

from __future__ import annotations

import pytest

from backpressure.catalogue import find_field
from backpressure.errors import PreconditionFailedError
from backpressure.settings import QueueSettings
from backpressure.transports.queue_declarations import advised


def advice(name: str, argument: str, received: str, current: str, **queue: object) -> list[str]:
    settings = QueueSettings(**queue)  # type: ignore[arg-type]  # keyword arguments of the settings
    reply = f"PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{name}' in vhost '/': "
    error = PreconditionFailedError(name, argument, f"{reply}received {received} but current is {current}")
    return [line.partition(". ")[2] for line in str(advised(error, settings)).splitlines()[1:]]


@pytest.mark.parametrize(
    ("argument", "received", "current", "declared", "remedy"),
    [
        ("x-queue-mode", "none", "the value 'lazy' of type 'longstr'", {}, "--lazy (queue.type = lazy)"),
        ("x-queue-mode", "the value 'lazy' of type 'longstr'", "none", {"type": "lazy"},
         "without --lazy (queue.type = classic)"),
        ("durable", "'true'", "'false'", {}, "--no-durable"),
        ("durable", "'false'", "'true'", {"durable": False}, "--durable"),
        ("x-max-length", "none", "the value '50' of type 'signedint'", {}, "PACE_QUEUE__MAX_LENGTH=50"),
        ("x-max-length", "the value '50' of type 'signedint'", "none", {}, "PACE_QUEUE__MAX_LENGTH=none"),
        ("x-message-ttl", "none", "the value '5' of type 'signedint'", {}, "PACE_QUEUE__MESSAGE_TTL_MS=5"),
        ("x-queue-type", "'classic'", "'quorum'", {}, "PACE_QUEUE__TYPE=quorum"),
    ],
)  # fmt: skip
def test_the_first_advice_on_a_work_queue_declares_nothing_and_the_last_deletes_it(
    argument: str, received: str, current: str, declared: dict[str, object], remedy: str
) -> None:
    nothing, same, another, last = advice("work.queue", argument, received, current, **declared)
    assert nothing.endswith(": --predeclared")
    assert same == f"to declare it as it is: {remedy}"
    assert another.endswith("--queue work.queue.new")
    assert last.endswith("pace cleanup work.queue")
    if "PACE_QUEUE__" in same:
        find_field("queue." + same.partition("PACE_QUEUE__")[2].partition("=")[0].lower())  # there is such a setting


def test_advice_on_a_dead_letter_queue_is_about_its_work_queue() -> None:
    another, delete = advice("work.queue.dlq", "x-max-length", "none", "the value '5' of type 'signedint'")
    assert another.endswith("--queue work.queue.new")
    assert delete.endswith("pace cleanup work.queue.dlq")


def test_advice_on_the_audit_queue_is_about_the_audit_queue() -> None:
    current = "the value '5' of type 'signedint'"
    bound, another, _ = advice("audit.queue", "x-max-length", "none", current, auditing=True)
    assert bound.endswith("PACE_QUEUE__AUDIT_MAX_LENGTH=5")
    assert another.endswith("--audit-queue audit.queue.new")


def test_advice_on_an_exchange_deletes_nothing() -> None:
    first, second = advice("direct.exchange", "type", "'direct'", "'fanout'")
    assert "--predeclared and PACE_QUEUE__EXCHANGE=direct.exchange" in first
    assert second.endswith("PACE_QUEUE__EXCHANGE=direct.exchange.new")


def test_an_argument_that_no_setting_of_ours_declares_is_left_to_another_queue() -> None:
    nothing, another, _ = advice("work.queue", "x-single-active-consumer", "none", "the value 'true' of type 'bool'")
    assert nothing.endswith("--predeclared")
    assert another.startswith("to use another queue")
