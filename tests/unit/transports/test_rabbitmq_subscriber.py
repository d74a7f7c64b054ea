"""Which acknowledgements can be sent as one."""

from __future__ import annotations

import random

from backpressure.transports.rabbitmq.subscriber import Unsettled


def holding(*tags: int) -> Unsettled:
    unsettled = Unsettled()
    for tag in tags:
        unsettled.delivered(tag)
    return unsettled


def acked(unsettled: Unsettled, *tags: int) -> list[tuple[int, bool]]:
    for tag in tags:
        unsettled.ack(tag)
    return unsettled.take_acks()


def test_a_run_from_the_oldest_on_is_one_frame() -> None:
    unsettled = holding(1, 2, 3, 4)
    assert acked(unsettled, 1, 2, 3) == [(3, True)]
    assert acked(unsettled, 4) == [(4, False)]
    assert acked(unsettled) == []


def test_what_comes_after_an_open_message_is_settled_one_by_one() -> None:
    unsettled = holding(1, 2, 3, 4)
    assert acked(unsettled, 2, 4) == [(2, False), (4, False)]
    assert acked(unsettled, 1, 3) == [(3, True)]


def test_a_message_that_was_refused_is_not_acknowledged_and_does_not_block_others() -> None:
    unsettled = holding(1, 2, 3)
    unsettled.forget(2)
    assert acked(unsettled, 1, 3) == [(3, True)]
    assert acked(unsettled, 2) == []


def test_everything_up_to_a_tag_can_be_settled() -> None:
    unsettled = holding(1, 2, 3)
    unsettled.ack(2, multiple=True)
    assert unsettled.take_acks() == [(2, True)]
    assert acked(unsettled, 3, 3, 9) == [(3, False)]


def test_in_any_order_each_message_is_acknowledged_exactly_once_and_never_early() -> None:
    source = random.Random(7)
    for _ in range(200):
        tags = list(range(1, 12))
        unsettled = holding(*tags)
        at_the_broker, allowed = set(tags), set[int]()
        source.shuffle(tags)
        while tags:
            turn = [tags.pop() for _ in range(min(len(tags), source.randint(1, 4)))]
            allowed |= set(turn)
            for tag, multiple in acked(unsettled, *turn):
                settled = {each for each in at_the_broker if each <= tag} if multiple else {tag} & at_the_broker
                assert settled
                assert settled <= allowed
                at_the_broker -= settled
        assert not at_the_broker
