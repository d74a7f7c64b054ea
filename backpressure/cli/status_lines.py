"""What a producer or consumer says on a terminal every five seconds: rates, the law's decision, the queue, the wait.

Scripts read standard output too: where it is no terminal, nothing of this is printed, and the lines of totals that
``--progress-every`` asks for are.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from math import isfinite

import click

from backpressure.core.histogram import Histogram
from backpressure.core.reports import ConsumerReport, ProducerReport
from backpressure.program import printable
from backpressure.settings import ConsumerSettings, ProducerSettings

_EVERY_S = 5.0
_CLOCK_WIDTH = 10
_PROBE_PER_S = 0.05  # below that the consumers have stopped: a wait is not to be expected, but unknown


def tells_progress(settings: ProducerSettings | ConsumerSettings) -> bool:
    """Return whether totals are printed each so many messages: always for scripts, on a terminal if asked for."""
    usual = type(settings).model_fields["progress_every"].default
    return not sys.stdout.isatty() or settings.progress_every != usual


@contextlib.asynccontextmanager
async def telling(line: Callable[[], str] | None) -> AsyncIterator[None]:
    """Print ``line()`` every five seconds within the block, if there is one and a terminal to print it on."""
    if line is None or not sys.stdout.isatty():
        yield
        return
    task = asyncio.create_task(_tell(line), name="status")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tell(line: Callable[[], str]) -> None:
    line()  # the rates of the first line shown count from here
    while True:
        await asyncio.sleep(_EVERY_S)
        click.echo(f"{time.strftime('%H:%M:%S')}  {line()}")


class ProducerLine:
    """What the last seconds were like for a producer, against its state at the call before."""

    def __init__(self, report: Callable[[], ProducerReport], depth: Callable[[], int | None]) -> None:
        """``report`` has the counters, ``depth`` is the queue as the law sees it."""
        self._report = report
        self._depth = depth
        self._before: ProducerReport | None = None

    def __call__(self) -> str:
        """Return the line; the law's reason ends it where the terminal is wide enough."""
        now, depth = self._report(), self._depth()
        before, self._before = self._before, now
        sent = _per_s((before.published, before.at_ns) if before else None, (now.published, now.at_ns))
        bottleneck = now.bottleneck_per_s or 0.0
        wait_s = depth / bottleneck if depth is not None and bottleneck > _PROBE_PER_S else None
        line = (
            f"sent {sent:>7} of {_limit(now.target_rate_per_s):>7}  allowed {_limit(now.pacing_rate_per_s):>7}"
            f"  depth {'?' if depth is None else depth:>5}  wait {_duration(wait_s):>6}"
        )
        refused = now.rejected - (before.rejected if before else 0)
        line += f"  {refused} rejected" if refused else ""
        told = f"{line}  {printable(now.reason)}"
        return told if len(told) <= shutil.get_terminal_size().columns - _CLOCK_WIDTH else line


class ConsumerLine:
    """What the last seconds were like for a consumer, against its state at the call before."""

    def __init__(self, report: Callable[[], ConsumerReport]) -> None:
        """``report`` has the counters."""
        self._report = report
        self._before: ConsumerReport | None = None

    def __call__(self) -> str:
        """Return the line, and what needs attention after it."""
        now = self._report()
        before, self._before = self._before, now
        done = _per_s((before.processed, before.at_ns) if before else None, (now.processed, now.at_ns))
        waits = now.queue_wait.since(before.queue_wait if before else Histogram())
        possible = f"  of {_number(now.capacity_per_s)}/s" if now.capacity_per_s else ""
        line = (
            f"done {done:>7}{possible}  held {now.held:>3} of {now.prefetch}"
            f"  wait p50 {_duration(waits.quantile_s(0.5)):>6}  p99 {_duration(waits.quantile_s(0.99)):>6}"
        )
        dead = now.dead_lettered - (before.dead_lettered if before else 0)
        troubles = [f"{dead} dead-lettered"] if dead else []
        return "  ".join([line, *troubles, *(["paused"] if now.paused else [])])


def _per_s(before: tuple[int, int] | None, now: tuple[int, int]) -> str:
    if before is None or now[1] <= before[1]:
        return "?/s"  # a rate is a difference
    return f"{_number((now[0] - before[0]) * 1e9 / (now[1] - before[1]))}/s"


def _limit(per_s: float) -> str:
    return f"{_number(per_s)}/s" if isfinite(per_s) else "∞"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{value:.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return (
        f"{seconds * 1e3:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"
    )
