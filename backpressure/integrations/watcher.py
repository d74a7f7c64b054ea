"""The thread that reads queues and exchanges reports for everything in a process that talks to one broker.

It has an event loop and connections of its own, and uses the transports of this project. So it does not matter which
client, which framework and which kind of concurrency the process itself uses; a program that is busy for a while is
still heard of, and a broker's alarm, which stops every connection that publishes, does not stop the reading of queues.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import ClassVar, Protocol, Self, cast

from pydantic import ValidationError

from backpressure.core.reports import ConsumerReport, Report, decision_window, decode, sooner_s, uneven_s
from backpressure.core.sums import FleetSum, SumNews, decode_sum, is_sum
from backpressure.errors import ConfigError, FeedbackError, NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import Settings
from backpressure.transports.base import FeedbackBus, QueueProbe, QueueReading, Transport
from backpressure.transports.factory import connect

_log = logging.getLogger("backpressure")
_TICK_S = 0.1
_UNEVEN_FROM_S = 0.35
_CLOSE_WITHIN_S = 5.0
_REFUSED_PAUSE_S = 3.0
_LOOK_EVERY_S = 0.5
_AGAIN_AFTER_S = 1.0
_MISSING_S = 1.0  # a queue that is declared while the program starts is no news


class Due(Protocol):
    """A report that is due."""

    @property
    def payload(self) -> bytes:
        """What is sent."""

    @property
    def asks(self) -> bool:
        """Whether an answer is wanted."""


class Reporting(Protocol):
    """Something that reports."""

    def due(self) -> Due | None:
        """Return the report that is due now; asked ten times a second."""

    def told(self, payload: bytes) -> None:
        """Take in what was answered."""


class Watched(Protocol):
    """Something that wants to know how its queue is, and what others report."""

    queue: str

    @property
    def report_every_s(self) -> float:
        """How often to report."""

    def report(self, interval_s: float = 0.0) -> bytes:
        """Return the report; the next one follows after ``interval_s``."""

    def wants_counts(self, reading: int) -> bool:
        """Whether the reading of that number should also tell what consumers hold that do not say it themselves."""

    @property
    def patience_s(self) -> float:
        """How long to wait for a reading."""

    def take_reading(self, reading: QueueReading | None, *, blocked: bool, age_s: float = 0.0) -> None:
        """Take in a reading of ``age_s`` ago; None: the broker has not answered."""

    def take_obstacle(self, obstacle: str) -> None:
        """Take note of why the queue cannot be read, until it is."""

    def take_report(self, report: Report) -> None:
        """Take in what another process reports."""

    def take_sum(self, told: FleetSum) -> SumNews:
        """Take in what all reports add up to; return what that means for the pace."""

    @property
    def listens(self) -> bool:
        """Whether it has to hear reports."""

    @property
    def hears_sums(self) -> bool:
        """Whether it has to hear sums."""

    def due_sum(self, *, possible: bool) -> bytes | None:
        """Return what to tell all producers, if that is due; ``possible``: there is a way to do so."""

    def answer(self, payload: bytes) -> bytes | None:
        """Return what to answer to a report that asks, if others do not."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """A reading, and when the broker looked."""

    reading: QueueReading
    read_at: float

    def completed_by(self, earlier: _Answer | None) -> _Answer:
        """Return this with what only the ``earlier`` one told: what consumers hold is told when it is news."""
        if earlier is None:
            return self
        now, before = self.reading, earlier.reading
        statistics, terms = now.statistics or before.statistics, now.terms or before.terms
        return replace(self, reading=replace(now, statistics=statistics, terms=terms))


Member = Watched | Reporting


@dataclass(eq=False)
class _Ear:
    """Wakes who paces for one member: what it hears near the end of a tick, and news at any time."""

    heard: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    heard_at: float = -inf

    def hear(self, news: SumNews) -> None:
        self.heard_at = time.monotonic()
        self.heard.set()
        if news is SumNews.CHANGE:
            self.news.set()


class QueueWatcher:
    """Runs while it has members; all that watch the same broker share one.

    Members may pace for different queues, of which some have large fleets. The connection hears what any of them has to
    hear, reports or sums, and each gets what it goes by.
    """

    _running: ClassVar[dict[tuple[object, ...], QueueWatcher]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, key: tuple[object, ...], transport: Transport, *, listens: bool) -> None:
        self._key = key
        self._transport = transport
        self._listens = listens
        self._members: list[Member] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asking: dict[int, asyncio.Task[_Answer]] = {}
        self._ears: dict[int, _Ear] = {}
        self._unreadable: dict[str, float] = {}  # since when; infinite once that is logged
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event
        self._closing = False
        self._probe: QueueProbe
        self._feedback: FeedbackBus
        self._thread = threading.Thread(target=self._run, name=f"pace {transport.address}", daemon=True)

    @classmethod
    def join(cls, url: str, feedback: str, group: str, *apis: str, member: Member) -> Self:
        """Watch for ``member`` until it leaves; raises `ConfigError` for a URL that is none of a broker."""
        listens = hasattr(member, "take_reading")
        key = (url, feedback, group, *apis, listens)
        transport = _transport(url, feedback, group, *apis)
        with cls._guard:
            watcher = cls._running.get(key)
            if watcher is None:
                watcher = cls._running[key] = cls(key, transport, listens=listens)
                watcher._members.append(member)
                watcher._thread.start()
            else:
                watcher._members.append(member)
                watcher._wake()
        assert isinstance(watcher, cls)
        return watcher

    def leave(self, member: Member) -> None:
        """Watch no longer for ``member``; the last one to leave ends the thread and waits for it."""
        with self._guard:
            if member in self._members:
                self._members.remove(member)
            if not self._members:
                self._closing = True
                self._running.pop(self._key, None)
        self._wake()
        if self._closing and threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_WITHIN_S)

    @classmethod
    def forget(cls) -> None:
        """Begin again in a process that was forked: threads are not inherited, and a lock may be held for ever."""
        cls._running, cls._guard = {}, threading.Lock()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended just now
                loop.call_soon_threadsafe(self._changed.set)

    # --- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        said = False
        while not self._closing:
            self._probe, self._feedback = self._transport.probe(), self._transport.feedback()
            exchanging: asyncio.Task[None] | None = None
            try:
                await self._until_changed(asyncio.create_task(self._start_reading()))
                exchanging = asyncio.create_task(self._exchange_reports())
                while not self._closing:
                    self._changed.clear()
                    self._adjust()
                    await self._changed.wait()
            except TransportError as error:  # the broker refuses us: somebody has to change that
                if not said:
                    said = True
                    _log.warning("no queue can be read for now, so only the least may be sent: %s", error)
                self._tell_all(str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_REFUSED_PAUSE_S):
                        await self._until_changed(None)
            finally:
                if exchanging is not None:
                    exchanging.cancel()
                    await asyncio.wait({exchanging})
                await self._stop()

    def _tell_all(self, obstacle: str) -> None:
        for member in self._all():
            cast("Watched", member).take_obstacle(obstacle)

    async def _exchange_reports(self) -> None:
        """Connect for reports. A broker that refuses it is asked again from time to time: pacing does without."""
        said = False
        while True:
            try:
                if self._listens:
                    return await self._feedback.start(self._on_report, answer=self._answer_to)
                return await self._feedback.start(on_answer=self._on_answer)
            except TransportError as error:
                if not said:
                    said = True
                    _log.warning("no reports are heard or sent at %s for now: %s", self._transport.address, error)
            await _stopped(self._feedback.stop)
            self._feedback = self._transport.feedback()
            await asyncio.sleep(_REFUSED_PAUSE_S)

    async def _until_changed(self, starting: asyncio.Task[None] | None) -> None:
        """Wait until ``starting`` is over, or this watcher is to end."""
        while not self._closing:
            self._changed.clear()
            change = asyncio.create_task(self._changed.wait())
            awaited = {change, *([starting] if starting else [])}
            await asyncio.wait(awaited, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            if starting is not None and self._listens and (obstacle := self._transport.obstacle):
                self._tell_all(obstacle)  # the broker is waited for
            if starting is not None and starting.done():
                return starting.result()
        if starting is not None:
            starting.cancel()
            await asyncio.wait({starting})
        return None

    async def _start_reading(self) -> None:
        if self._listens:
            await self._probe.start()

    async def _stop(self) -> None:
        tasks = [*self._tasks.values(), *self._asking.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks.clear()
        self._asking.clear()
        for stop in (self._feedback.stop, self._probe.stop) if self._listens else (self._feedback.stop,):
            await _stopped(stop)

    def _adjust(self) -> None:
        """Begin to work for new members, and end for those that have left."""
        with self._guard:
            members = {id(member): member for member in self._members}
        for number in [number for number in self._tasks if number not in members]:
            self._tasks.pop(number).cancel()
            self._ears.pop(number, None)
        for number, member in members.items():
            if number not in self._tasks:
                self._tasks[number] = asyncio.create_task(self._work_for(member))

    async def _work_for(self, member: Member) -> None:
        """Pace or report until cancelled. What fails, a law of the user's own for example, is told and begun again.

        Otherwise the last rate would stay for ever, and nobody would know.
        """
        said = False
        while True:
            try:
                await (self._pace(cast("Watched", member)) if self._listens else self._tell(cast("Reporting", member)))
            except Exception as error:  # noqa: BLE001 - whatever a law of the user raises
                if not said:
                    said = True
                    _log.exception("pacing or reporting failed, and begins again")
                if self._listens:
                    cast("Watched", member).take_obstacle(f"pacing failed: {error!r}")
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _tell(self, member: Reporting) -> None:
        while True:
            if (due := member.due()) is not None:
                self._feedback.send(due.payload, asks=due.asks)
            await asyncio.sleep(_TICK_S)

    def _on_answer(self, payload: bytes) -> None:
        for member in self._all():
            cast("Reporting", member).told(payload)

    async def _pace(self, member: Watched) -> None:
        """Read and decide once a tick, if possible right after a consumer's report, and report."""
        ear = self._ears[id(member)] = _Ear()
        report_at = -inf
        for number in itertools.count():
            started = time.monotonic()
            answer = await self._read(member, number)
            blocked = self._feedback.blocked
            ear.news.clear()
            if answer is None:
                member.take_reading(None, blocked=blocked)
            else:
                member.take_reading(answer.reading, blocked=blocked, age_s=time.monotonic() - answer.read_at)
            self._add_up(member)
            interval_s = member.report_every_s
            if interval_s > _UNEVEN_FROM_S:
                report_at = started + sooner_s(report_at - started, interval_s, random.random())  # noqa: S311 - it is no secret
            if started >= report_at - _TICK_S / 2:
                if interval_s > _UNEVEN_FROM_S:
                    chance = random.random()  # noqa: S311 - it is no secret
                    interval_s = uneven_s(interval_s, chance, first=report_at == -inf)
                report_at = started + interval_s
                self._feedback.send(member.report(interval_s))
            window = decision_window(started, _TICK_S, started - ear.heard_at)
            await asyncio.sleep(max(0.0, window.news_at - time.monotonic()))
            if not await _set_by(window.report_at, ear.news):
                ear.heard.clear()
                await _set_by(window.latest_at, ear.heard)

    async def _read(self, member: Watched, reading_number: int) -> _Answer | None:
        """Return the last answer to have come, or None: there is none since the last call, or no such queue yet.

        An answer that takes longer than the member waits counts when it arrives.
        """
        late = self._answer(member)
        if id(member) not in self._asking:
            asked = self._ask(member.queue, exactly=member.wants_counts(reading_number))
            self._asking[id(member)] = asyncio.create_task(asked)
        await asyncio.wait({self._asking[id(member)]}, timeout=member.patience_s)
        answer = self._answer(member)
        return late if answer is None else answer.completed_by(late)

    async def _ask(self, queue: str, *, exactly: bool) -> _Answer:
        asked_at = time.monotonic()
        reading = await self._probe.read(queue, exactly=exactly)
        return _Answer(reading, (asked_at + time.monotonic()) / 2)  # the broker looked about half way

    def _answer(self, member: Watched) -> _Answer | None:
        """Return the answer that has come, if one has that is a reading."""
        asking = self._asking.get(id(member))
        if asking is None or not asking.done():
            return None
        del self._asking[id(member)]
        try:
            answer = asking.result()
        except TransportError as error:
            self._cannot_read(member, error)
            return None
        self._unreadable.pop(member.queue, None)
        return answer

    def _cannot_read(self, member: Watched, error: TransportError) -> None:
        """Tell the member why, and the log once: of a lost connection elsewhere, of a missing queue a little later."""
        member.take_obstacle(str(error))
        if isinstance(error, NotConnectedError):
            return
        now = time.monotonic()
        since = self._unreadable.setdefault(member.queue, now)
        if now - since >= (_MISSING_S if isinstance(error, QueueNotFoundError) else 0.0):
            self._unreadable[member.queue] = inf
            _log.warning("%s cannot be read for now, so only the least may be sent: %s", member.queue, error)

    def _add_up(self, member: Watched) -> None:
        """Tell all producers of a large fleet what all reports add up to, if that is due, and hear what is needed."""
        feedback = self._feedback
        told = member.due_sum(possible=feedback.carries_sums)
        members = [cast("Watched", each) for each in self._all()]
        feedback.listen(reports=any(each.listens for each in members), sums=any(each.hears_sums for each in members))
        if told is not None:
            feedback.send(told, is_sum=True)

    def _all(self) -> list[Member]:
        with self._guard:
            return list(self._members)

    def _on_report(self, payload: bytes) -> None:
        try:
            told = decode_sum(payload) if is_sum(payload) else decode(payload, histograms=False)
        except FeedbackError:
            return  # anybody may publish there
        for member in self._all():
            watched, news = cast("Watched", member), SumNews.NONE
            if not isinstance(told, FleetSum):
                if watched.listens:
                    watched.take_report(told)
                    if isinstance(told, ConsumerReport) and told.queue == watched.queue:
                        news = SumNews.USUAL
            elif watched.hears_sums:
                news = watched.take_sum(told)
            if news and (ear := self._ears.get(id(member))) is not None:
                ear.hear(news)

    def _answer_to(self, payload: bytes) -> bytes | None:
        """Return what a report that asks is answered with."""
        with suppress(FeedbackError):
            answers = (cast("Watched", member).answer(payload) for member in self._all())
            return next((answer for answer in answers if answer is not None), None)
        return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=QueueWatcher.forget)


async def _set_by(moment: float, event: asyncio.Event) -> bool:
    """Wait for the ``event`` until ``moment``; return whether it came."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, moment - time.monotonic())):
            await event.wait()
    return event.is_set()


async def _stopped(stop: Callable[[], Awaitable[None]]) -> None:
    with suppress(TransportError, TimeoutError):
        async with asyncio.timeout(_CLOSE_WITHIN_S):
            await stop()


def _transport(url: str, feedback: str, group: str, management_url: str = "", prometheus_url: str = "") -> Transport:
    # What AMQP's client libraries write behind "?" is their own; in Kafka's URL it is the way to log in.
    bare = url if url.lower().startswith("kafka") else re.split("[?#]", url, maxsplit=1)[0]
    try:
        settings = Settings.model_validate(
            {
                "broker": {"url": bare, "management_url": management_url, "prometheus_url": prometheus_url},
                "feedback": {"exchange": feedback},
                "queue": {"consumer_group": group},
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        for name, api in (("management_url", management_url), ("prometheus_url", prometheus_url)):
            if name in first["loc"]:
                raise ConfigError(name, api, first["msg"]) from None
        raise ConfigError("url", url, f"expected the URL of a broker: {first['msg']}") from None
    return connect(settings)
