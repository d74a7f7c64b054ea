"""The tool of the engine tests: time jumps in order, and a test that can never end says so."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from virtual_time import VirtualClock, run_virtually, stall


def test_an_hour_passes_at_once_and_timers_fire_in_their_order() -> None:
    async def story() -> list[tuple[str, float]]:
        clock, seen = VirtualClock(), []
        began = clock.now()

        async def note(name: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            seen.append((name, clock.now() - began))

        await asyncio.gather(note("hour", 3600), note("second", 1), note("millisecond", 0.001))
        return seen

    names, times_s = zip(*run_virtually(story()), strict=True)
    assert names == ("millisecond", "second", "hour")
    assert times_s == pytest.approx((0.001, 1, 3600))


def test_work_takes_no_time_unless_it_waits() -> None:
    async def story() -> float:
        clock = VirtualClock()
        began = clock.now()
        for _ in range(1000):
            await asyncio.sleep(0)
        return clock.now() - began

    assert run_virtually(story()) == 0


def test_both_clocks_tell_the_time_of_the_loop() -> None:
    async def story() -> tuple[float, int]:
        clock = VirtualClock()
        before, before_ns = clock.now(), clock.wall_ns()
        stall(2.5)
        return clock.now() - before, clock.wall_ns() - before_ns

    assert run_virtually(story()) == (2.5, 2_500_000_000)


def test_wake_ups_are_as_late_as_asked_for() -> None:
    async def story() -> list[float]:
        clock, began = VirtualClock(), VirtualClock().now()
        late = []
        for _ in range(4):
            due = clock.now() + 1
            await asyncio.sleep(1)
            late.append(clock.now() - due)
        assert clock.now() - began == pytest.approx(4.9)
        return late

    lateness = itertools.chain([0.0, 0.3, 0.0, 0.6], itertools.repeat(0.0))
    assert run_virtually(story(), lateness=lambda: next(lateness)) == pytest.approx([0, 0.3, 0, 0.6])


def test_waiting_for_what_nothing_will_do_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="deadlock"):
        run_virtually(_wait_for_ever())


async def _wait_for_ever() -> None:
    await asyncio.Event().wait()
