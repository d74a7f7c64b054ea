"""What a run on agents is refused for at the start, and what is made of it at the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backpressure.core.journal import Outcome, ProducerRecord
from backpressure.errors import ConfigError
from backpressure.experiments.agents.pool import AgentTerms
from backpressure.experiments.analysis import summarise
from backpressure.experiments.brokers import BrokerChoice, check_broker, parse_choice
from backpressure.experiments.document import merge, parse
from backpressure.experiments.events import AgentNoted, PhaseBegan, PhaseEnded, ProcessEnded, ProcessStarted, RunEnded
from backpressure.experiments.report import conclude
from backpressure.experiments.rundir import RunDirectory, RunFacts, create
from backpressure.experiments.scenario import Scenario, build
from backpressure.settings import AgentSettings

BASE = """
name = "far"
[producer]
rate = 100
[consumer]
on = "agents"
[[phase]]
name = "only"
duration_s = 5
"""
TERMS = AgentTerms(2, 60.0, AgentSettings())
JOINED = BrokerChoice("external", "amqp://there/", agents=TERMS)


def scenario(*assignments: tuple[str, Any]) -> Scenario:
    return build(merge(parse(BASE, "far.toml"), assignments, "far.toml"), "far.toml")


def test_a_role_says_where_its_processes_are() -> None:
    assert scenario().on_agents == {"consumer"}
    assert scenario(("producer.on", "agents")).on_agents == {"consumer", "producer"}
    assert scenario(("consumer.on", "here")).on_agents == set()
    check_broker(scenario(), JOINED)


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        ([("consumer.on", "elsewhere")], "consumer.on"),
        ([("consumer.command", "node worker.js")], "consumer.on = 'agents'.*pace's own programs only"),
        ([("consumer.external", True)], "consumer.on = 'agents'.*pace's own programs only"),
        ([("phase.only.consumer.on", "here")], "phase.only.consumer.on.*cannot change during the run"),
        ([("phase.only.fault", "network-delay:ms=50")], "fault.*network-delay.*tc netem"),
        ([("phase.only.fault", "network-cut")], "fault.*network-cut.*without our proxy"),
        ([("phase.only.fault", "consumer-slow")], "fault.*consumer-slow.*too short"),
        ([("phase.only.fault", "clock-jump")], "fault.*clock-jump.*the clock of their machine"),
    ],
)
def test_what_cannot_work_there_is_refused_by_name(assignments: list[tuple[str, Any]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        scenario(*assignments)


@pytest.mark.parametrize(
    "fault",
    [
        "consumer-kill",
        "consumer-stop",
        "consumer-churn",
        "producer-kill",
        "poison",
        "processing-failures",
        "clock-jump:role=producer",
    ],
)
def test_other_faults_work_there_as_here(fault: str) -> None:
    check_broker(scenario(("phase.only.fault", fault)), JOINED)


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq", "rabbitmq:3", "kafka", "kafka://there/"])
def test_agents_need_a_broker_that_is_there_before_the_run(broker: str) -> None:
    choice = parse_choice(broker)
    with pytest.raises(ConfigError, match=r"consumer\.on = 'agents': agents join a broker that runs already"):
        check_broker(scenario(), BrokerChoice(choice.kind, choice.url, choice.nodes, TERMS))


def test_only_pace_run_looks_for_agents() -> None:
    with pytest.raises(ConfigError, match=r"consumer\.on = 'agents': only pace run looks for agents"):
        check_broker(scenario(), parse_choice("amqp://there/"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("consumer.handler", "mine:work"), ("proxy", True)],
)
def test_what_is_on_the_machine_of_the_run_cannot_be_used_on_agents(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        check_broker(scenario((key, value)), JOINED)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., RunDirectory]:
    """Return a function that writes a run: a producer on one agent, a consumer on another, one message confirmed."""

    def write(*, producer_on: str = "a", lost: bool = False) -> RunDirectory:
        directory = create(tmp_path, "far", datetime.now(UTC))
        directory.write_scenario(BASE)
        directory.write_facts(
            RunFacts(
                strategy="pace",
                broker="b",
                broker_version="1",
                broker_address="amqp://there",
                started_at="2026-01-01T00:00:00+00:00",
                start_ns=10**9,
                command="pace run far.toml",
                environment={},
            )
        )
        for name, error_ms in (("a", 3.0), ("b", 20.5)):
            for at_ns, state, known_ms in (
                (1, "joined", 1.0),
                (5, "lost" if lost and name == "b" else "left", error_ms),
            ):
                directory.append_event(
                    AgentNoted(
                        at_ns=at_ns,
                        name=name,
                        host=f"host-{name}",
                        state=state,
                        clock_uncertainty_ms=known_ms,
                        round_trip_ms=2 * error_ms,
                    )
                )
        for role, agent in (("producer", producer_on), ("consumer", "b")):
            directory.append_event(ProcessStarted(at_ns=10**9, role=role, id=f"{role}-1", pid=1, agent=agent))
            whole = not (lost and agent == "b")
            directory.append_event(ProcessEnded(at_ns=9 * 10**9, id=f"{role}-1", code=0, complete=whole))
        directory.append_event(PhaseBegan(at_ns=10**9, name="only"))
        directory.append_event(PhaseEnded(at_ns=6 * 10**9, name="only"))
        directory.append_event(RunEnded(at_ns=9 * 10**9, outcome="error" if lost else "finished"))
        record = ProducerRecord(1, 1, Outcome.CONFIRMED, 2 * 10**9, 2 * 10**9, 3 * 10**9)
        directory.journal("producer-1").write_bytes(record.pack())
        directory.journal("consumer-1").write_bytes(b"")
        with directory.writing_leftovers():
            pass
        return directory

    return write


def test_the_worst_clock_of_each_side_counts(recorded: Callable[..., RunDirectory]) -> None:
    summary = summarise(recorded().recording())
    assert summary.clock_uncertainty_ms == 23.5
    assert [(one.name, one.host, one.processes, one.lost) for one in summary.agents] == [
        ("a", "host-a", 1, False),
        ("b", "host-b", 1, False),
    ]
    assert [process.agent for process in summary.processes] == ["a", "b"]


def test_a_process_here_has_the_clock_of_the_run(recorded: Callable[..., RunDirectory]) -> None:
    assert summarise(recorded(producer_on="").recording()).clock_uncertainty_ms == 20.5


def test_what_a_lost_agent_had_recorded_is_unknown_and_not_lost(recorded: Callable[..., RunDirectory]) -> None:
    assert summarise(recorded().recording()).totals.lost == 1
    summary = summarise(recorded(lost=True).recording())
    assert summary.totals.lost is None
    assert {phase.lost for phase in summary.phases} == {None}
    assert [agent.lost for agent in summary.agents] == [False, True]


def test_the_report_shows_the_agents_and_what_their_clocks_mean(recorded: Callable[..., RunDirectory]) -> None:
    directory = recorded(lost=True)
    conclude(directory)
    page = directory.report.read_text(encoding="utf-8")
    assert "b (lost)" in page
    assert "consumer-1 on b" in page
    assert "each ± 23.5" in page
