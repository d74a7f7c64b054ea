"""How messages are distributed over the partitions of a topic."""

from __future__ import annotations

from backpressure.transports.kafka.publisher import Spread


def dealt(spread: Spread, count: int, topic: str = "work") -> list[int | None]:
    return [spread.next(topic) for _ in range(count)]


def test_partitions_take_turns() -> None:
    spread = Spread()
    spread.learn("work", {2: "two", 0: "none", 1: "one"})
    assert dealt(spread, 7) == [0, 1, 2, 0, 1, 2, 0]


def test_each_topic_has_turns_of_its_own() -> None:
    spread = Spread()
    spread.learn("work", [0, 1])
    spread.learn("audit", [0, 1])
    assert [(spread.next("work"), spread.next("audit")) for _ in range(3)] == [(0, 0), (1, 1), (0, 0)]


def test_an_unknown_topic_has_no_turns_until_its_partitions_are_told() -> None:
    spread = Spread()
    assert dealt(spread, 2) == [None, None]
    assert spread.topics == ("work",)
    spread.learn("work", [0, 1])
    assert dealt(spread, 3) == [0, 1, 0]


def test_partitions_that_are_added_get_their_turn_and_a_missing_topic_has_none() -> None:
    spread = Spread()
    spread.learn("work", [0, 1])
    assert dealt(spread, 1) == [0]
    spread.learn("work", [0, 1, 2])
    assert dealt(spread, 4) == [0, 1, 2, 0]
    spread.learn("work", [])
    assert dealt(spread, 1) == [None]


def test_hearing_the_same_again_does_not_disturb_the_turns() -> None:
    spread = Spread()
    spread.learn("work", [0, 1, 2])
    assert dealt(spread, 2) == [0, 1]
    spread.learn("work", [0, 1, 2])
    assert dealt(spread, 2) == [2, 0]


def test_only_topics_that_are_used_are_looked_after() -> None:
    spread = Spread()
    spread.learn("work", [0])
    spread.learn("another", [0])
    spread.next("work")
    assert spread.topics == ("work",)
