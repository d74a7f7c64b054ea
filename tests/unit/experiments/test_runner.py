"""What a run does if something goes wrong in the background."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from backpressure.dashboards.lines import RunLines
from backpressure.experiments import library
from backpressure.experiments.brokers import BrokerChoice
from backpressure.experiments.rundir import create
from backpressure.experiments.runner import Runner, _stop_signals


class Observer:
    def snapshot(self) -> None:
        raise KeyError("a queue nobody knows")


class Supervisor:
    def __init__(self) -> None:
        self.failures: list[str] = []

    def fail(self, reason: str) -> None:
        self.failures.append(reason)


def test_a_failure_of_sampling_ends_the_run_and_leaves_no_unnoticed_gap(tmp_path: Path) -> None:
    directory = create(tmp_path, "x", datetime.now(UTC))
    watcher = RunLines(lambda _: None)
    runner = Runner(library.load("normal"), directory, BrokerChoice("embedded"), watcher, "pace run normal")
    supervisor = Supervisor()
    runner._supervisor = cast("Any", supervisor)
    runner._start_ns = runner._clock.wall_ns()
    asyncio.run(runner._sample(cast("Any", Observer())))
    assert supervisor.failures == ["sampling failed: KeyError('a queue nobody knows')"]


def test_signals_wait_until_the_run_has_handlers_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: list[set[signal.Signals]] = []

    async def run(_: Runner, *, until_signalled: bool) -> str:
        assert until_signalled
        blocked.append({*signal.pthread_sigmask(signal.SIG_BLOCK, ())})
        with _stop_signals(lambda: None):
            blocked.append({*signal.pthread_sigmask(signal.SIG_BLOCK, ())})
        return "finished"

    monkeypatch.setattr(Runner, "run", run)
    before = {*signal.pthread_sigmask(signal.SIG_BLOCK, ())}
    directory = create(tmp_path, "x", datetime.now(UTC))
    Runner(library.load("normal"), directory, BrokerChoice("embedded"), RunLines(lambda _: None), "").conduct()
    assert blocked[0] >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    assert not blocked[1] & {signal.SIGINT, signal.SIGTERM}
    assert {*signal.pthread_sigmask(signal.SIG_BLOCK, ())} == before
