"""What a run does when something goes wrong where nobody looks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from backpressure.dashboards.lines import RunLines
from backpressure.experiments import library
from backpressure.experiments.brokers import BrokerChoice
from backpressure.experiments.rundir import create
from backpressure.experiments.runner import Runner


class Observer:
    def snapshot(self) -> None:
        raise KeyError("a queue nobody knows")


class Supervisor:
    def __init__(self) -> None:
        self.failures: list[str] = []

    def fail(self, reason: str) -> None:
        self.failures.append(reason)


def test_sampling_that_goes_wrong_ends_the_run_and_leaves_no_gap_that_nobody_sees(tmp_path: Path) -> None:
    directory = create(tmp_path, "x", datetime.now(UTC))
    watcher = RunLines(lambda _: None)
    runner = Runner(library.load("normal"), directory, BrokerChoice("embedded"), watcher, "pace run normal")
    supervisor = Supervisor()
    runner._supervisor = cast("Any", supervisor)
    runner._start_ns = runner._clock.wall_ns()
    asyncio.run(runner._sample(cast("Any", Observer())))
    assert supervisor.failures == ["sampling failed: KeyError('a queue nobody knows')"]
