"""When a consumer reports, and how it learns how often, with a fake clock."""

from __future__ import annotations

import json

import pytest

from backpressure.core.reports import ConsumerReport
from backpressure.core.turns import ReportTurns, Turn, decode_interval, encode_interval
from backpressure.errors import FeedbackError


def half() -> float:
    return 0.5


class Consumer:
    """Does ten messages a second, or one of ``slower``; what it sends, and when."""

    def __init__(self) -> None:
        self.turns = ReportTurns(0.1, half)
        self.tick = 0
        self.done = 0.0
        self.slower = 1
        self.paused = False
        self.sent: list[tuple[float, Turn, ConsumerReport]] = []

    @property
    def now(self) -> float:
        return self.tick / 10

    def run(self, seconds: float) -> list[tuple[float, Turn, ConsumerReport]]:
        """Return what it sends in that time."""
        before = len(self.sent)
        for _ in range(round(10 * seconds)):
            self.tick += 1
            self.done += 1 / self.slower
            report = ConsumerReport(
                id="c", at_ns=int(1e9 * self.now), queue="q", processed=int(self.done), held=1, prefetch=1,
                busy_s=self.now, paused=self.paused,
            )  # fmt: skip
            turn = self.turns.look(report, self.now)
            if turn is not None:
                self.sent.append((self.now, turn, report))
        return self.sent[before:]


def test_a_consumer_that_nobody_answers_reports_ten_times_a_second_and_asks_once_a_second() -> None:
    sent = Consumer().run(60.0)
    assert len(sent) == 600
    assert sum(turn.asks for _, turn, _ in sent) == 60
    assert sent[0][1].asks


def test_what_it_is_told_holds_for_a_minute_and_it_asks_with_one_report_of_ten() -> None:
    consumer = Consumer()
    consumer.turns.tell(0.5, 0.0)
    sent = consumer.run(60.0)
    assert len(sent) == pytest.approx(120, abs=12)
    assert sum(turn.asks for _, turn, _ in sent) == pytest.approx(12, abs=1)
    assert {report.interval_s for _, _, report in sent[2:]} == {0.5}
    assert len(consumer.run(10.0)) == pytest.approx(100, abs=5)


def test_who_reports_very_rarely_asks_every_half_minute_and_trusts_three_answers_longer() -> None:
    consumer = Consumer()
    consumer.turns.tell(100.0, 0.0)
    sent = consumer.run(290.0)
    assert len(sent) <= 5
    assert all(turn.asks for at, turn, _ in sent if at > 100.0)
    assert consumer.turns.every_s(299.0) == 100.0
    assert consumer.turns.every_s(301.0) == 0.1


def test_a_fleet_that_has_become_small_is_followed_with_the_next_answer() -> None:
    consumer = Consumer()
    consumer.turns.tell(4.0, 0.0)
    consumer.run(20.0)
    consumer.turns.tell(None, consumer.now)
    assert len(consumer.run(2.0)) == 20


def test_a_change_is_told_before_its_turn_and_its_turn_comes_all_the_same() -> None:
    """Were all consumers silent after it, producers would know nothing but its first moments."""
    consumer = Consumer()
    consumer.turns.tell(4.0, 0.0)
    consumer.run(20.0)
    due_at = consumer.sent[-1][0] + consumer.sent[-1][2].interval_s
    assert consumer.now + 2.0 < due_at
    consumer.slower = 10
    early, turn = consumer.run(due_at - consumer.now + 0.1)
    assert early[0] < due_at - 1.0
    assert early[2].interval_s == pytest.approx(due_at - early[0])
    assert turn[0] == pytest.approx(due_at, abs=0.11)
    assert turn[2].interval_s > 4.0  # what was told early is paid for


def test_a_pause_is_reported_at_once() -> None:
    consumer = Consumer()
    consumer.turns.tell(10.0, 0.0)
    consumer.run(9.0)
    consumer.paused = True
    sent = consumer.run(0.1)
    assert [report.paused for _, _, report in sent] == [True]


@pytest.mark.parametrize("every_s", [None, 0.001, 0.55, 600.0])
def test_an_answer_survives_its_octets(every_s: float | None) -> None:
    assert decode_interval(encode_interval("orders \u2603", every_s)) == ("orders \u2603", every_s)


@pytest.mark.parametrize(
    "wrong",
    [
        b"", b"\xff", b"[1]", b"{}", b"[" * 100_000,
        {"v": 3}, {"role": "consumer"}, {"queue": 7}, {"report_ms": -1}, {"report_ms": "55"}, {"report_ms": 1e9},
        {"report_ms": None}, {"report_ms": True}, {"report_ms": 600_001},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_answer_is_refused(wrong: bytes | dict[str, object]) -> None:
    told = {"v": 2, "role": "interval", "queue": "q", "report_ms": 55}
    data = wrong if isinstance(wrong, bytes) else json.dumps(told | wrong).encode()
    with pytest.raises(FeedbackError):
        decode_interval(data)
