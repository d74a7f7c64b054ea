"""Which queues a message reaches, by what is known of exchanges and bindings."""

from __future__ import annotations

import pytest
from pamqp import commands

from backpressure.proxy.routing import KnownBinding, Topology


def test_the_default_exchange_leads_to_the_queue_of_that_name() -> None:
    assert Topology().queues("", "orders") == {"orders"}


@pytest.mark.parametrize(
    ("kind", "pattern", "key", "reached"),
    [
        ("direct", "a", "a", True),
        ("direct", "a", "b", False),
        ("direct", "#", "b", False),
        ("fanout", "a", "b", True),
        ("topic", "a.*", "a.b", True),
        ("topic", "a.*", "a.b.c", False),
        ("headers", "", "b", True),
        ("x-consistent-hash", "1", "b", True),
        ("", "a", "a", True),
        ("", "a", "b", False),
        ("", "a.#", "a.b.c", True),
    ],
)
def test_a_binding_matches_by_the_type_of_its_exchange(kind: str, pattern: str, key: str, reached: bool) -> None:
    topology = Topology()
    topology.declare("events", kind)
    topology.bind(KnownBinding("events", "orders", pattern))
    assert topology.queues("events", key) == ({"orders"} if reached else set())


def test_exchanges_may_be_bound_in_a_circle_and_lead_to_an_alternate() -> None:
    topology = Topology()
    topology.learn(commands.Exchange.Declare(0, "one", "fanout", arguments={"alternate-exchange": "rest"}), "")
    topology.learn(commands.Exchange.Declare(0, "rest", "fanout"), "")
    topology.learn(commands.Queue.Bind(0, "", "rest", "", False, {}), "leftover")
    assert topology.queues("one", "k") == {"leftover"}
    topology.learn(commands.Exchange.Bind(0, "two", "one", "", False, {}), "")
    topology.learn(commands.Exchange.Bind(0, "one", "two", "", False, {}), "")
    topology.learn(commands.Queue.Bind(0, "orders", "two", "", False, {}), "")
    assert topology.queues("one", "k") == {"orders"}
    topology.learn(commands.Queue.Delete(0, "orders"), "")
    assert topology.queues("one", "k") == set()


def test_a_list_of_the_broker_replaces_what_passed_but_not_what_passed_meanwhile() -> None:
    topology = Topology([KnownBinding("configured", "kept", "#")])
    topology.bind(KnownBinding("events", "old", "a"))
    topology.about_to_list()
    topology.bind(KnownBinding("events", "meanwhile", "a"))
    topology.replace([("events", "direct", "")], [KnownBinding("events", "listed", "a")])
    assert topology.queues("events", "a") == {"meanwhile", "listed"}
    assert topology.queues("configured", "any") == {"kept"}


def test_only_a_change_makes_a_new_version() -> None:
    topology = Topology()
    topology.bind(KnownBinding("events", "orders", "a"))
    before = topology.version
    topology.bind(KnownBinding("events", "orders", "a"))
    topology.replace([], [KnownBinding("events", "orders", "a")])
    assert topology.version == before
