"""When late numbers were counted."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from math import inf

import pytest

from backpressure.core.evidence import BacklogCounts, ConsumerTerms, LateCommits, OffsetReading, QueueStatistics, Steps
from backpressure.core.signals import SignalQuality


def test_a_value_was_counted_between_the_answers_between_which_it_changed() -> None:
    steps = Steps()
    assert steps.see(3, 0.0) is None  # it may be of any age
    assert steps.see(3, 0.2) is None
    assert steps.see(4, 0.4) == pytest.approx(0.3)
    assert steps.see(4, 0.6) == pytest.approx(0.3)


def test_a_value_that_stays_was_counted_again_when_the_next_count_was_due() -> None:
    steps = Steps()
    moments = [steps.see(min(int(n / 50), 3), n / 10) for n in range(300)]
    assert moments[160] == pytest.approx(14.95)
    assert moments[204] == pytest.approx(14.95)  # the next count may be late
    assert moments[214] == pytest.approx(19.95)
    assert moments[299] == pytest.approx(24.95)


def test_a_value_that_is_counted_for_each_answer_is_fresh() -> None:
    steps = Steps()
    moments = [steps.see(min(20, n), n / 10) for n in range(40)]
    assert moments[15] == pytest.approx(1.45)
    assert moments[39] == pytest.approx(3.9, abs=0.25)


def test_the_interval_of_counts_about_as_frequent_as_the_answers_is_their_mean() -> None:
    """Answers every 52 ms find a change after two of them, as a rule, and sometimes after one."""
    steps = Steps()
    for n in range(400):
        now = 0.052 * n
        moment_s = steps.see(int(now / 0.1003), now)
        if n > 40:
            assert moment_s == pytest.approx(int(now / 0.1003) * 0.1003, abs=0.03)
            assert steps.interval_s == pytest.approx(0.1, abs=0.01)


def statistics(ready: int, unacked: int, at_s: float, **how: bool) -> QueueStatistics:
    return QueueStatistics(ready=ready, unacked=unacked, arrived_s=at_s, **how)


def test_numbers_of_one_moment_are_a_count_and_those_of_two_are_not() -> None:
    counts = BacklogCounts()
    counts.on_reading(5, None, 1, 0.0)
    assert counts.latest == (None, -inf)
    counts.on_statistics(statistics(5, 7, 0.1, fresh=True))
    assert counts.latest == (12, 0.1)
    counts.on_reading(0, None, 1, 0.2)  # what they hold now is not known
    assert counts.latest == (12, 0.1)


def test_an_older_count_does_not_replace_a_newer_one() -> None:
    counts = BacklogCounts()
    counts.on_statistics(statistics(0, 9, 10.0, fresh=True))
    counts.on_statistics(statistics(0, 3, 9.0, fresh=True))
    assert counts.latest == (9, 10.0)


@pytest.mark.parametrize(
    ("terms", "held"),
    [
        (ConsumerTerms(count=2, prefetch=40), 40),
        (ConsumerTerms(count=2, prefetch=None), None),
        (ConsumerTerms(count=2, prefetch=40, auto_ack=1), None),
        (ConsumerTerms(count=1, prefetch=20), None),  # the list of consumers is late
    ],
)
def test_while_messages_wait_consumers_hold_all_they_may(terms: ConsumerTerms, held: int | None) -> None:
    counts = BacklogCounts()
    counts.on_terms(terms, 0.0)
    counts.on_reading(3, None, 2, 1.0)
    assert counts.held_at_most == held
    assert counts.latest[0] == (None if held is None else 3 + held)


def test_what_consumers_were_seen_to_hold_while_messages_waited_is_believed_more_than_their_terms() -> None:
    counts = BacklogCounts()
    counts.on_terms(ConsumerTerms(count=2, prefetch=40), 0.0)
    counts.on_reading(0, None, 2, 0.0)
    counts.on_statistics(statistics(6, 20, 1.0, fresh=True))  # only one of them is active
    counts.on_reading(3, None, 2, 2.0)
    assert counts.latest == (23, 2.0)


def test_commits_are_subtracted_from_the_ends_at_their_own_moment() -> None:
    counts = BacklogCounts()
    for tick in range(200):  # 100 messages a second come, and all but ten of them are committed every five seconds
        now = tick / 10
        committed = max(0, round(100 * 5 * (now // 5)) - 10)
        counts.on_offsets(OffsetReading(ends=(round(100 * now),), committed=(committed,), arrived_s=now))
    count, moment_s = counts.latest
    assert count == pytest.approx(5, abs=5)
    assert moment_s == pytest.approx(14.95)
    assert counts.interval_s == pytest.approx(5, abs=0.2)
    assert counts.error == pytest.approx(5)


@pytest.mark.parametrize(
    ("tell", "quality", "words"),
    [
        (lambda _counts: None, SignalQuality.BLIND, "only what is ready is told; let the consumers report"),
        (lambda counts: counts.on_statistics(statistics(1, 2, 99.9, fresh=True)), SignalQuality.COUNTED, ""),
        (lambda counts: counts.on_statistics(statistics(1, 2, 80.0, fresh=True)), SignalQuality.BLIND, "20 s old"),
        (
            lambda counts: counts.on_terms(ConsumerTerms(count=3, prefetch=None, auto_ack=2), 0.0),
            SignalQuality.BLIND,
            "2 of 3 consumers acknowledge before they work",
        ),
    ],
)
def test_what_is_not_known_is_said_with_what_to_do(
    tell: Callable[[BacklogCounts], None], quality: SignalQuality, words: str
) -> None:
    counts = BacklogCounts()
    tell(counts)
    found, missing = counts.quality(100.0, "", 60.0)
    assert found is quality
    assert words in missing
    assert bool(missing) is (quality is SignalQuality.BLIND)


def test_a_value_that_has_never_changed_was_counted_at_any_moment_of_each_interval_so_the_middle_is_taken() -> None:
    steps = Steps()
    moments = [steps.see((0, 0), n / 10) for n in range(200)]
    assert moments[0] is None
    assert moments[49] is None  # it may all have been counted before the first answer
    assert moments[60] == 2.5
    assert moments[110] == 7.5
    assert steps.next_s == -inf
    steps.see((0, 1), 20.0)
    assert steps.next_s == pytest.approx(24.95)


def test_a_queue_that_was_empty_before_anything_was_sent_is_empty() -> None:
    counts = BacklogCounts()
    counts.on_statistics(statistics(0, 0, 3.0))
    assert counts.latest == (0, 3.0)
    assert counts.next_s == -inf
    counts.on_statistics(statistics(0, 0, 4.0))
    assert counts.latest == (0, 3.0)  # what has been sent since is not in it
    full = BacklogCounts()
    full.on_statistics(statistics(0, 7, 3.0))
    assert full.latest[0] is None


def test_nothing_is_concluded_from_a_count_that_is_much_older_than_the_next_one_should_be() -> None:
    counts = BacklogCounts()
    counts.on_statistics(statistics(0, 9, 10.0, fresh=True))
    assert counts.known(39.0) == (9, 10.0)
    assert counts.known(41.0) == (None, -inf)


def test_what_consumers_were_seen_to_hold_says_nothing_about_those_that_come_after_them() -> None:
    counts = BacklogCounts()
    counts.on_reading(0, None, 1, 0.0)
    counts.on_statistics(statistics(6, 250, 1.0, fresh=True))
    assert counts.held_at_most == 250
    for consumers, now in ((0, 2.0), (1, 3.0)):
        counts.on_reading(3, None, consumers, now)
    assert counts.held_at_most is None
    assert counts.latest == (256, 1.0)


def test_commits_have_stalled_when_consumers_have_done_more_since_they_last_grew() -> None:
    commits = LateCommits()
    told = [(10, 8.0), (10, 9.0), (10, 10.0), (10, 30.0), (11, 31.0), (11, 31.0), (11, 33.0)]
    stalled = [commits.stalled(*each, at / 10) for at, each in enumerate(told)]
    assert stalled == [False, False, True, True, False, False, True]


def test_consumers_that_do_nothing_are_no_sign_of_commits_that_have_stalled() -> None:
    commits = LateCommits()
    assert not any(commits.stalled(10, 8.0, at / 10) for at in range(20))


def test_consumers_that_have_stopped_are_no_sign_any_more() -> None:
    commits = LateCommits()
    told = [commits.stalled(10, min(8.0 + at, 12.0), at / 10) for at in range(30)]
    assert told == [at in range(2, 15) for at in range(30)]


@pytest.mark.parametrize("sticky_s", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("rate_per_s", [20.0, 60.0, 95.0])
def test_what_is_behind_in_several_partitions_is_known_however_evenly_they_are_used(
    rate_per_s: float, sticky_s: float
) -> None:
    """Clients send to one partition for a while; those that are empty meanwhile tell nothing of the others' moment."""
    counts, chance = BacklogCounts(), random.Random(1)
    ends, done, committed = [0] * 3, [0] * 3, [0] * 3
    queue: deque[int] = deque()
    truth = {}
    for step in range(6000):  # 10 ms each, a consumer of 98 messages a second
        now = step / 100
        if int(rate_per_s * now) > sum(ends):
            partition = int(now / sticky_s) % 3 if sticky_s else chance.randrange(3)
            ends[partition] += 1
            queue.append(partition)
        if queue and int(98 * now) > int(98 * (now - 0.01)):
            done[queue.popleft()] += 1
        if step % 500 == 230:
            committed = list(done)
        truth[step] = len(queue)
        if step % 10 == 0:
            before = counts.latest
            counts.on_offsets(OffsetReading(ends=tuple(ends), committed=tuple(committed), arrived_s=now))
            count, moment_s = counts.latest
            if now > 8.0 and counts.latest != before:
                assert count == pytest.approx(truth[round(100 * moment_s)], abs=3)


def test_a_commit_of_a_consumer_that_leaves_is_not_the_usual_interval() -> None:
    steps, value = Steps(), 0
    commits_at = [2.3, 7.3, 12.3, 17.3, 18.1, *(28.5 + 5 * number for number in range(8))]
    for tick in range(600):
        now = tick / 10
        value = sum(at <= now for at in commits_at)
        steps.see(value, now)
        if now > 13.0:
            assert steps.interval_s == pytest.approx(5.0, abs=0.1)
