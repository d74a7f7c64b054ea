"""The confirm window: tags settle singly or in runs, and nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.limiters import ConfirmWindow


def window_of(*tags: int, limit: int = 10) -> ConfirmWindow[str]:
    window = ConfirmWindow[str](limit)
    for tag in tags:
        window.sent(tag, f"message {tag}")
    return window


def test_a_confirm_settles_its_own_tag_only() -> None:
    window = window_of(1, 2, 3)
    assert window.settle(2, multiple=False) == ["message 2"]
    assert window.items() == ["message 1", "message 3"]


def test_a_multiple_confirm_settles_every_earlier_tag_oldest_first() -> None:
    window = window_of(1, 2, 3, 4)
    window.settle(2, multiple=False)
    assert window.settle(3, multiple=True) == ["message 1", "message 3"]
    assert window.items() == ["message 4"]


def test_an_unknown_tag_settles_nothing() -> None:
    window = window_of(5, 6)
    assert window.settle(4, multiple=False) == []
    assert window.settle(4, multiple=True) == []
    assert window.settle(5, multiple=False) == ["message 5"]
    assert window.settle(5, multiple=False) == []
    assert window.items() == ["message 6"]


def test_the_window_closes_at_its_limit_and_opens_as_confirms_come() -> None:
    window = window_of(1, 2, limit=2)
    assert window.space == 0
    window.settle(1, multiple=False)
    assert window.space == 1


def test_a_lower_limit_closes_the_window_until_enough_is_settled() -> None:
    window = window_of(1, 2, 3, limit=3)
    window.limit = 1
    assert window.space == 0
    window.settle(2, multiple=True)
    assert window.space == 0
    window.settle(3, multiple=True)
    assert window.space == 1


def test_a_lost_connection_hands_everything_back_oldest_first() -> None:
    window = window_of(1, 2, 3)
    window.settle(2, multiple=False)
    assert window.lost() == ["message 1", "message 3"]
    assert (len(window), window.lost()) == (0, [])


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 35), st.booleans())))
def test_every_message_is_settled_once_or_still_in_flight(count: int, settles: list[tuple[int, bool]]) -> None:
    window = window_of(*range(1, count + 1), limit=30)
    open_tags = set(range(1, count + 1))
    for tag, multiple in settles:
        expected = {other for other in open_tags if other == tag or (multiple and other < tag)}
        assert window.settle(tag, multiple=multiple) == [f"message {other}" for other in sorted(expected)]
        open_tags -= expected
        assert (len(window), window.space) == (len(open_tags), 30 - len(open_tags))
    assert window.lost() == [f"message {tag}" for tag in sorted(open_tags)]
