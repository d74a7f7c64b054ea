"""Sums of a large fleet: who sends them, who goes by them, and that no one of them is missed."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from backpressure.core.sums import FleetRole, FleetSize, FleetSum, decode_sum, encode_sum, is_sum
from backpressure.errors import FeedbackError

FLEET = FleetSize(200, 50)
SUM = FleetSum(
    queue="orders", session=3, first=3, second=7, at_ns=5, confirmed=100, departed=90.5, observed_s=9.0, busy_s=8.0,
    told_s=7.0, reporting=200, working=199, held=400, producers=50, counted_ready=1, counted_unacked=2,
    counted_age_s=inf, departed_age_s=0.25, newest_s=0.5, interval_s=0.5, service_mean_s=0.125, service_cv2=1.0,
    flow_per_s=2000.0, left_per_s=1500.0, weights=48.0, bottleneck_per_s=2000.0, extra=0.0, next_s=0.125, report_s=0.5,
    guests=True,
)  # fmt: skip


def test_a_sum_has_at_most_two_hundred_octets_and_survives_them() -> None:
    data = encode_sum(SUM)
    assert is_sum(data)
    assert len(data) <= 200
    assert decode_sum(data) == SUM


@pytest.mark.parametrize("length", [0, 1, 2, 3, 8, 40, 100])
def test_a_sum_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(FeedbackError):
        decode_sum(encode_sum(SUM)[:length])


@pytest.mark.parametrize("name", ["departed", "flow_per_s", "next_s", "departed_age_s"])
@pytest.mark.parametrize("value", [nan, -1.0])
def test_a_sum_with_a_number_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(FeedbackError, match=name):
        decode_sum(encode_sum(replace(SUM, **{name: value})))


def test_a_sum_that_does_not_fit_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="can be told"):
        encode_sum(replace(SUM, confirmed=-1))


@pytest.mark.parametrize(
    ("consumers", "producers"), [(200, 50), (400, 100), (1000, 1000), (5000, 20), (10_000, 10_000)]
)
def test_reports_and_sums_together_cost_less_than_two_thousand_deliveries_a_second_at_any_size(
    consumers: int, producers: int
) -> None:
    report_s, sum_s = FleetSize(consumers, producers).intervals_s(0.1)
    heard = ((consumers + producers) * 3 + consumers / 10) / report_s  # a tenth of the consumers' reports is answered
    told = 1.25 * producers / sum_s
    assert heard + told == pytest.approx(1900, rel=0.01)


class Fleet:
    """Roles that hear each other through a perfect network."""

    def __init__(self, sessions: list[int], size: FleetSize = FLEET) -> None:
        self.roles = {session: role_of(session) for session in sessions}
        self.size = size
        self.now = 0.0

    def run(self, seconds: float) -> dict[int, int]:
        """Return how many sums each has sent."""
        sent: dict[int, int] = {}
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += 0.1
            for session, role in list(self.roles.items()):
                # Who does not listen hears no reports, and so knows nobody.
                others = [other for other in self.roles if other != session] if role.listens else []
                role.update(self.size if role.listens else FleetSize(0, 1), others, self.now)
                next_s = role.next_sum_s(self.now)
                if next_s is not None:
                    sent[session] = sent.get(session, 0) + 1
                    told = replace(
                        SUM, session=session, first=role.seats[0], second=role.seats[-1], next_s=next_s,
                        report_s=role.report_every_s, reporting=self.size.consumers, producers=self.size.producers,
                    )  # fmt: skip
                    for other in self.roles.values():
                        if other.hears_sums:
                            other.on_sum(told, self.now)
        return sent

    def listeners(self) -> set[int]:
        return {session for session, role in self.roles.items() if role.listens}


def role_of(session: int) -> FleetRole:
    role = FleetRole(session)
    role.possible = True
    return role


def test_two_of_a_large_fleet_listen_and_the_others_go_by_the_sums_of_the_first() -> None:
    fleet = Fleet(list(range(1, 51)))
    fleet.run(5.0)
    assert fleet.listeners() == {1, 2}
    assert {role.leader.session for session, role in fleet.roles.items() if session > 2 and role.leader} == {1}
    sent = fleet.run(10.0)
    assert set(sent) == {1, 2}
    assert sent[1] == pytest.approx(100, abs=2)
    assert sent[2] == pytest.approx(25, abs=2)


def test_a_small_fleet_hears_everybody_and_sends_no_sums() -> None:
    fleet = Fleet(list(range(1, 11)), FleetSize(10, 10))
    assert fleet.run(5.0) == {}
    assert fleet.listeners() == set(range(1, 11))
    assert all(role.report_every_s is None and not role.hears_sums for role in fleet.roles.values())


def test_few_producers_hear_all_consumers_however_many_there_are() -> None:
    fleet = Fleet([1, 2, 3], FleetSize(1000, 3))
    assert fleet.run(5.0) == {}
    assert fleet.listeners() == {1, 2, 3}


@pytest.mark.parametrize("lost", [[1], [2], [1, 2]])
def test_sums_go_on_when_those_who_send_them_are_lost(lost: list[int]) -> None:
    fleet = Fleet(list(range(1, 51)))
    fleet.run(5.0)
    for session in lost:
        del fleet.roles[session]
    silent_from = fleet.now
    while not fleet.run(0.1):
        assert fleet.now - silent_from < 2.0
    fleet.run(5.0)
    assert fleet.listeners() == set(sorted(fleet.roles)[:2])
    sent = fleet.run(1.0)
    assert set(sent) == fleet.listeners()


def test_a_fleet_that_shrinks_hears_everybody_again() -> None:
    fleet = Fleet(list(range(1, 51)))
    fleet.run(5.0)
    for session in range(11, 51):
        del fleet.roles[session]
    fleet.size = FleetSize(10, 10)
    fleet.run(2.0)
    assert fleet.listeners() == set(fleet.roles)


def test_a_newcomer_takes_a_seat_only_when_it_has_heard_everybody() -> None:
    fleet = Fleet(list(range(10, 60)))
    fleet.run(5.0)
    fleet.roles[1] = role_of(1)
    assert 1 not in fleet.run(0.5)
    fleet.run(5.0)
    assert fleet.listeners() == {1, 10}
    assert fleet.run(1.0)[1] == pytest.approx(10, abs=1)


def test_without_a_way_for_sums_everybody_is_heard() -> None:
    role = FleetRole(1)
    role.update(FLEET, range(2, 51), 10.0)
    role.update(FLEET, range(2, 51), 20.0)
    assert role.listens
    assert not role.hears_sums
    assert role.report_every_s is None


def test_old_programs_that_hear_everybody_make_reports_rarer() -> None:
    assert FleetSize(200, 50, old_listeners=10).intervals_s(0.1)[0] > 3 * FLEET.intervals_s(0.1)[0]


def test_news_is_told_at_once_and_on_average_no_more_sums_are_sent() -> None:
    role = role_of(1)
    size = FleetSize(1000, 1000)  # a sum every two seconds
    sent = []
    for tick in range(6000):
        now = tick / 10
        role.update(size, range(2, 1001), now)
        if role.next_sum_s(now, news=tick >= 300) is not None:
            sent.append(now)
    calm_s, sum_s = 30.0, size.intervals_s(0.1)[1]
    first = [at for at in sent if at >= calm_s]
    assert first[0] == calm_s
    assert first[7] <= calm_s + 1.0
    assert len(first) <= (600 - calm_s) / sum_s + 10


def test_what_is_known_just_after_a_change_is_told_again_each_time_after_twice_as_long() -> None:
    role = role_of(1)
    sent = []
    for tick in range(400):
        now = tick / 10
        role.update(FleetSize(1000, 1000), range(2, 1001), now)  # a sum every two seconds
        if role.next_sum_s(now, news=tick == 300) is not None and tick >= 300:
            sent.append(tick - 300)
    assert sent[:5] == [0, 2, 6, 14, 30]
    assert sent[5] >= 30 + 20


def test_the_second_of_those_who_send_sums_does_not_tell_news() -> None:
    role = role_of(2)
    for tick in range(100):
        now = tick / 10
        role.on_sum(replace(SUM, session=1, first=1, second=2, next_s=0.1), now)
        role.update(FLEET, [1, *range(3, 51)], now)
        role.next_sum_s(now, news=False)
    assert role.adds_up
    sent = [role.next_sum_s(9.9 + step / 1000, news=True) for step in range(1, 20)]
    assert sent == [None] * 19
