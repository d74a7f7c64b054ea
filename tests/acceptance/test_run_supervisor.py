"""Starting, watching and stopping processes, with small scripts instead of the real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from backpressure.errors import ExperimentError
from backpressure.experiments.brokers import watching
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.experiments.supervisor import Child, Supervisor

READY = """
import json, os, pathlib, signal, sys, time
def ready(**facts):
    part = pathlib.Path(os.environ["ANNOUNCE"] + ".part")
    part.write_text(json.dumps({"pid": os.getpid(), "ready": True, **facts}))
    part.rename(os.environ["ANNOUNCE"])
print("starting", flush=True)
"""
STOPS = (
    READY
    + """
def stop(*_):
    with open(os.environ["STOPS"], "a") as file: file.write(os.environ["NAME"] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
ready(api_url="http://127.0.0.1:1")
time.sleep(60)
"""
)
STUBBORN = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(60)"
FAILS_AT_START = READY + "print('no such law', flush=True); sys.exit(2)"
DIES_LATER = READY + "ready(); print('out of luck', flush=True); sys.exit(7)"
ENDS_WELL = READY + "ready()"
NEVER_READY = READY + "time.sleep(60)"
SHOWS = READY + "ready(environment=dict(os.environ), here=os.getcwd(), session=os.getsid(0)); time.sleep(60)"


class Stage:
    """A supervisor over a run directory, and what it reported."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.ready: list[str] = []
        self.ended: list[tuple[str, int | None]] = []
        self.supervisor = Supervisor(
            directory,
            lambda _role, process_id, _pid: self.ready.append(process_id),
            lambda process_id, code: self.ended.append((process_id, code)),
        )

    async def start(self, role: str, script: str, *, timeout_s: float = 30.0) -> Child:
        name = self.supervisor.next_id(role)
        variables = {
            "ANNOUNCE": str(self.directory.announcement(name)),
            "STOPS": str(self.directory.path / "stops"),
            "NAME": name,
        }
        command = [sys.executable, "-c", script]
        return await self.supervisor.start(role, name, command, variables, timeout_s=timeout_s)


def play(tmp_path: Path, story: Callable[[Stage], Awaitable[None]]) -> Stage:
    """Run ``story`` inside a supervisor and return the stage after it was left."""

    async def scene() -> Stage:
        stage = Stage(create(tmp_path, "test", datetime.now(UTC)))
        async with stage.supervisor:
            await story(stage)
        return stage

    stage = asyncio.run(scene())
    assert not any(psutil.pid_exists(child.pid) for child in stage.supervisor.children)  # nothing is left behind
    return stage


def test_a_child_is_handed_over_once_it_is_ready_and_stopped_on_the_way_out(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        child = await stage.start("producer", STOPS)
        assert (child.id, child.api_url) == ("producer-1", "http://127.0.0.1:1")
        assert stage.ready == ["producer-1"]

    stage = play(tmp_path, story)
    assert stage.ended == [("producer-1", 0)]
    assert stage.directory.log("producer-1").read_text() == "starting\n"


def test_producers_are_stopped_before_consumers_and_the_broker_last(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await asyncio.gather(*(stage.start(role, STOPS) for role in ("broker", "consumer", "monitor", "producer")))

    stage = play(tmp_path, story)
    stops = (stage.directory.path / "stops").read_text().split()
    assert stops == ["producer-1", "consumer-1", "monitor", "broker"]


def test_a_process_that_ignores_the_signal_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        child = await stage.start("consumer", STUBBORN)
        await stage.supervisor.stop([child], grace_s=0.1)
        assert not child.alive

    assert play(tmp_path, story).ended == [("consumer-1", -signal.SIGKILL)]


def test_a_child_that_fails_at_start_is_quoted(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(ExperimentError, match=r"exit code 2(.|\n)*no such law"):
            await stage.start("producer", FAILS_AT_START)

    play(tmp_path, story)


def test_a_child_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        with pytest.raises(ExperimentError, match=r"not ready after 0\.2 s"):
            await stage.start("producer", NEVER_READY, timeout_s=0.2)

    play(tmp_path, story)


class Node:
    """A broker that is not a child of the supervisor: a private RabbitMQ or Kafka."""

    product = "private node"

    def __init__(self) -> None:
        self.pid = 0

    def tail(self) -> str:
        return "out of memory"


def test_a_process_that_is_not_a_child_is_reported_under_a_new_id_each_time_it_is_another(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        node = Node()
        node.pid = os.getpid()
        async with watching(node, stage.supervisor):
            await until(lambda: stage.ready == ["broker"])
            node.pid = 0  # a fault kills it
            await until(lambda: stage.ended == [("broker", None)])
            node.pid = os.getppid()
            await until(lambda: stage.ready == ["broker", "broker-2"])
        assert not stage.supervisor.failure.done()

    assert play(tmp_path, story).ended == [("broker", None), ("broker-2", None)]


def test_the_death_of_a_broker_that_no_fault_has_killed_fails_the_run(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        node = Node()
        process = await asyncio.create_subprocess_exec("sleep", "60")
        node.pid = process.pid
        async with watching(node, stage.supervisor):
            await until(lambda: stage.ready == ["broker"])
            process.kill()
            with pytest.raises(ExperimentError, match=r"private node died, though(.|\n)*out of memory"):
                await stage.supervisor.failure

    assert play(tmp_path, story).ended == [("broker", None)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the supervisor has callbacks, not events
            await asyncio.sleep(0.01)


def test_an_unexpected_death_fails_with_the_last_output(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.start("consumer", DIES_LATER)
        with pytest.raises(ExperimentError, match=r"consumer-1 ended with exit code 7(.|\n)*out of luck"):
            await stage.supervisor.failure

    play(tmp_path, story)


def test_a_child_that_ends_well_by_itself_is_not_a_failure(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        child = await stage.start("producer", ENDS_WELL)
        await child.process.wait()
        assert not stage.supervisor.failure.done()
        assert stage.supervisor.of("producer") == []

    assert play(tmp_path, story).ended == [("producer-1", 0)]


def test_an_exception_leaves_no_child_behind(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.start("producer", STOPS)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play(tmp_path, story)
    directory = next(tmp_path.iterdir())
    assert (directory / "stops").read_text() == "producer-1\n"


def test_children_see_no_settings_of_the_user_and_lead_a_session_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_PRODUCER__RATE", "5")
    monkeypatch.setenv("RABBITMQ_HOST", "elsewhere")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")

    async def story(stage: Stage) -> None:
        child = await stage.start("producer", SHOWS)
        environment = child.announced["environment"]
        assert not [name for name in environment if name.startswith(("PACE_", "RABBITMQ_", "LOG_LEVEL"))]
        assert str(Path.cwd()) in environment["PYTHONPATH"].split(os.pathsep)
        assert child.announced["here"] == str(stage.directory.path)
        assert child.announced["session"] == child.pid

    play(tmp_path, story)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to the life of its parent")
def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    parent = textwrap.dedent(
        """
        import asyncio, pathlib, sys
        from backpressure.experiments.rundir import RunDirectory
        from backpressure.experiments.supervisor import Supervisor

        async def main(path, script):
            directory = RunDirectory(pathlib.Path(path))
            supervisor = Supervisor(directory, lambda *_: None, lambda *_: None)
            variables = {"ANNOUNCE": str(directory.announcement("producer-1"))}
            child = await supervisor.start("producer", "producer-1", [sys.executable, "-c", script], variables)
            print(child.pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(main(*sys.argv[1:]))
        """
    )
    directory = create(tmp_path, "test", datetime.now(UTC))
    command = [sys.executable, "-c", parent, str(directory.path), STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone or child.status() == psutil.STATUS_ZOMBIE  # a container without an init does not reap it
