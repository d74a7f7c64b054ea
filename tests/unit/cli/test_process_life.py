"""How a command reports its end."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Iterator

import click
import pytest

from backpressure.cli import options
from backpressure.cli.commands import Failure
from backpressure.cli.process import run_engine, settings_from
from backpressure.errors import BrokerUnavailableError, ConfigError
from backpressure.settings import LogSettings
from backpressure.telemetry import logs


@pytest.fixture(autouse=True)
def _kept_logging() -> Iterator[None]:
    """The logging of the test run is put back afterwards."""
    root, package = logging.getLogger(), logging.getLogger("backpressure")
    kept, level, package_level = root.handlers[:], root.level, package.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)
    package.setLevel(package_level)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_last_error_comes_in_the_form_of_the_log(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings.model_validate({"format": form}))
    Failure(BrokerUnavailableError("amqp://mq:5672", "connection refused")).show()
    said = capsys.readouterr().err
    text = json.loads(said)["message"] if form == "json" else said.strip().removeprefix("error: ")
    assert text == "no broker at amqp://mq:5672: connection refused"


def test_what_is_wrong_with_the_settings_comes_in_the_form_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @options.logs
    @click.pass_context
    def program(context: click.Context, **_: object) -> None:
        settings_from(context)

    monkeypatch.setenv("PACE_CONFIG", "")
    monkeypatch.setenv("PACE_PRODUCER__RATE", "fast")
    with pytest.raises(ConfigError) as refused:
        program.main(["--log-format", "json"], standalone_mode=False)
    Failure(refused.value).show()
    assert "producer.rate" in json.loads(capsys.readouterr().err)["message"]


class Looking:
    """An engine that notes what the garbage collector does while it runs."""

    def __init__(self) -> None:
        self.set_aside = 0
        self.young = 0

    async def start(self) -> None:
        self.loaded = [[number] for number in range(1000)]

    async def run(self) -> None:
        self.set_aside, self.young = gc.get_freeze_count(), gc.get_threshold()[0]

    def stop(self) -> None:
        pass

    async def close(self) -> None:
        pass


def test_while_an_engine_runs_nothing_it_started_with_is_searched_for_garbage() -> None:
    engine, thresholds, before = Looking(), gc.get_threshold(), gc.get_freeze_count()
    try:
        assert asyncio.run(run_engine(engine))
        assert engine.set_aside >= before + 1000
        assert engine.young > thresholds[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


class Slow(Looking):
    """An engine that starts once somebody has asked what it waits for."""

    address = "amqp://mq:5672"

    def __init__(self, obstacle: str) -> None:
        super().__init__()
        self._obstacle = obstacle
        self._asked = asyncio.Event()

    @property
    def obstacle(self) -> str:
        self._asked.set()
        return self._obstacle

    async def start(self) -> None:
        await self._asked.wait()


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        ("", "waiting for answers of the broker at amqp://mq:5672"),
        ("no broker at mq: refused", "no broker at mq: refused; with --no-wait this ends at once instead"),
    ],
)
def test_a_start_that_takes_long_says_what_it_waits_for(
    obstacle: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @click.command()
    @options.no_wait
    def program(**_: object) -> None:
        engine = Slow(obstacle)
        assert asyncio.run(run_engine(engine, broker=engine))

    monkeypatch.setattr("backpressure.cli.process._SAY_AFTER_S", 0.0)
    thresholds = gc.get_threshold()
    caplog.set_level(logging.INFO)
    try:
        program.main([], standalone_mode=False)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    assert [record.getMessage() for record in caplog.records] == [f"not started yet: {said}"]


class Working(Looking):
    """An engine that runs until it is stopped, and hears the same signal again meanwhile."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self._number = number
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        os.kill(os.getpid(), self._number)
        await self._stopped.wait()
        os.kill(os.getpid(), self._number)
        for _ in range(3):  # the loop reads that there was a signal, then calls the handler
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._stopped.set()


@pytest.mark.parametrize(("number", "at_once"), [(signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_a_second_signal_ends_it_at_once_but_for_the_second_of_a_terminal_that_ends(
    number: signal.Signals, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        assert asyncio.run(run_engine(Working(number)))
    finally:
        signal.signal(signal.SIGHUP, before)
        gc.unfreeze()
    assert ended == ([130] if at_once else [])
