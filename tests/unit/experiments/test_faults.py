"""Faults: what a scenario can request, what is refused, and that each is undone in any case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from backpressure.errors import ConfigError
from backpressure.experiments.events import Event, FaultBegan, FaultEnded
from backpressure.experiments.fault_effects import EFFECTS, Injection, Stage, launch_over
from backpressure.experiments.faults import (
    FAULTS,
    Fault,
    NetworkBandwidth,
    NetworkCut,
    NetworkDelay,
    NodeFault,
    check,
    parse,
)
from backpressure.experiments.scenario import build
from backpressure.experiments.tcp_proxy import Proxy

DOCS = (Path(__file__).parents[3] / "docs" / "faults.md").read_text()


class FakeClock:
    def wall_ns(self) -> int:
        return 7


class Recorded(Fault):
    """Notes what is done; it cannot be done before the gate is open."""

    name: ClassVar[str] = "recorded"
    done: ClassVar[list[str]] = []
    gate: ClassVar[asyncio.Event]
    ended: ClassVar[asyncio.Event]


class Broken(Fault):
    """Cannot be done."""

    name: ClassVar[str] = "broken"


@asynccontextmanager
async def record(fault: Recorded, _: Stage) -> AsyncIterator[None]:
    fault.done.append("begin")
    try:
        await fault.gate.wait()
        fault.done.append("done")
        yield
    finally:
        fault.done.append("undone")
        fault.ended.set()


def break_off(_: Broken, stage: Stage) -> AbstractAsyncContextManager[None]:
    raise ConfigError("fault", "broken", f"not on {stage.proxy}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    monkeypatch.setitem(EFFECTS, Recorded, record)
    monkeypatch.setitem(EFFECTS, Broken, break_off)
    Recorded.done.clear()
    return []


def stage(events: list[Event]) -> Stage:
    nothing: Any = None
    return Stage(nothing, nothing, None, None, cast("Any", FakeClock()), events.append, lambda _: None)


def injection(events: list[Event], *, stuck: bool = False, for_s: float | None = None) -> Injection:
    Recorded.gate, Recorded.ended = asyncio.Event(), asyncio.Event()
    if not stuck:
        Recorded.gate.set()
    return Injection(Recorded(for_s=for_s), stage(events))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_fault_lasts_until_it_is_undone_and_both_are_recorded(events: list[Event]) -> None:
    async def scene() -> None:
        running = injection(events)
        await turns()
        assert Recorded.done == ["begin", "done"]
        await running.undo()

    asyncio.run(scene())
    assert Recorded.done == ["begin", "done", "undone"]
    assert events == [FaultBegan(at_ns=7, name="recorded"), FaultEnded(at_ns=7, name="recorded")]


def test_a_fault_with_a_time_of_its_own_ends_by_itself(events: list[Event]) -> None:
    async def scene() -> None:
        running = injection(events, for_s=1e-6)
        await Recorded.ended.wait()
        await running.undo()

    asyncio.run(scene())
    assert Recorded.done == ["begin", "done", "undone"]


def test_an_interrupted_undoing_continues_and_can_be_awaited_again(events: list[Event]) -> None:
    async def scene() -> None:
        running = injection(events, stuck=True)
        undoing = asyncio.create_task(running.undo())
        await turns()
        undoing.cancel()
        await asyncio.wait({undoing})
        assert Recorded.done == ["begin"]  # it is neither done nor undone yet, and nothing was broken off
        Recorded.gate.set()
        await running.undo()

    asyncio.run(scene())
    assert Recorded.done == ["begin", "done", "undone"]


def test_what_goes_wrong_within_a_fault_is_raised_when_it_is_undone(events: list[Event]) -> None:
    async def scene() -> None:
        with pytest.raises(ConfigError):
            await Injection(Broken(), stage(events)).undo()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("fault", "before", "after"),
    [
        (NetworkDelay(ms=20), (0.02, 0), (0.02, 0)),
        (NetworkDelay(ms=1000), (0, 0), (1.0, 0)),  # over which they would connect for half a minute
        (NetworkBandwidth(kb_per_s=3), (0, 0), (0, 3000)),
        (NetworkDelay(ms=20, for_s=1), (0, 0), (0, 0)),
        (NetworkCut(), (0, 0), (0, 0)),
        (None, (0, 0), (0, 0)),
    ],
)
def test_the_network_is_slow_before_a_run_begins_that_is_to_begin_so(
    monkeypatch: pytest.MonkeyPatch, fault: Fault | None, before: tuple[float, float], after: tuple[float, float]
) -> None:
    monkeypatch.setattr("backpressure.experiments.fault_effects._NOTICED_S", -2)
    proxy = Proxy("amqp://localhost")
    seen = []

    async def launch() -> None:
        seen.append((proxy.delay_s, proxy.bytes_per_s))

    asyncio.run(launch_over(proxy, fault, launch))
    assert seen == [before]
    assert (proxy.delay_s, proxy.bytes_per_s) == after


def test_every_fault_has_an_effect_on_a_run() -> None:
    assert EFFECTS.keys() == set(FAULTS.values())


def test_a_fault_is_read_with_its_parameters() -> None:
    fault = parse("nacks: share=0.25, for_s=3", "phase.x.fault", "x.toml")
    assert fault == FAULTS["nacks"](share=0.25, for_s=3)  # type: ignore[call-arg]  # the class is known by name only
    assert parse("consumer-kill", "k", "s") == FAULTS["consumer-kill"]()


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("consumer-kil", "did you mean consumer-kill"),
        ("earthquake", "there are consumer-kill, consumer-stop, producer-kill"),
        ("", "there are consumer-kill"),
        ("consumer-kill:cuont=1", "unknown parameter cuont; consumer-kill takes for_s, count"),
        ("consumer-kill:count", "expected consumer-kill:parameter=value"),
        ("consumer-kill:count=0", "count: input should be greater than or equal to 1"),
        ("node-kill:node=boss", "node: "),
        ("consumer-kill:count=many", "count: input should be a valid integer"),
        ("nacks:share=1.5", "share: input should be less than or equal to 1"),
        ("network-delay:ms=nan", "ms: "),
        ("memory-alarm:for_s=-1", "for_s: input should be greater than 0"),
        ("memory-alarm:for_s=inf", "for_s: input should be a finite number"),
    ],
)
def test_a_mistake_in_a_fault_names_its_phase_and_what_is_allowed(text: str, allowed: str) -> None:
    document = {"name": "x", "phase": [{"name": "storm", "duration_s": 1.0, "fault": text}]}
    with pytest.raises(ConfigError, match=r"x\.toml") as caught:
        build(document, "x.toml")
    assert (caught.value.key, caught.value.value) == ("phase.storm.fault", text)
    assert allowed in caught.value.allowed


@pytest.mark.parametrize(
    ("fault", "kind", "url", "reason"),
    [
        ("broker-kill", "external", "amqp://x", "not ours to disturb: use --broker embedded or kafka or rabbitmq"),
        ("memory-alarm", "kafka", "", "kafka cannot do it"),
        ("nacks", "rabbitmq", "", "use --broker embedded"),
        ("network-cut", "external", "amqps://x", "not for TLS"),
        ("network-cut", "external", "kafka://x", "not for a Kafka that is not ours"),
        ("partition", "kafka", "", "it takes a cluster: use --broker kafka:3"),
        ("disk-alarm", "kafka", "", "kafka cannot do it: use --broker rabbitmq:3"),
        ("leader-kill", "embedded", "", "embedded cannot do it: use --broker kafka:3 or rabbitmq:3"),
        ("partition", "external", "amqp://x", "not ours to disturb: use --broker kafka:3 or rabbitmq:3"),
        ("node-kill", "rabbitmq", "", "it takes a cluster: use --broker rabbitmq:3"),
    ],
)
def test_a_fault_that_a_broker_cannot_suffer_is_refused(fault: str, kind: str, url: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check([FAULTS[fault]()], kind, url)
    assert reason in caught.value.allowed


def test_a_node_that_the_cluster_does_not_have_is_refused() -> None:
    check([parse("node-kill:node=3", "k", "s"), parse("partition:node=follower", "k", "s")], "rabbitmq", "", nodes=3)
    with pytest.raises(ConfigError, match="the cluster has 3 nodes"):
        check([parse("node-kill:node=4", "k", "s")], "rabbitmq", "", nodes=3)
    with pytest.raises(ConfigError, match="node"):
        parse("node-kill:node=0", "k", "s")


def test_what_needs_no_broker_of_ours_can_be_done_to_any() -> None:
    check([FAULTS["consumer-kill"](), FAULTS["poison"](), FAULTS["network-cut"]()], "external", "amqp://x")
    check([FAULTS["consumer-kill"](), FAULTS["broker-kill"](), FAULTS["network-cut"]()], "kafka", "")
    check([fault() for fault in FAULTS.values() if not issubclass(fault, NodeFault)], "embedded", "")
    check([fault() for fault in FAULTS.values() if fault.name != "nacks"], "rabbitmq", "", nodes=3)


def test_processes_that_replace_killed_ones_can_be_named_in_expectations() -> None:
    phase = {"name": "crash", "duration_s": 1.0, "fault": "consumer-kill:count=2"}
    expect = {"processes.consumer-3.rss_max_mb": "<= 200"}
    build({"name": "x", "phase": [phase], "expect": expect}, "x.toml")
    with pytest.raises(ConfigError):
        build({"name": "x", "phase": [phase], "expect": {"processes.consumer-4.rss_max_mb": "<= 200"}}, "x.toml")


def shown(default: object) -> str:
    return default if isinstance(default, str) else f"{default:g}"


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_and_parameter_is_documented(name: str) -> None:
    fault = FAULTS[name]
    row = next(line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |"))
    for parameter, field in fault.model_fields.items():
        assert parameter == "for_s" or f"`{parameter}={shown(field.default)}`" in row
        assert field.description
