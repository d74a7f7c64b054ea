"""Runs driven from outside: one at a time, refused in sentences, noted, and ended with the program that drives them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backpressure.config import replaced
from backpressure.errors import ConfigError, ExperimentError, PaceError
from backpressure.experiments.brokers import BrokerChoice
from backpressure.experiments.faults import FAULTS
from backpressure.experiments.rundir import RunDirectory
from backpressure.settings import Settings
from backpressure.ui import driver as driven
from backpressure.ui.driver import Driver


@dataclass
class FakeFleet:
    settings: Settings = field(default_factory=Settings)
    changed: list[dict[str, Any]] = field(default_factory=list)

    async def adjust(self, changes: dict[str, Any]) -> None:
        self.changed.append(changes)


class FakeInjection:
    def __init__(self, failure: str) -> None:
        self.done = asyncio.Event()
        self.failure = failure

    async def until_over(self) -> None:
        await self.done.wait()

    async def undo(self) -> None:
        if self.failure:
            raise ExperimentError(self.failure)


class FakeRunner:
    """Goes into its first phase at once, and lasts until it is interrupted."""

    last: FakeRunner
    failure = ""

    def __init__(
        self, scenario: Any, directory: RunDirectory, choice: Any, watcher: Driver, command: str, *, ready_for: set[Any]
    ) -> None:
        FakeRunner.last = self
        self.directory, self.watcher, self.command, self.ready_for = directory, watcher, command, ready_for
        self.scenario, self.choice = scenario, choice
        self.fleet = FakeFleet(replaced(scenario.settings, {"consumer.rate": 100.0}))
        self.told: list[str] = []
        self.stage: Any = None
        self.injected: list[Any] = []
        self.interrupts = 0
        self.over = asyncio.Event()

    async def run(self) -> None:
        self.stage = SimpleNamespace(fleet=self.fleet, happened=self.told.append)
        self.watcher.began("title", "a broker", "work.queue", [])
        self.watcher.phase_began(0, lambda _: None)
        (self.directory.path / "run.json").touch()
        await self.over.wait()
        self.stage = None
        if self.failure:
            raise ExperimentError(self.failure)

    def inject(self, fault: Any) -> FakeInjection:
        self.injected.append((fault, FakeInjection("it did not come back")))
        return self.injected[-1][1]

    def interrupt(self) -> None:
        self.interrupts += 1
        self.over.set()


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Driver], Awaitable[None]]], None]:
    """Return a function that runs a story with a driver whose runner is a fake."""
    monkeypatch.setattr(driven, "Runner", FakeRunner)
    verdict = SimpleNamespace(verdict="passed", sentence="passed: all of it")
    monkeypatch.setattr(driven, "conclude", lambda _: verdict)
    monkeypatch.setattr(FakeRunner, "failure", "")

    def run(story: Callable[[Driver], Awaitable[None]], choice: str = "embedded") -> None:
        async def all_of_it() -> None:
            driver = Driver(tmp_path, BrokerChoice(choice))
            await story(driver)
            await driver.close()
            assert not driver.busy

        asyncio.run(all_of_it())

    return run


Play = Callable[..., None]


async def until(driver: Driver, condition: Callable[[], bool]) -> None:
    """Wait until a change that the driver tells makes ``condition`` true."""
    told, before = asyncio.Event(), driver.changed

    def changed() -> None:
        before()
        told.set()

    driver.changed = changed
    while not condition():
        await told.wait()
        told.clear()
    driver.changed = before


async def under_way(driver: Driver, **options: Any) -> FakeRunner:
    driver.start("recovery", **options)
    await until(driver, lambda: driver.state.state == "running")
    return FakeRunner.last


def test_the_settings_that_are_told_are_those_of_the_present_phase(play: Play) -> None:
    async def story(driver: Driver) -> None:
        runner = await under_way(driver)
        assert (driver.state.settings["consumer.count"], driver.state.strategy) == (1, "pace")
        later = {"consumer.count": 3, "producer.strategy": "aimd"}
        runner.fleet.settings = replaced(runner.fleet.settings, later)  # after the phase has been announced
        assert (driver.state.settings["consumer.count"], driver.state.strategy) == (3, "aimd")

    play(story)


def test_a_run_goes_from_start_to_verdict_and_every_change_is_told(play: Play) -> None:
    async def story(driver: Driver) -> None:
        states: list[str] = []
        driver.changed = lambda: states.append(driver.state.state)
        runner = await under_way(driver, strategy="aimd", assignments=("consumer.rate=70",))
        assert runner.command == "pace run recovery --broker embedded --set=consumer.rate=70 --strategy=aimd"
        state = driver.state
        assert (state.scenario, state.strategy, state.phase) == ("recovery", "aimd", 0)
        assert state.settings["consumer.rate"] == 100.0  # the fleet's own word counts from the first phase on
        assert [phase.name for phase in state.phases] == ["normal", "stopped", "recovery"]
        driver.noted("something happened")
        assert driver.state.notes[-1][1] == "something happened"
        driver.stop()
        await until(driver, lambda: not driver.busy)
        assert list(dict.fromkeys(states)) == ["starting", "running", "stopping", "judging", "idle"]
        assert (driver.state.verdict, driver.state.sentence, driver.state.reason) == ("passed", "passed: all of it", "")

    play(story)


def test_one_run_at_a_time_and_nothing_without_one(play: Play) -> None:
    async def story(driver: Driver) -> None:
        with pytest.raises(ExperimentError, match="no run is under way"):
            driver.stop()
        with pytest.raises(ExperimentError, match="no phase of a run is under way"):
            await driver.adjust({"consumer.rate": 5})
        with pytest.raises(ExperimentError, match="no phase of a run is under way"):
            driver.inject("consumer-stop", 1)
        await under_way(driver)
        with pytest.raises(ExperimentError, match="recovery is under way: stop it first"):
            driver.start("steps")

    play(story)


@pytest.mark.parametrize(
    ("scenario", "options", "reason"),
    [
        ("/etc/passwd", {}, "expected one of backpressure"),
        ("recovery", {"strategy": "fastest"}, "expected one of unbounded"),
        ("recovery", {"assignments": ["consumer.rate=fast"]}, "consumer.rate"),
        ("recovery", {"assignments": ["consumer.command=python worker.py"]}, "command line only"),
        ("recovery", {"assignments": ["consumer.handler=shop.orders:work"]}, "command line only"),
        ("recovery", {"assignments": ["producer.handler=shop.orders:order"]}, "command line only"),
        ("recovery", {"assignments": ["producer.samples=README.md"]}, "files are named on the command line only"),
        ("recovery", {"assignments": ["producer.profile=table:file=rates.csv"]}, "files are named on the command"),
        ("recovery", {"assignments": ["process.ids_file=ids"]}, "files are named on the command line only"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    play: Play, tmp_path: Path, scenario: str, options: dict[str, Any], reason: str
) -> None:
    async def story(driver: Driver) -> None:
        with pytest.raises(ConfigError, match=reason):
            driver.start(scenario, **options)

    play(story)
    assert not list(tmp_path.iterdir())


def test_settings_are_changed_for_all_processes_and_noted_in_the_run(play: Play) -> None:
    async def story(driver: Driver) -> None:
        runner = await under_way(driver)
        await driver.adjust({"consumer.rate": 20.0})
        assert runner.fleet.changed == [{"consumer.rate": 20.0}]
        assert runner.told == ["by hand: consumer.rate = 20.0"]
        with pytest.raises(ConfigError, match="expected one of consumer"):
            await driver.adjust({"broker.url": "amqp://elsewhere"})
        with pytest.raises(ConfigError, match="expected one of unbounded"):
            await driver.adjust({"producer.strategy": "package.module:Law"})
        assert len(runner.fleet.changed) == 1

    play(story)


def test_a_fault_lasts_its_time_alone_and_one_that_cannot_be_undone_is_told(play: Play) -> None:
    async def story(driver: Driver) -> None:
        runner = await under_way(driver)
        driver.inject("nacks:share=0.5", 3.0)
        ((fault, injection),) = runner.injected
        assert (fault.name, fault.share, fault.for_s) == ("nacks", 0.5, 3.0)
        assert driver.state.fault == "nacks"
        with pytest.raises(ExperimentError, match="nacks is not over: one fault at a time"):
            driver.inject("consumer-stop", 1)
        injection.done.set()
        await until(driver, lambda: not driver.state.fault)
        assert driver.state.notes[-1][1] == "nacks: it did not come back"
        with pytest.raises(ConfigError, match="no such fault"):
            driver.inject("nax", 1)
        with pytest.raises(ConfigError, match="at most 600 seconds"):
            driver.inject("consumer-stop", 601)
        with pytest.raises(ExperimentError, match="not made ready for it"):
            driver.inject("network-cut", 1)

    play(story)


def test_a_run_that_was_made_ready_can_have_every_fault_that_its_broker_can(play: Play) -> None:
    async def story(driver: Driver) -> None:
        runner = await under_way(driver, ready=True)
        possible = {kind for kind in FAULTS.values() if kind.brokers is None or "embedded" in kind.brokers}
        assert {kind for kind in FAULTS.values() if not driver.kept_from(kind)} == possible
        assert runner.ready_for == possible
        assert FAULTS["network-cut"] in possible

    play(story)


def test_a_broker_that_cannot_have_a_fault_is_named(play: Play) -> None:
    async def story(driver: Driver) -> None:
        assert "the broker at a URL is not ours to disturb" in driver.kept_from(FAULTS["broker-kill"])
        assert driver.kept_from(FAULTS["consumer-kill"]) == ""

    play(story, choice="external")


def test_closing_ends_the_run_and_what_failed_is_told_in_its_own_words(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRunner, "failure", "the broker died")

    async def story(driver: Driver) -> None:
        runner = await under_way(driver)
        await driver.close()
        assert runner.interrupts == 1
        assert driver.state.reason == "the broker died"
        assert driver.state.verdict == "passed"  # what was measured is judged all the same

    play(story)


def test_a_report_that_cannot_be_written_is_told(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(driver: Driver) -> None:
        def full(_: RunDirectory) -> None:
            raise PaceError("the disk is full")

        monkeypatch.setattr(driven, "conclude", full)
        await under_way(driver)
        await driver.close()
        assert (driver.state.state, driver.state.reason, driver.state.verdict) == ("idle", "the disk is full", "")

    play(story)
