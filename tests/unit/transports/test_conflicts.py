"""A queue that exists with other arguments: processes agree on them, and advice names what exists and would help."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from backpressure.catalogue import find_field
from backpressure.errors import PreconditionFailedError, TransportError
from backpressure.settings import BrokerSettings, QueueSettings
from backpressure.transports.management_models import PolicyInfo
from backpressure.transports.queue_declarations import advised
from backpressure.transports.rabbitmq import admin


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


class YoungNode:
    """A management API whose first answers are none."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def overview(self) -> Any:
        self.failures -= 1
        if self.failures >= 0:
            raise TransportError("HTTP 500 Internal Server Error")
        return SimpleNamespace(cluster_name="c")

    async def policies(self) -> list[PolicyInfo]:
        return []


@pytest.mark.parametrize(("hosts", "failures", "possible"), [("a,b", 4, True), ("a,b", 5, False), ("a", 1, False)])
def test_processes_on_a_young_cluster_agree_on_how_the_bound_is_held(
    monkeypatch: pytest.MonkeyPatch, hosts: str, failures: int, possible: bool
) -> None:
    monkeypatch.setattr(admin, "_AGAIN_AFTER_S", 0.0)
    bound = admin.BoundPolicy(BrokerSettings(host=hosts))
    monkeypatch.setattr(bound, "_management", YoungNode(failures))
    assert asyncio.run(bound.is_possible("work", "c")) is possible


@pytest.mark.parametrize(("hosts", "possible"), [("a,b", True), ("a", False)])
def test_the_nodes_of_a_cluster_may_have_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch, hosts: str, possible: bool
) -> None:
    bound = admin.BoundPolicy(BrokerSettings(host=hosts))
    monkeypatch.setattr(bound, "_management", YoungNode(0))
    assert asyncio.run(bound.is_possible("work", "another")) is possible
