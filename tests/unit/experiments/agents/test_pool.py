"""A run and its agents, over a broker in memory: who is taken, what is refused, what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backpressure.config import replaced
from backpressure.engines.clock import Clock
from backpressure.errors import ExperimentError
from backpressure.experiments.agents import agent as agent_side
from backpressure.experiments.agents import pool as run_side
from backpressure.experiments.agents.agent import Agent
from backpressure.experiments.agents.conversation import exchange_of
from backpressure.experiments.agents.pool import AgentPool, AgentTerms, RemoteProcess
from backpressure.experiments.events import AgentNoted, Event
from backpressure.experiments.rundir import RunDirectory, create
from backpressure.experiments.supervisor import Supervisor
from backpressure.settings import BrokerSettings, Settings

OWN = replaced(Settings(), {"agent.token": "a token that only tests know", "agent.name": "web"})


class Exchange:
    """Delivers at once, keeps what was sent, and loses what it is told to."""

    def __init__(self) -> None:
        self.boxes: list[FakeMailbox] = []
        self.sent: list[tuple[str, bytes]] = []
        self.loses: Callable[[str, bytes], bool] = lambda _address, _data: False

    def send(self, address: str, data: bytes) -> None:
        self.sent.append((address, data))
        if not self.loses(address, data):
            self.deliver(address, data)

    def deliver(self, address: str, data: bytes) -> None:
        for box in self.boxes:
            if address in box.addresses:
                asyncio.get_running_loop().call_soon(box.on_message, address, data)


class FakeMailbox:
    """A `Mailbox` in memory."""

    exchange = Exchange()
    is_open = True

    def __init__(
        self,
        _broker: BrokerSettings,
        _name: str,
        exchange: str,
        addresses: Iterable[str],
        *,
        on_message: Callable[[str, bytes], None],
        on_connected: Callable[[], None],
    ) -> None:
        assert exchange == exchange_of("pace")
        self.addresses = set(addresses)
        self.on_message = on_message
        self.on_connected = on_connected

    async def start(self) -> None:
        self.exchange.boxes.append(self)

    async def stop(self) -> None:
        self.exchange.boxes.remove(self)

    def send(self, address: str, data: bytes) -> bool:
        self.exchange.send(address, data)
        return True


@pytest.fixture(autouse=True)
def exchange(monkeypatch: pytest.MonkeyPatch) -> Exchange:
    found = Exchange()
    monkeypatch.setattr(FakeMailbox, "exchange", found)
    for side in (agent_side, run_side):
        monkeypatch.setattr(side, "Mailbox", FakeMailbox)
        monkeypatch.setattr(side, "_TICK_S", 0.001)
    monkeypatch.setattr(run_side, "_LOOK_S", 0.005)
    return found


class Run:
    """A pool, and what it said."""

    def __init__(self, directory: RunDirectory, count: int = 1, wait_s: float = 20.0) -> None:
        self.events: list[Event] = []
        self.lines: list[str] = []
        self.failures: list[str] = []
        self.directory = directory
        self.pool = AgentPool(
            BrokerSettings(url="amqp://me:secret@there/"),
            AgentTerms(count, wait_s, OWN.agent),
            directory,
            Clock(),
            record=self.events.append,
            tell=self.lines.append,
            fail=self.failures.append,
        )

    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, AgentNoted)]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Return a function that plays a story with a run and an agent that waits for it."""

    def begin(story: Callable[[Run, Agent], Awaitable[None]], settings: Settings = OWN, **terms: Any) -> None:
        async def scene() -> None:
            agent = Agent(settings)
            await agent.start()
            work = asyncio.create_task(agent.run())
            await story(Run(create(tmp_path, "run", datetime.now(UTC)), **terms), agent)
            agent.stop()
            await work
            await agent.close()

        asyncio.run(scene())

    return begin


def test_an_agent_joins_and_is_released(play: Callable[..., None], exchange: Exchange) -> None:
    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            await run.pool.recruit()
        assert run.states() == ["joined", "left"]
        assert run.failures == []

    play(story)
    assert exchange.boxes == []
    assert not [data for _, data in exchange.sent if b"a token that" in data]


def test_an_agent_of_another_version_is_not_taken_and_the_run_says_which(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_side, "__version__", "0.0.9")

    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            with pytest.raises(ExperimentError) as error:
                await run.pool.recruit()
        assert "not web: it has pace 0.0.9, this run" in str(error.value)
        assert sum("web is not taken: it has pace 0.0.9" in line for line in run.lines) == 1

    play(story, wait_s=0.1)


def test_an_agent_that_takes_part_in_a_run_is_not_taken_by_another(play: Callable[..., None], tmp_path: Path) -> None:
    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            await run.pool.recruit()
            other = Run(create(tmp_path, "other", datetime.now(UTC)), wait_s=0.1)
            async with other.pool:
                with pytest.raises(ExperimentError, match="not web: it takes part in another run"):
                    await other.pool.recruit()
        after = Run(create(tmp_path, "after", datetime.now(UTC)))
        async with after.pool:
            await after.pool.recruit()
        assert after.states() == ["joined", "left"]

    play(story)


def test_too_few_agents_end_the_run_with_one_line_that_tells_how_to_start_more(play: Callable[..., None]) -> None:
    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            with pytest.raises(ExperimentError) as error:
                await run.pool.recruit()
        text = str(error.value)
        assert text.startswith("1 of 2 agents joined within 0.2 s (web")
        assert text.endswith("start more, with the same PACE_AGENT__TOKEN: pace agent --join amqp://there:5672")
        assert "secret" not in text
        assert "\n" not in text

    play(story, count=2, wait_s=0.2)


def test_a_recorded_conversation_makes_no_agent_do_anything_again(
    play: Callable[..., None], exchange: Exchange
) -> None:
    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            await run.pool.recruit()
        recorded = list(exchange.sent)
        exchange.sent.clear()
        for where, data in recorded:
            exchange.deliver(where, data)
        await asyncio.sleep(0.05)
        answers = {where.partition(".")[0] for where, _ in exchange.sent}
        assert answers <= {"run"}  # it says who it is, to whoever asks
        assert agent._part is None

    play(story)


def test_what_the_network_loses_is_said_again(
    play: Callable[..., None], exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backpressure.experiments.agents.conversation._RESEND_S", 0.02)
    chance = random.Random(3)
    lost: list[str] = []

    def loses(where: str, _data: bytes) -> bool:
        if chance.random() >= 0.3:
            return False
        lost.append(where)
        return True

    async def story(run: Run, agent: Agent) -> None:
        exchange.loses = loses
        async with run.pool:
            await run.pool.recruit()
            process = run.pool.start("consumer", "consumer-1", replaced(Settings(), {"consumer.handler": "os:abort"}))
            with pytest.raises(ExperimentError, match=r"consumer-1 on the agent web: consumer.handler = 'os:abort'"):
                await process.announcement()
            assert await process.wait() == 1

    play(story)
    assert len(lost) > 5


@pytest.mark.parametrize(
    ("role", "process_id"),
    [("monitor", "monitor-1"), ("command", "command-1"), ("consumer", "../../etc/passwd"), ("consumer", "Consumer-1;")],
)
def test_an_agent_starts_nothing_but_consumers_and_producers(
    play: Callable[..., None], role: Any, process_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunDirectory, "journal", lambda self, _process: self.path / "any.journal")

    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            await run.pool.recruit()
            monkeypatch.setattr(run_side, "orders_for", lambda _role, _settings: {})
            process = run.pool.start(role, process_id, Settings())
            with pytest.raises(ExperimentError, match="is nothing that an agent starts"):
                await process.announcement()

    play(story)


def test_a_silent_agent_is_lost_with_its_processes(play: Callable[..., None], exchange: Exchange) -> None:
    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            await run.pool.recruit()
            (member,) = run.pool._members.values()
            process = member.processes["consumer-1"] = RemoteProcess("consumer-1", member)
            run.pool._processes["consumer-1"] = process
            exchange.loses = lambda _address, _data: True
            member.liveness._heard_at -= 3600
            assert await process.wait() == -9
            assert not run.pool.is_complete("consumer-1")
            assert run.pool.agent_of("consumer-1") == "web"
        (failure,) = run.failures
        assert failure.startswith("the agent web")
        assert re.search(r"was lost with 1 processes: it gave no sign of life for 36\d\d s", failure)
        assert run.states() == ["joined", "lost"]
        agent._part._liveness._heard_at -= 3600  # type: ignore[union-attr]

    play(story)


def test_a_journal_that_does_not_come_back_whole_fails_the_run(play: Callable[..., None]) -> None:
    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            await run.pool.recruit()
            (member,) = run.pool._members.values()
            process = member.processes["consumer-1"] = RemoteProcess("consumer-1", member)
            run.pool._processes["consumer-1"] = process
            assert agent._part is not None
            agent._part.conversation.say("piece", b"x" * 64, id="consumer-1", file="journal")
            agent._part.conversation.say("ended", id="consumer-1", code=0, size=128, digest="other")
            assert await process.wait() == 0
            assert not run.pool.is_complete("consumer-1")
        assert run.directory.journal("consumer-1").read_bytes() == b"x" * 64
        assert run.failures[0].startswith("the journal of consumer-1 did not come back whole from web")

    play(story)


def test_a_supervisor_watches_a_process_on_an_agent_as_one_of_its_own(play: Callable[..., None]) -> None:
    async def story(run: Run, agent: Agent) -> None:
        ready: list[str] = []
        ended: list[tuple[str, int | None]] = []
        async with run.pool:
            await run.pool.recruit()
            (member,) = run.pool._members.values()
            async with Supervisor(
                run.directory,
                lambda _role, process_id, _pid: ready.append(process_id),
                lambda process_id, code: ended.append((process_id, code)),
            ) as supervisor:
                process = member.processes["consumer-1"] = RemoteProcess("consumer-1", member)
                run.pool._processes["consumer-1"] = process
                starting = supervisor.start_elsewhere("consumer", "consumer-1", process, process.announcement())
                assert agent._part is not None
                agent._part.conversation.say("ready", id="consumer-1", pid=7)
                child = await starting
                assert (child.pid, child.alive, child.api_url) == (7, True, "http://consumer-1.agents")
                log = b"started\nout of luck\n"
                agent._part.conversation.say("piece", log, id="consumer-1", file="log")
                nothing = hashlib.sha256().hexdigest()
                agent._part.conversation.say("ended", id="consumer-1", code=7, size=0, digest=nothing)
                with pytest.raises(ExperimentError, match=r"consumer-1 ended with exit code 7(?s:.*)out of luck"):
                    await supervisor.failure
                assert not child.alive
        assert ready == ["consumer-1"]
        assert ended == [("consumer-1", 7)]

    play(story)


def test_under_another_token_nobody_is_heard_and_that_is_said_once(
    play: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(run: Run, agent: Agent) -> None:
        async with run.pool:
            with pytest.raises(ExperimentError, match=r"0 of 1 agent joined within 0.1 s \(none\)"):
                await run.pool.recruit()

    with caplog.at_level(logging.WARNING, logger="backpressure"):
        play(story, replaced(OWN, {"agent.token": "another token of tests"}), wait_s=0.1)
    assert sum("valid authenticity" in message for message in caplog.messages) == 1
