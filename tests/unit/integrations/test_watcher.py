"""When the library decides, in virtual time: at each report, also where the broker answers later than that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

import pytest
from virtual_time import run_virtually

from backpressure.core.evidence import QueueStatistics
from backpressure.core.reports import ConsumerReport, Report, decode, encode
from backpressure.core.signals import Decision, Signals
from backpressure.core.sums import FleetSum, SumNews, encode_sum
from backpressure.integrations.limiter import Limiter
from backpressure.integrations.watcher import QueueWatcher
from backpressure.transports.base import QueueReading

WAY_S = 0.2


@dataclass
class FarProbe:
    """The broker's answers; each tells what it counts once, as a queue does whose counts are seconds old."""

    takes_s: float
    answered: int = 0

    async def read(self, _queue: str, *, exactly: bool = False) -> QueueReading:
        await asyncio.sleep(self.takes_s)
        self.answered += 1
        now = asyncio.get_running_loop().time()
        told = QueueStatistics(ready=0, unacked=self.answered, arrived_s=now, fresh=True) if exactly else None
        return QueueReading(0, None, 1, round_trip_s=self.takes_s, statistics=told)


class Bus:
    """A feedback bus: what is sent, and what it listens to."""

    blocked, carries_sums = False, True

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bool]] = []
        self.heard: dict[str, bool] = {}

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> None:
        assert not asks
        self.sent.append((payload, is_sum))

    def listen(self, **heard: bool) -> None:
        self.heard = heard


class Seeing:
    """A law that remembers what it saw and when."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Signals]] = []

    def update(self, signals: Signals, now: float) -> Decision:
        self.seen.append((now, signals))
        return Decision(100.0, "because")


def watched(monkeypatch: pytest.MonkeyPatch, takes_s: float, *, reports: bool) -> list[tuple[float, Signals]]:
    """Return what the law saw in ten seconds of a watcher whose broker takes so long to answer."""

    async def story() -> list[tuple[float, Signals]]:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("backpressure.integrations.watcher.time", SimpleNamespace(monotonic=loop.time))
        law = Seeing()
        limiter = Limiter("orders", "amqp://localhost/", law=law, clock=loop.time)
        watcher = QueueWatcher((), SimpleNamespace(address="there"), listens=True)  # type: ignore[arg-type]  # it is not asked
        watcher._members.append(limiter)
        watcher._probe = FarProbe(takes_s)  # type: ignore[assignment]  # as much as it takes
        watcher._feedback = Bus()  # type: ignore[assignment]  # as much as it takes
        pacing = asyncio.create_task(watcher._pace(limiter))
        for number in range(100):
            await asyncio.sleep(0.1)
            if reports:
                told: Any = {"held": 0, "prefetch": 1, "busy_s": number / 20, "processed": 10 * number, "rss_bytes": 1}
                at_ns = int(1e9 * loop.time())
                watcher._on_report(encode(ConsumerReport(id="c", queue="orders", at_ns=at_ns, **told)))
        pacing.cancel()
        await asyncio.wait({pacing})
        return law.seen[20:]

    return run_virtually(story())


@pytest.mark.parametrize("takes_s", [0.001, WAY_S])
def test_each_decision_follows_a_consumers_report_at_once(monkeypatch: pytest.MonkeyPatch, takes_s: float) -> None:
    seen = watched(monkeypatch, takes_s, reports=True)
    assert max(signals.feedback_age_s for _, signals in seen) < 0.01
    assert len(seen) == pytest.approx(80, abs=3)


@pytest.mark.parametrize("reports", [False, True])
def test_a_late_answer_tells_the_way_to_the_broker_and_is_half_as_old(
    monkeypatch: pytest.MonkeyPatch, reports: bool
) -> None:
    seen = watched(monkeypatch, WAY_S, reports=reports)
    assert {signals.way_s for _, signals in seen} == {WAY_S}
    ages_s = [signals.depth_age_s for _, signals in seen]
    assert min(ages_s) >= WAY_S / 2 - 1e-6
    assert max(ages_s) <= 1.5 * WAY_S + 0.11


def test_no_count_is_lost_between_a_late_answer_and_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three counts at least come in a second, and each is newer than the one before."""
    for takes_s in (0.03, WAY_S):
        backlogs = [signals.backlog for _, signals in watched(monkeypatch, takes_s, reports=False)]
        assert len(set(backlogs)) >= 25


@dataclass
class Member:
    """Paces for a queue, of a large fleet or a small one."""

    queue: str
    listens: bool
    hears_sums: bool
    heard: list[str] = field(default_factory=list)
    due: bytes | None = None

    def due_sum(self, *, possible: bool) -> bytes | None:
        assert possible
        return self.due

    def take_report(self, report: Report) -> None:
        self.heard.append(report.queue)

    def take_sum(self, told: FleetSum) -> SumNews:
        self.heard.append(f"sum of {told.queue}")
        return SumNews.USUAL

    def answer(self, payload: bytes) -> bytes | None:
        return b"answer" if decode(payload).queue == self.queue else None


def test_members_of_several_queues_hear_together_what_any_has_to_hear_and_each_gets_its_own() -> None:
    watcher = QueueWatcher((), SimpleNamespace(address="there"), listens=True)  # type: ignore[arg-type]  # it is not asked
    bus = watcher._feedback = Bus()  # type: ignore[assignment]  # as much as it takes
    large, seated, small = (
        Member("large", listens=False, hears_sums=True),
        Member("large", listens=True, hears_sums=True, due=b"sum"),
        Member("small", listens=True, hears_sums=False),
    )
    report = encode(ConsumerReport(id="c", queue="large", at_ns=1, processed=0, held=0, prefetch=1, busy_s=0.0))
    told = encode_sum(sum_about("large"))
    watcher._members.append(large)  # type: ignore[arg-type]  # as much as it takes
    watcher._add_up(large)  # type: ignore[arg-type]  # as above
    assert bus.heard == {"reports": False, "sums": True}
    watcher._members += [seated, small]  # type: ignore[list-item]  # as above
    watcher._add_up(seated)  # type: ignore[arg-type]  # as above
    assert bus.heard == {"reports": True, "sums": True}
    assert bus.sent == [(b"sum", True)]
    for payload in (report, told, b"junk", told[:20]):
        watcher._on_report(payload)
    assert large.heard == ["sum of large"]
    assert seated.heard == ["large", "sum of large"]
    assert small.heard == ["large"]
    assert watcher._answer_to(report) == b"answer"
    assert watcher._answer_to(b"junk") is None


def sum_about(queue: str) -> FleetSum:
    numbers = {each.name: 0 for each in fields(FleetSum) if each.name not in {"queue", "guests"}}
    return FleetSum(queue=queue, guests=False, **numbers)  # type: ignore[arg-type]  # 0 is any of its numbers


@pytest.mark.parametrize(("news", "waits_s"), [(SumNews.CHANGE, 0.0), (SumNews.USUAL, 0.06), (SumNews.NONE, 0.06)])
def test_a_sum_with_news_is_decided_on_at_once(monkeypatch: pytest.MonkeyPatch, news: SumNews, waits_s: float) -> None:
    async def story() -> float:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("backpressure.integrations.watcher.time", SimpleNamespace(monotonic=loop.time))
        monkeypatch.setattr(Limiter, "hears_sums", True)
        monkeypatch.setattr(Limiter, "take_sum", lambda _limiter, _told: news)
        law = Seeing()
        limiter = Limiter("orders", "amqp://localhost/", law=law, clock=loop.time)
        watcher = QueueWatcher((), SimpleNamespace(address="there"), listens=True)  # type: ignore[arg-type]  # it is not asked
        watcher._members.append(limiter)
        watcher._probe = FarProbe(0.001)  # type: ignore[assignment]  # as much as it takes
        watcher._feedback = Bus()  # type: ignore[assignment]  # as above
        pacing = asyncio.create_task(watcher._pace(limiter))
        await asyncio.sleep(2)
        for _ in range(2):  # the first one also says that there are sums
            await asyncio.sleep(2 * law.seen[-1][0] - law.seen[-2][0] + 0.04 - loop.time())
            told_at = loop.time()
            watcher._on_report(encode_sum(sum_about("orders")))
            await asyncio.sleep(0.2)
        pacing.cancel()
        await asyncio.wait({pacing})
        return min(at for at, _ in law.seen if at >= told_at) - told_at

    assert run_virtually(story()) == pytest.approx(waits_s, abs=0.011)


class Failing:
    """A law that fails at first."""

    def __init__(self) -> None:
        self.asked = 0

    def update(self, signals: Signals, now: float) -> Decision:
        self.asked += 1
        if self.asked == 3:
            raise ZeroDivisionError
        return Decision(100.0, "because")


def test_a_law_that_fails_is_told_once_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> tuple[int, str, str]:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("backpressure.integrations.watcher.time", SimpleNamespace(monotonic=loop.time))
        law = Failing()
        limiter = Limiter("orders", "amqp://localhost/", law=law, clock=loop.time)
        watcher = QueueWatcher((), SimpleNamespace(address="there"), listens=True)  # type: ignore[arg-type]  # it is not asked
        watcher._members.append(limiter)
        watcher._probe = FarProbe(0.001)  # type: ignore[assignment]  # as much as it takes
        watcher._feedback = Bus()  # type: ignore[assignment]  # as above
        working = asyncio.create_task(watcher._work_for(limiter))
        await asyncio.sleep(0.5)
        told = limiter.status().reason
        await asyncio.sleep(9.5)
        working.cancel()
        return law.asked, told, limiter.status().reason

    asked, told, afterwards = run_virtually(story())
    assert asked >= 80
    assert "ZeroDivisionError" in told
    assert afterwards == "because"
    assert len([record for record in caplog.records if "begins again" in record.message]) == 1
