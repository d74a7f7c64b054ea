"""What ends a phase, what the consumers can do, and what a sample contains."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime
from math import inf, sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from backpressure.config import replaced
from backpressure.core.journal import Outcome
from backpressure.core.snapshot import Event, EventKind, Quantiles, QueueState, Rates, Snapshot, Totals
from backpressure.experiments.events import LoadChanged
from backpressure.experiments.fault_effects import EFFECTS, Stage
from backpressure.experiments.faults import Fault
from backpressure.experiments.phases import Conductor, is_reached, share_done
from backpressure.experiments.recording import Recorder, Sample, StrangersSeen
from backpressure.experiments.rundir import create
from backpressure.experiments.scenario import Phase, Until, service
from backpressure.experiments.witness import SeenElsewhere, done_by_strangers
from backpressure.settings import Settings

BEGIN_NS = 1_000_000_000_000
NOTHING_KILLED = {"producer-*": Counter({Outcome.CONFIRMED: 199}), "consumer-*": Counter({Outcome.PROCESSED: 150})}
DUE = 200


@pytest.fixture
def bare() -> Any:
    """Return a function that makes a snapshot; only the given fields matter."""

    def make(**values: Any) -> Snapshot:
        defaults: dict[str, Any] = {
            "queues": {},
            "producers": (),
            "consumers": (),
            "totals": Totals(),
            "rates": Rates(),
            "queue_wait": Quantiles(),
            "confirm_latency": Quantiles(),
            "pacing_rate_per_s": None,
            "events": (),
            "at_ns": BEGIN_NS + 2_000_000_000,
        }
        known = {spec.name for spec in fields(Snapshot)}
        rest: dict[str, Any] = dict.fromkeys(known - defaults.keys())
        return Snapshot(**{**rest, **defaults, **values})

    return make


def queue(ready: int, unacked: int = 0, age_s: float = 0.1) -> dict[str, QueueState]:
    return {"work.queue": QueueState(name="work.queue", ready=ready, unacked=unacked, consumers=1, age_s=age_s)}


@pytest.mark.parametrize(
    ("until", "totals", "queues", "reached"),
    [
        ("published", Totals(confirmed=199), queue(5), False),
        ("published", Totals(confirmed=200), queue(5), True),
        ("published", Totals(confirmed=150, rejected=40, returned=10), queue(5), True),
        ("drained", Totals(), queue(0), True),
        ("drained", Totals(), queue(0, unacked=1), False),
        ("drained", Totals(), {}, False),
        ("drained", Totals(), queue(0, age_s=3.0), False),  # read before the phase began
        ("consumed", Totals(confirmed=200, processed=200), queue(0), True),
        ("consumed", Totals(confirmed=200, processed=190, dead_lettered=10), queue(0), True),
        ("consumed", Totals(confirmed=200, processed=199), queue(0), False),
        (
            "consumed",
            Totals(confirmed=200, processed=201),
            queue(0, unacked=1),
            False,
        ),  # duplicates do not count
        ("consumed", Totals(confirmed=100, processed=100), queue(0), False),  # not all published yet
    ],
)
def test_a_phase_ends_when_what_it_waits_for_is_so(
    bare: Any, until: Until, totals: Totals, queues: dict[str, QueueState], reached: bool
) -> None:
    snapshot = bare(totals=totals, queues=queues)
    assert is_reached(until, snapshot, DUE, "work.queue", BEGIN_NS, NOTHING_KILLED.__getitem__) is reached


@pytest.mark.parametrize(
    ("until", "confirmed", "done", "reached"),
    [
        ("published", 200, 0, True),
        ("published", 199, 0, False),
        ("consumed", 200, 200, True),
        ("consumed", 200, 199, False),
        ("consumed", 199, 199, False),
    ],
)
def test_what_a_killed_process_could_not_report_any_more_is_found_in_its_journal(
    bare: Any, until: Until, confirmed: int, done: int, reached: bool
) -> None:
    snapshot = bare(totals=Totals(confirmed=190, processed=180), queues=queue(0))
    books = {
        "producer-*": Counter({Outcome.CONFIRMED: confirmed}),
        "consumer-*": Counter({Outcome.PROCESSED: done - done // 10, Outcome.DEAD_LETTERED: done // 10}),
    }
    assert is_reached(until, snapshot, DUE, "work.queue", BEGIN_NS, books.__getitem__) is reached


@pytest.mark.parametrize(
    ("until", "due", "share"),
    [
        ("published", 200, 0.5),
        ("consumed", 200, 0.25),
        ("published", 50, 1.0),
        (None, 200, None),
        ("drained", 200, None),
        ("published", 0, None),
    ],
)
def test_how_far_a_phase_has_come_is_reported_by_what_it_waits_for(
    bare: Any, until: Until | None, due: int, share: float
) -> None:
    totals = Totals(confirmed=80, rejected=15, returned=5, processed=40, dead_lettered=10)
    assert share_done(until, bare(totals=totals), due) == share


@pytest.mark.parametrize(
    ("ledger", "counted", "by_proxy", "dead", "done"),
    [
        (190, StrangersSeen(200, 200, 0), 0, 10, 200),  # acknowledged is not done
        (None, StrangersSeen(200, 150, 0, without_ack=50), 0, 0, 200),
        (None, StrangersSeen(200, 150, 50), 180, 0, 180),  # the proxy has counted more than the broker tells yet
        (None, None, 120, 5, 125),
        (None, None, 0, 5, None),
    ],
)
def test_what_others_consume_is_known_by_the_ledger_or_else_by_acknowledgements(
    bare: Any, ledger: int | None, counted: StrangersSeen | None, by_proxy: int, dead: int, done: int | None
) -> None:
    letters = QueueState(name="dead", ready=dead, unacked=0, consumers=0, age_s=0.1)
    snapshot = bare(totals=Totals(processed=by_proxy), queues={"dead": letters})
    assert done_by_strangers(snapshot, ledger, counted, "dead") == done


def test_live_views_show_what_others_process_as_the_ledger_sees_it(bare: Any) -> None:
    elsewhere = SeenElsewhere()
    counted = StrangersSeen(200, 150, 0, acked_per_s=99.0)
    seen = [elsewhere.complete(bare(at_ns=tenth * 10**8), 5 * tenth, counted) for tenth in range(1, 31)]
    assert seen[0].rates.processed_per_s is None  # a rate is a difference
    assert seen[-1].rates.processed_per_s == 50
    assert seen[-1].totals.processed == 150


def test_live_views_show_what_the_broker_has_counted_where_no_ledger_is_kept(bare: Any) -> None:
    counted = StrangersSeen(200, 150, 0, without_ack=7, acked_per_s=99.0)
    seen = SeenElsewhere().complete(bare(), None, counted)
    assert (seen.rates.processed_per_s, seen.totals.processed) == (99.0, 157)
    assert SeenElsewhere().complete(bare(), None, None) == bare()


@pytest.mark.parametrize(
    ("done", "depth", "reached"),
    [(200, 0, True), (199, 0, False), (None, 0, True), (None, 1, False), (200, 1, False)],
)
def test_what_others_consume_ends_a_phase_once_all_is_done_and_the_queue_is_empty(
    bare: Any, done: int | None, depth: int, reached: bool
) -> None:
    snapshot = bare(totals=Totals(confirmed=DUE), queues=queue(depth))
    found = is_reached("consumed", snapshot, DUE, "work.queue", BEGIN_NS, NOTHING_KILLED.__getitem__, lambda _: done)
    assert found is reached
    assert share_done("consumed", snapshot, DUE, lambda _: done) == (None if done is None else done / DUE)


class SteppingClock:
    """Half a second passes each time it is read."""

    now_ns = BEGIN_NS

    def wall_ns(self) -> int:
        self.now_ns += 500_000_000
        return self.now_ns

    async def four_seconds(self) -> None:
        for _ in range(8):
            self.wall_ns()
            await asyncio.sleep(0)


class FakeFleet:
    """As many messages are in the queue as ``depth``; what changes is in force at once, or ``late``."""

    due = 0
    looks = 0

    def __init__(self, clock: SteppingClock, bare: Any, depth: int, *, late: bool = False) -> None:
        self._clock = clock
        self._bare = bare
        self._depth = depth
        self._late = late

    async def configure(self, phase: Phase, _begin_ns: int) -> Settings:
        return phase.settings

    async def scale(self, _: Settings) -> None:
        if self._late:
            await self._clock.four_seconds()
            assert self.looks == 0

    def load(self, at_ns: int) -> LoadChanged:
        return LoadChanged(at_ns=at_ns, capacity_per_s=1, demand_per_s=1)

    def snapshot(self) -> Snapshot:
        self.looks += 1
        return cast("Snapshot", self._bare(queues=queue(self._depth, age_s=0.0), at_ns=self._clock.now_ns))


def played(phases: list[Phase], clock: SteppingClock, fleet: FakeFleet, folder: Path) -> int:
    """Return when the last of these phases ended."""

    async def scene() -> int:
        end_ns = BEGIN_NS
        directory = create(folder, "x", datetime.now(UTC))
        stage = SimpleNamespace(clock=clock, fleet=fleet, happened=lambda _: None, record=lambda _: None)
        async with Conductor(
            directory, cast("Any", stage), cast("Any", None), cast("Any", fleet), "work.queue"
        ) as conductor:
            for phase in phases:
                end_ns = await conductor.go_through(phase, end_ns, first=False)
        return end_ns

    return asyncio.run(scene())


def test_a_phase_does_not_end_while_its_changes_are_not_in_force(bare: Any, tmp_path: Path) -> None:
    """The queue is empty all the time, but the producers that the phase stops send until they are stopped."""
    clock = SteppingClock()
    fleet = FakeFleet(clock, bare, 0, late=True)
    ended_ns = played([Phase("drain", 60.0, "drained", Settings(), {})], clock, fleet, tmp_path)
    assert BEGIN_NS + 4e9 < ended_ns < BEGIN_NS + 60e9


def test_the_time_of_a_phase_counts_from_when_its_fault_has_taken_effect(
    bare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phase of two seconds with a fault that takes four seconds to begin: it must not be over before."""

    class Late(Fault):
        name: ClassVar[str] = "late"

    @asynccontextmanager
    async def begin_late(_fault: Fault, _stage: Stage) -> AsyncIterator[None]:
        await clock.four_seconds()
        yield

    clock = SteppingClock()
    monkeypatch.setitem(EFFECTS, Late, begin_late)
    phase = Phase("broken", 2.0, "drained", Settings(), {}, fault=Late())
    assert played([phase], clock, FakeFleet(clock, bare, 5), tmp_path) >= BEGIN_NS + 6e9


class Recurring(Fault):
    """An event."""

    name: ClassVar[str] = "recurring"


class State(Fault):
    """A state."""

    name: ClassVar[str] = "state"
    lasting: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("faults", "done"),
    [
        ([State(), State()], ["done", "undone"]),
        ([Recurring(), Recurring()], ["done", "undone", "done", "undone"]),
        ([State(for_s=9), State(for_s=9)], ["done", "undone", "done", "undone"]),
        ([State(), State(for_s=9)], ["done", "undone", "done", "undone"]),
        ([State(), None], ["done", "undone"]),
    ],
)
def test_a_state_goes_on_where_the_next_phase_asks_for_the_same_and_an_event_happens_again(
    bare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[Fault | None], done: list[str]
) -> None:
    happened = []

    @asynccontextmanager
    async def happen(_fault: Fault, _stage: Stage) -> AsyncIterator[None]:
        happened.append("done")
        yield
        happened.append("undone")

    monkeypatch.setitem(EFFECTS, Recurring, happen)
    monkeypatch.setitem(EFFECTS, State, happen)
    clock = SteppingClock()
    phases = [Phase(f"{n}", 4.0, "drained", Settings(), {}, fault=fault) for n, fault in enumerate(faults)]
    played(phases, clock, FakeFleet(clock, bare, 5), tmp_path)
    assert happened == done


@pytest.mark.parametrize(
    ("changes", "mean_s", "cv"),
    [
        ({"consumer.rate": 50}, 0.02, 0.0),
        ({"consumer.rate": 50, "consumer.distribution": "exponential"}, 0.02, 1.0),
        (
            {
                "consumer.distribution": "uniform",
                "consumer.processing_min_ms": 10,
                "consumer.processing_max_ms": 30,
            },
            0.02,
            1 / sqrt(12),
        ),
        ({"producer.processing_time_s": 0.1, "consumer.distribution": "exponential"}, 0.1, 0.0),
    ],
)
def test_mean_and_spread_of_service_times_follow_the_settings(
    changes: dict[str, object], mean_s: float, cv: float
) -> None:
    assert service(replaced(Settings(), changes)) == (pytest.approx(mean_s), pytest.approx(cv))


def test_a_sample_survives_its_line_of_json_with_what_is_unknown(bare: Any) -> None:
    snapshot = bare(queues=queue(40, 5), pacing_rate_per_s=inf, rates=Rates(processed_per_s=98.0))
    sample = Recorder("work.queue").sample(1.2345, snapshot, {"me": os.getpid(), "nobody": 2**22 + 1})
    assert Sample.from_json(sample.to_json()) == sample
    assert (sample.depth, sample.processed_per_s) == (45, 98.0)
    assert sample.published_per_s is None
    assert sample.allowed_per_s is None  # no limit
    assert sample.rss_mb.keys() == {"me"}  # a process that has just ended is no error
    assert sample.rss_mb["me"] > 1


def test_a_sample_ignores_what_a_later_version_added() -> None:
    assert Sample.from_json('{"t_s": 1.0, "ready": 2, "colour": "blue"}') == Sample(t_s=1.0, ready=2)


def test_each_event_is_noted_once(bare: Any) -> None:
    events = tuple(Event(at_ns, EventKind.APPEARED, f"event {n}") for n, at_ns in enumerate((5, 7, 7)))
    recorder = Recorder("work.queue")
    assert [note.text for note in recorder.notes(bare(events=events[:1]))] == ["event 0"]
    assert [note.text for note in recorder.notes(bare(events=events))] == ["event 1", "event 2"]
