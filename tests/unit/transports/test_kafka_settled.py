"""Which offsets are settled, in any order, and what a commit says about them."""

from __future__ import annotations

import random

import pytest

from backpressure.transports.kafka.settled import Commit, Mark, PartitionProgress


def fetched(*offsets: int, mark: Mark | None = None) -> PartitionProgress:
    progress = PartitionProgress(mark)
    for offset in offsets:
        if progress.receive(offset):
            progress.deliver(offset)
    return progress


def test_nothing_is_committed_before_anything_was_fetched() -> None:
    assert PartitionProgress(None).commit(held=True) is None


def test_only_what_is_settled_without_a_gap_is_committed_and_the_rest_is_recorded() -> None:
    progress = fetched(*range(100, 111))
    for offset in (100, 101, 105, 106, 107, 110):
        progress.settle(offset)
    assert progress.commit(held=True) == Commit(102, "held 111 105-107,110,")


def test_when_all_is_settled_the_next_offset_is_committed() -> None:
    progress = fetched(5, 6)
    for offset in (6, 5):
        progress.settle(offset)
    assert progress.commit(held=False) == Commit(7, "returned 7 ")


def test_offsets_that_the_log_skips_hold_nothing_up() -> None:
    progress = fetched(1, 2, 5, 9)
    for offset in (1, 2, 9, 5):
        progress.settle(offset)
    assert progress.commit(held=True) == Commit(10, "held 10 ")


def test_a_consumer_that_takes_over_skips_what_is_settled_and_knows_redeliveries() -> None:
    mark = Mark.parse("returned 8 4-5,")
    progress = PartitionProgress(mark)
    received = [offset for offset in range(3, 10) if progress.receive(offset)]
    assert received == [3, 6, 7, 8, 9]
    assert [progress.deliver(offset) for offset in received] == [True, True, True, False, False]
    progress.settle(3)
    assert progress.commit(held=True) == Commit(6, "held 10 ")


def test_an_emptied_partition_shows_by_an_offset_that_was_there_before() -> None:
    progress = fetched(7)
    assert not progress.restarted(8)
    assert progress.restarted(0)


def test_metadata_never_outgrows_what_brokers_accept() -> None:
    progress = fetched(*range(10_000))
    for offset in range(1, 10_000, 2):
        progress.settle(offset)
    commit = progress.commit(held=True)
    assert commit is not None
    assert len(commit.metadata) <= 4096
    told = Mark.parse(commit.metadata)
    assert told is not None
    assert told.ranges[:2] == ((1, 1), (3, 3))


@pytest.mark.parametrize(
    "metadata", [None, "", "somebody else's", "held", "held x ", "held 5 3-x,", "kept 5 1-2,", "held 5 1 2"]
)
def test_the_metadata_of_others_is_not_a_mark(metadata: str | None) -> None:
    assert Mark.parse(metadata) is None


def test_a_mark_counts_what_is_settled_from_an_offset_on() -> None:
    mark = Mark(held=True, delivered=12, ranges=((3, 5), (8, 8)))
    assert [mark.settled_from(offset) for offset in (0, 4, 6, 9)] == [4, 3, 1, 0]


def test_a_mark_survives_the_way_through_text() -> None:
    mark = Mark(held=False, delivered=120, ranges=((105, 107), (110, 110)))
    assert Mark.parse(str(mark)) == mark


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_order_nothing_unsettled_is_skipped_and_nothing_settled_comes_again(seed: int) -> None:
    chance = random.Random(seed)
    unsettled = set(range(50))
    mark, start = None, 0
    while unsettled:
        progress = PartitionProgress(mark)
        received = [offset for offset in range(start, 50) if progress.receive(offset)]
        assert set(received) == unsettled
        for offset in chance.sample(received, chance.randint(1, len(received))):
            progress.settle(offset)
            unsettled.discard(offset)
        commit = progress.commit(held=False)
        assert commit is not None
        mark, start = Mark.parse(commit.metadata), commit.offset
    assert start == 50
