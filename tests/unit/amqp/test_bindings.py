"""Which messages a binding takes, as far as its exchange tells."""

from __future__ import annotations

import pytest

from backpressure.amqp.bindings import takes, topic_matches


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
    assert takes(kind, pattern, key) is taken


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        *(("#", "", True), ("a.#", "a", True), ("#.b", "a.a.b", True), ("#.b.#", "a.b.c", True), ("*", "", True)),
        *(("*.b", "b", False), ("a.#.c", "a.c", True), ("a.*.c", "a.c", False), ("#.#", "x", True)),
        ("a", "ab", False),
    ],
)
def test_topics_match_words(pattern: str, key: str, matches: bool) -> None:
    assert topic_matches(pattern, key) is matches


def test_a_pattern_of_many_hashes_is_matched_in_bounded_time() -> None:
    assert not topic_matches(".".join(["#", "a"] * 60), ".".join(["a"] * 59 + ["b"]))
