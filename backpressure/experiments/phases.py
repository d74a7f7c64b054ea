"""Goes through the phases of a scenario on the run's clock.

The boundaries are computed from the start of the first phase, so delays do not add up. What a phase changes is applied
after it has begun. The time of a phase with a fault counts from when that has taken effect, and the time of one that
waits for something from when its changes are in force: what a slow broker leaves of it would be judged as the whole.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Self

from backpressure.core.journal import Outcome
from backpressure.core.snapshot import Snapshot, Totals
from backpressure.engines.observer import Observer
from backpressure.experiments.events import PhaseBegan, PhaseEnded
from backpressure.experiments.fault_effects import Injection, Stage
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.scenario import Phase, Until
from backpressure.transports.base import QueueAdmin

_POLL_S = 0.05
_SETTLING_NS = 300_000_000
Outcomes = Callable[[str], Counter[Outcome]]
"""Counts what processes have settled, by a pattern of their names, in their journals."""
DoneElsewhere = Callable[[Snapshot], int | None]
"""Returns how many messages consumers that are not ours have done so far; None where nobody counts that."""


class Conductor:
    """Drives the fleet and the queue through the phases; leaving the context undoes the fault of the last one."""

    def __init__(
        self,
        directory: RunDirectory,
        stage: Stage,
        admin: QueueAdmin,
        observer: Observer,
        queue: str,
        done_elsewhere: DoneElsewhere | None = None,
    ) -> None:
        """``queue`` is the work queue, whose bound a phase may change and whose depth ends one.

        ``done_elsewhere``: None where the consumers are ours.
        """
        self._directory = directory
        self._stage = stage
        self._clock = stage.clock
        self._fleet = stage.fleet
        self._admin = admin
        self._observer = observer
        self._queue = queue
        self._done_elsewhere = done_elsewhere
        self._injection: Injection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._undo_fault()

    async def go_through(self, phase: Phase, begin_ns: int, *, first: bool) -> int:
        """Apply ``phase`` from ``begin_ns`` on and return when it ended, in nanoseconds; raises `PaceError`."""
        self._directory.append_event(PhaseBegan(at_ns=begin_ns, name=phase.name))
        reached: bool | None = None if phase.until is None else False
        end_ns = begin_ns
        try:
            end_ns, reached = await self._together(phase, begin_ns, first=first)
        except BaseException:
            end_ns = self._clock.wall_ns()  # interrupted: the phase ends here, and what it measured counts
            raise
        finally:
            self._directory.append_event(PhaseEnded(at_ns=end_ns, name=phase.name, reached=reached))
        return end_ns

    async def _together(self, phase: Phase, begin_ns: int, *, first: bool) -> tuple[int, bool | None]:
        try:
            async with asyncio.TaskGroup() as group:
                changing = group.create_task(self._begin(phase, begin_ns) if first else self._apply(phase))
                waiting = group.create_task(self._wait(phase, begin_ns, changing))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the others are consequences of the first
        return waiting.result()

    async def _begin(self, phase: Phase, begin_ns: int) -> None:
        self._directory.append_event(self._fleet.load(begin_ns))
        await self._fleet.go(begin_ns)
        self._inject_fault(phase)

    async def _apply(self, phase: Phase) -> None:
        if self._injection is not None and not self._injection.goes_on_as(phase.fault):
            await self._undo_fault()
        queue = phase.settings.queue
        if any(key.startswith("queue.") for key in phase.changes):
            await self._admin.set_bound(self._queue, max_length=queue.max_length, overflow=queue.overflow)
        before = await self._fleet.configure(phase, self._clock.wall_ns())
        self._directory.append_event(self._fleet.load(self._clock.wall_ns()))
        await self._fleet.scale(before)
        self._inject_fault(phase)

    def _inject_fault(self, phase: Phase) -> None:
        if phase.fault is not None and self._injection is None:
            self._injection = Injection(phase.fault, self._stage)

    async def _undo_fault(self) -> None:
        if self._injection is not None:
            await self._injection.undo()
            self._injection = None

    async def _wait(self, phase: Phase, begin_ns: int, changing: asyncio.Task[None]) -> tuple[int, bool | None]:
        """Return when the phase ended, and whether its ``until`` was met (None without one).

        It can be met only after ``changing`` is over: an empty queue says nothing before the producers have stopped.
        """
        counts_ns = changed_ns = begin_ns
        if phase.until is not None or phase.fault is not None:
            await asyncio.wait({changing})
            counts_ns = changed_ns = self._clock.wall_ns()
            if self._injection is not None:
                counts_ns = max(begin_ns, await self._injection.in_effect() or changed_ns)
        end_ns = counts_ns + round(phase.duration_s * 1e9)
        if phase.until is None:
            await asyncio.sleep((end_ns - self._clock.wall_ns()) / 1e9)
            return end_ns, None
        since_ns = 0
        while (now_ns := self._clock.wall_ns()) < end_ns:
            if not self._is_reached(phase.until, changed_ns):
                since_ns = 0
            elif not since_ns:
                since_ns = now_ns
            elif now_ns - since_ns > _SETTLING_NS:
                return since_ns, True
            await asyncio.sleep(_POLL_S)
        self._stage.happened(_missed(phase, self._observer.snapshot(), self._queue, self._done_elsewhere))
        return end_ns, False

    def _is_reached(self, until: Until, changed_ns: int) -> bool:
        snapshot = self._observer.snapshot()
        outcomes = self._directory.outcomes
        return is_reached(until, snapshot, self._fleet.due, self._queue, changed_ns, outcomes, self._done_elsewhere)


def is_reached(
    until: Until,
    snapshot: Snapshot,
    due: int,
    queue: str,
    changed_ns: int,
    outcomes: Outcomes,
    done_elsewhere: DoneElsewhere | None = None,
) -> bool:
    """Say whether the condition that a phase waits for seems to be met.

    It uses counters and a reading of the queue that is newer than ``changed_ns``. ``due`` is how many messages all
    producers have to settle. Counters of different processes are a moment apart, so the condition must hold for a
    moment. A killed process has not reported its last messages; where counters fall short for that reason, its journal
    counts. Of consumers that are not ours, what others count of them is used, and an empty queue where nobody does.
    """
    state = snapshot.queues.get(queue)
    empty = state is not None and state.depth == 0 and snapshot.at_ns - state.age_s * 1e9 > changed_ns
    totals = snapshot.totals
    published = _published(totals) >= due
    if not published and not snapshot.producers:
        published = outcomes("producer-*").total() >= due
    if until == "published":
        return published
    if until == "drained":
        return empty
    if not (published and empty):
        return False
    if done_elsewhere is not None:
        known = done_elsewhere(snapshot)
        confirmed = totals.confirmed if _published(totals) >= due else outcomes("producer-*")[Outcome.CONFIRMED]
        return known is None or known >= confirmed
    if totals.processed + totals.dead_lettered >= totals.confirmed:
        return True
    done = outcomes("consumer-*")
    return done[Outcome.PROCESSED] + done[Outcome.DEAD_LETTERED] >= outcomes("producer-*")[Outcome.CONFIRMED]


def share_done(
    until: Until | None, snapshot: Snapshot, due: int, done_elsewhere: DoneElsewhere | None = None
) -> float | None:
    """Return the share of the awaited messages that is done, by counters; None where they cannot tell."""
    if not due or until not in {"published", "consumed"}:
        return None
    done = _published(snapshot.totals) if until == "published" else _done(snapshot, done_elsewhere)
    return None if done is None else min(1.0, done / due)


def _done(snapshot: Snapshot, elsewhere: DoneElsewhere | None) -> int | None:
    totals = snapshot.totals
    return totals.processed + totals.dead_lettered if elsewhere is None else elsewhere(snapshot)


def _published(totals: Totals) -> int:
    return totals.confirmed + totals.rejected + totals.returned


def _missed(phase: Phase, snapshot: Snapshot, queue: str, elsewhere: DoneElsewhere | None) -> str:
    """Return why a phase ends although its condition was not met."""
    state, totals = snapshot.queues.get(queue), snapshot.totals
    done = f"processed {totals.processed}, dead-lettered {totals.dead_lettered}"
    if elsewhere is not None:
        known = elsewhere(snapshot)
        done = f"done by consumers that are not ours {'unknown' if known is None else known}"
    return (
        f'"{phase.until}" did not come true within the {phase.duration_s:g} s of phase {phase.name}: '
        f"confirmed {totals.confirmed}, {done}, "
        f"in the queue {'unknown' if state is None else state.depth}"
    )
