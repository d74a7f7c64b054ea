"""What a phase sends to the running processes, and what happens to one that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from backpressure.core.journal import Outcome, ProducerRecord
from backpressure.errors import ExperimentError
from backpressure.experiments import library
from backpressure.experiments.fleet import Fleet, ProcessControl
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.experiments.supervisor import Child
from backpressure.telemetry.journal_file import JournalWriter

PHASES = """
name = "x"
[[phase]]
name = "first"
duration_s = 1
[[phase]]
name = "second"
duration_s = 1
queue.max_length = 5
producer.rate = 7
producer.count = 2
consumer.rate = 9
"""


class Told:
    """Stands for the supervisor and for the control APIs: what each role was told."""

    def __init__(self) -> None:
        self.changes: dict[str, Mapping[str, Any]] = {}

    def of(self, role: str) -> str:
        return role

    async def configure(self, children: str, changes: Mapping[str, Any]) -> None:
        self.changes[str(children)] = changes


def test_a_phase_gives_every_role_its_settings_after_a_reconnect_too(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(PHASES)
    scenario = library.load(str(path))
    told = Told()
    directory = create(tmp_path, "x", datetime.now(UTC))
    fleet = Fleet(cast("Any", told), cast("Any", told), directory, common={}, scenario=scenario)
    asyncio.run(fleet.configure(scenario.phases[1]))
    assert told.changes == {
        "producer": {"queue.max_length": 5, "producer.rate": 7},  # it declares the queue when it connects again
        "consumer": {"consumer.rate": 9},
    }


class Crew:
    """Stands for the supervisor: children that settle what they are told to, or stop."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._children: list[Child] = []

    def next_id(self, role: str) -> str:
        return f"{role}-{len(self._children) + 1}"

    def of(self, role: str) -> list[Child]:
        return [child for child in self._children if child.role == role and not child.stopping]

    async def start(self, role: str, process_id: str, *_: object) -> Child:
        self._children.append(Child(role, process_id, cast("Any", None), Path("log")))
        return self._children[-1]

    async def stop(self, children: Iterable[Child]) -> None:
        for child in children:
            child.stopping = True

    def settles(self, process_id: str, messages: int) -> None:
        with JournalWriter(self._directory.journal(process_id)) as journal:
            for n in range(messages):
                journal.write(ProducerRecord(1, n, Outcome.CONFIRMED, 1, 1, 1))


def test_a_producer_is_expected_to_send_its_limit_or_what_it_had_sent_when_stopped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(PHASES)
    scenario = library.load(str(path), ("producer.limit=100", "producer.count=2", "phase.second.producer.count=1"))
    directory = create(tmp_path, "x", datetime.now(UTC))
    crew = Crew(directory)
    fleet = Fleet(cast("Any", crew), cast("Any", Told()), directory, common={}, scenario=scenario)

    async def scene() -> None:
        await fleet.launch()
        assert fleet.due == 200
        first, second = crew.of("producer")
        crew.settles(first.id, 40)
        await crew.stop([first])
        await fleet.replace([first])  # killed: another one goes on with the 60 that are left
        assert fleet.due == 200
        crew.settles(crew.of("producer")[-1].id, 5)
        await fleet.scale(await fleet.configure(scenario.phases[1]))  # the newest goes
        assert crew.of("producer") == [second]
        assert fleet.due == 40 + 5 + 100

    asyncio.run(scene())


class Process:
    """A child's process that ends when it is waited for, or never does."""

    def __init__(self, *, ends: bool) -> None:
        self.returncode: int | None = None
        self._ends = ends

    async def wait(self) -> None:
        if not self._ends:
            raise TimeoutError
        self.returncode = 0


def post(answer: Callable[[httpx.Request], httpx.Response], *, ends: bool = False) -> None:
    child = Child("producer", "producer-1", cast("Any", Process(ends=ends)), Path("log"), {"api_url": "http://child"})
    children: Iterable[Child] = [child]

    async def scene() -> None:
        async with ProcessControl(httpx.MockTransport(answer)) as control:
            await control.configure(children, {"producer.rate": 5})

    asyncio.run(scene())


def refuse(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody listens")


def test_a_producer_that_is_about_to_end_need_not_hear_of_a_change() -> None:
    post(refuse, ends=True)


def test_a_process_that_lives_and_does_not_answer_ends_the_run() -> None:
    with pytest.raises(ExperimentError, match="producer-1 does not answer"):
        post(refuse)


def test_a_process_that_has_no_broker_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backpressure.experiments.fleet._POLL_S", 0.0)
    answers = SimpleNamespace(codes=iter([503, 503, 200]))
    post(lambda _: httpx.Response(next(answers.codes)))
    assert next(answers.codes, None) is None
