"""When a waiting client looks for brokers that were cut off, and which it finds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from backpressure.settings import BrokerSettings
from backpressure.transports.kafka import fenced as module
from backpressure.transports.kafka.fenced import FencedBrokers, fenced

ONE, TWO, THREE = (1, ("a", 9092)), (2, ("b", 9092)), (3, ("c", 9092))
ALL = dict([ONE, TWO, THREE])


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({1: ALL, 2: ALL, 3: ALL}, []),
        ({1: ALL, 2: dict([TWO, THREE]), 3: dict([TWO, THREE])}, [1]),
        ({1: ALL, 2: dict([TWO, THREE])}, [1]),  # one broker does not answer
        ({1: ALL, 2: dict([TWO, THREE]), 3: ALL}, []),  # the others disagree
        ({1: dict([ONE])}, [2, 3]),  # only one answers, and it has lost the others
        ({}, []),
        ({1: ALL, 2: {2: TWO[1], 3: THREE[1], 4: ONE[1]}, 3: {2: TWO[1], 3: THREE[1], 4: ONE[1]}}, []),  # a new number
    ],
)
def test_a_broker_that_most_of_the_others_do_not_list_is_fenced(told: dict[int, Any], expected: list[int]) -> None:
    assert fenced(ALL, told) == expected


class Waiting:
    """A client that waits, on a clock of its own."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        brokers: dict[int, Any] = ALL,
        on_silence: Callable[[], None] | None = None,
    ) -> None:
        self.now = 1000.0
        self.looks: list[float] = []
        self.asks = False
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(module, "threading", SimpleNamespace(Thread=self._thread))
        self._watched = FencedBrokers(BrokerSettings(url="kafka://a"), on_silence)
        listed = {number: SimpleNamespace(host=host, port=port) for number, (host, port) in brokers.items()}
        self._watched.learn(SimpleNamespace(brokers=listed))  # type: ignore[arg-type]  # all that is read of it

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _thread(self, *, target: Callable[[], None], **_: object) -> Any:
        def start() -> None:
            self.looks.append(round(self.now - 1000, 1))
            if self.asks:
                target()

        return SimpleNamespace(start=start, is_alive=lambda: False)

    def hears(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], dict[int, Any] | None]) -> None:
        """Get this answer from every broker that it asks."""
        self.asks = True
        monkeypatch.setattr(self._watched, "_ask", lambda _server: answer())

    def passes(self, seconds: float, *, answered: bool = False, waiting: bool = True) -> list[float]:
        """Return when it looked."""
        for _ in range(round(seconds / 0.1)):
            self.now += 0.1
            self._watched.watch(answered=answered, waiting=waiting)
        return self.looks


def test_who_waits_looks_after_a_second_twice_a_second_at_first_and_then_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Waiting(monkeypatch).passes(600)
    pauses = [round(after - before, 1) for before, after in pairwise(looks)]
    assert looks[:9] == [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5]
    assert pauses == sorted(pauses)
    assert 30 <= pauses[-1] < 31


def test_an_answer_or_nothing_to_wait_for_ends_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Waiting(monkeypatch)
    client.passes(0.9)
    client.passes(0.1, answered=True)
    client.passes(0.9)
    client.passes(0.1, waiting=False)
    assert client.passes(0.9) == []
    assert client.passes(0.2) == [3]


def test_where_there_is_one_broker_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Waiting(monkeypatch, dict([ONE])).passes(60) == []


@pytest.mark.parametrize("brokers", [dict([ONE]), ALL])
def test_that_nobody_answers_is_told(monkeypatch: pytest.MonkeyPatch, brokers: dict[int, Any]) -> None:
    told: list[float] = []
    client = Waiting(monkeypatch, brokers, on_silence=lambda: told.append(round(client.now - 1000, 1)))
    client.hears(monkeypatch, lambda: None)
    client.passes(0.9)
    assert told == []
    client.passes(0.1)
    assert told == [1]


@pytest.mark.parametrize("brokers", [dict([ONE]), ALL])
def test_a_broker_that_answers_is_not_silent_however_long_the_client_waits(
    monkeypatch: pytest.MonkeyPatch, brokers: dict[int, Any]
) -> None:
    told: list[bool] = []
    client = Waiting(monkeypatch, brokers, on_silence=lambda: told.append(True))
    client.hears(monkeypatch, lambda: brokers)
    client.passes(60)
    assert client.looks
    assert told == []


def test_an_answer_while_the_brokers_were_asked_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    client = Waiting(monkeypatch, on_silence=lambda: told.append(True))

    def answered_late() -> None:
        client.now += 1
        client.passes(0.1, answered=True)

    client.hears(monkeypatch, answered_late)
    client.passes(1)
    assert client.looks == [1]
    assert told == []


def test_a_fenced_broker_is_kept_away_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[tuple[float, object]] = []
    client = Waiting(monkeypatch)

    def disconnect(server: object) -> int:
        closed.append((round(client.now - 1000, 1), server))
        return 1

    monkeypatch.setattr(module, "disconnect", disconnect)
    client.hears(monkeypatch, lambda: dict([TWO, THREE]))
    client.passes(1)
    assert {server for _, server in closed} == {ONE[1]}
    assert [at for at, _ in closed] == [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2]


def test_nobody_keeps_away_what_had_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Waiting(monkeypatch)
    monkeypatch.setattr(module, "disconnect", lambda _server: 0)
    client.hears(monkeypatch, lambda: dict([TWO, THREE]))
    client.passes(3)
    assert client.looks == [1, 1.5, 2, 2.5, 3]
