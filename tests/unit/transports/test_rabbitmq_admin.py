"""Which messages a binding takes, as far as its exchange tells."""

from __future__ import annotations

import pytest

from backpressure.transports.rabbitmq.admin import leads


@pytest.mark.parametrize(
    ("kind", "pattern", "key", "taken"),
    [
        ("direct", "order.*", "order.new", False),
        ("direct", "order.new", "order.new", True),
        ("topic", "order.*", "order.new", True),
        ("topic", "order.*", "order.new.eu", False),
        ("topic", "order.*", "order", False),
        ("topic", "order.#", "order", True),
        ("topic", "#.eu", "order.new.eu", True),
        ("topic", "order.#.eu", "order.new.old.eu", True),
        ("topic", "#", "", True),
        ("topic", "*.new", "order.old", False),
        ("fanout", "", "order.new", True),
        ("headers", "", "order.new", True),
        ("x-consistent-hash", "10", "order.new", True),
    ],
)
def test_a_binding_takes_what_its_exchange_says_or_may_say(kind: str, pattern: str, key: str, taken: bool) -> None:
    assert leads(kind, pattern, key) is taken
