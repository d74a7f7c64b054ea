"""What each fault does to a run, and how it is undone: one table, `EFFECTS`.

A fault reaches the run only through a `Stage`. An `Injection` begins it in the background and undoes it after its time,
at the end of its phase or when the run ends. It uses a task of its own, so that an interrupted run can still wait until
the fault is undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from backpressure.engines.clock import Clock
from backpressure.experiments import faults
from backpressure.experiments.brokers import BrokerOperator, EmbeddedOperator
from backpressure.experiments.cluster import ClusterOperator, RabbitMQCluster
from backpressure.experiments.events import Event, FaultBegan, FaultEnded, Note
from backpressure.experiments.fleet import Fleet
from backpressure.experiments.supervisor import Child, Supervisor
from backpressure.experiments.tcp_proxy import Proxy

_CONNECTS_OVER_MS = 250  # a producer needs some thirty questions and answers before it is ready
_NOTICED_S = 1.0  # processes look at the queue ten times a second, and remember the quickest answer for half a second


@dataclass(frozen=True, slots=True)
class Stage:
    """What faults can reach. ``operator`` and ``proxy`` are there when a fault of the scenario needs them.

    ``queue`` is the work queue.
    """

    fleet: Fleet
    supervisor: Supervisor
    operator: BrokerOperator | None
    proxy: Proxy | None
    clock: Clock
    record: Callable[[Event], None]
    tell: Callable[[str], None]
    queue: str = ""

    def happened(self, text: str) -> None:
        """Record what a fault has just done, and what the consumers can do from now on."""
        now_ns = self.clock.wall_ns()
        self.record(Note(at_ns=now_ns, text=text))
        self.record(self.fleet.load(now_ns))
        self.tell(text)


class Injection:
    """A fault at work; it begins at once."""

    def __init__(self, fault: faults.Fault, stage: Stage) -> None:
        """``fault`` is done to ``stage``."""
        self._fault = fault
        self._over = asyncio.Event()
        self._began_ns: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(fault, stage), name=fault.name)

    async def in_effect(self) -> int | None:
        """Return when it took effect, in nanoseconds, once it has; None: it failed, which `undo` raises."""
        either: set[asyncio.Future[Any]] = {self._began_ns, self._task}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return self._began_ns.result() if self._began_ns.done() else None

    def goes_on_as(self, later: faults.Fault | None) -> bool:
        """Return whether it has not ended and need not be undone before a phase that asks for ``later``."""
        return not self._task.done() and self._fault.goes_on_as(later)

    async def until_over(self) -> None:
        """Return when it is undone, or has failed."""
        await asyncio.wait({self._task})

    async def undo(self) -> None:
        """Return when the fault is undone; raises what went wrong. May be awaited again after it was cancelled."""
        self._over.set()
        await asyncio.wait({self._task})
        self._task.result()

    async def _hold(self, fault: faults.Fault, stage: Stage) -> None:
        async with EFFECTS[type(fault)](fault, stage):
            self._began_ns.set_result(stage.clock.wall_ns())
            stage.record(FaultBegan(at_ns=self._began_ns.result(), name=fault.name))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault.for_s):
                    await self._over.wait()
        stage.record(FaultEnded(at_ns=stage.clock.wall_ns(), name=fault.name))


# --- processes ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _process_kill(fault: faults.ProcessKill, stage: Stage) -> AsyncIterator[None]:
    killed = stage.supervisor.of(fault.role)[: fault.count]
    await stage.supervisor.kill_now(killed)
    for child in killed:
        stage.happened(f"{child.id} killed (SIGKILL)")
    yield
    for child in await stage.fleet.replace(killed):
        stage.happened(f"{child.id} started in place of a killed one")


@asynccontextmanager
async def _consumer_stop(fault: faults.ConsumerStop, stage: Stage) -> AsyncIterator[None]:
    hung = stage.supervisor.of("consumer")[: fault.count]
    try:
        for child in hung:
            stage.supervisor.suspend(child)
            stage.happened(f"{child.id} hangs (SIGSTOP)")
        yield
    finally:
        for child in hung:
            stage.supervisor.go_on(child)
            stage.happened(f"{child.id} continues (SIGCONT)")


@asynccontextmanager
async def _consumer_slow(fault: faults.ConsumerSlow, stage: Stage) -> AsyncIterator[None]:
    slow = stage.supervisor.of("consumer")[: fault.count]
    turns = asyncio.create_task(_in_turns(slow, fault, stage.supervisor), name="consumer-slow")
    try:
        for child in slow:
            child.slowed_to = fault.share
            stage.happened(f"{child.id} runs for {fault.share:.0%} of the time (SIGSTOP, SIGCONT)")
        yield
    finally:
        turns.cancel()
        await asyncio.gather(turns, return_exceptions=True)
        for child in slow:
            child.slowed_to = 1.0
            stage.supervisor.go_on(child)
            stage.happened(f"{child.id} runs all the time again")


async def _in_turns(children: Sequence[Child], fault: faults.ConsumerSlow, supervisor: Supervisor) -> None:
    """Stop and continue ``children`` on an ideal timeline, until cancelled."""
    loop = asyncio.get_running_loop()
    period_s, begin = fault.period_ms / 1000, loop.time()
    for number in count():
        for child in children:
            supervisor.hold(child)
        await asyncio.sleep(begin + (number + 1 - fault.share) * period_s - loop.time())
        for child in children:
            supervisor.go_on(child)
        await asyncio.sleep(begin + (number + 1) * period_s - loop.time())


@asynccontextmanager
async def _consumer_churn(fault: faults.ConsumerChurn, stage: Stage) -> AsyncIterator[None]:
    over = asyncio.Event()
    churning = asyncio.create_task(_churn(fault, stage, over), name="consumer churn")
    try:
        yield
    finally:
        over.set()
        await churning


async def _churn(fault: faults.ConsumerChurn, stage: Stage, over: asyncio.Event) -> None:
    """Exchange the oldest consumer again and again; whoever has left is replaced before it ends."""
    while not over.is_set():
        leaving = stage.supervisor.of("consumer")[:1]
        await stage.supervisor.stop(leaving)
        for child in await stage.fleet.replace(leaving):
            stage.happened(f"{leaving[0].id} left, {child.id} joined")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(fault.every_s):
                await over.wait()


@asynccontextmanager
async def _poison(fault: faults.Poison, stage: Stage) -> AsyncIterator[None]:
    async with stage.fleet.overriding({"consumer.poison_rate": fault.share}):
        stage.happened(f"{fault.share:.0%} of the messages are poison")
        yield
    stage.happened("no message is poison any more")


@asynccontextmanager
async def _processing_failures(fault: faults.ProcessingFailures, stage: Stage) -> AsyncIterator[None]:
    async with stage.fleet.overriding({"consumer.failure_rate": fault.share}):
        stage.happened(f"{fault.share:.0%} of the attempts fail")
        yield
    stage.happened("attempts fail no more than the settings say")


@asynccontextmanager
async def _clock_jump(fault: faults.ClockJump, stage: Stage) -> AsyncIterator[None]:
    try:
        stage.fleet.move_clock(fault.role, fault.by_s)
        stage.happened(f"the wall clock of every {fault.role} jumps by {fault.by_s:+g} s")
        yield
    finally:
        stage.fleet.move_clock(fault.role, 0.0)
        stage.happened(f"the wall clock of every {fault.role} is right again")


# --- broker -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _broker_restart(_: faults.BrokerRestart, stage: Stage) -> AsyncIterator[None]:
    assert stage.operator is not None
    try:
        await stage.operator.stop()
        stage.happened("broker stopped")
        yield
    finally:
        await stage.operator.start()
        stage.happened("broker started again")


@asynccontextmanager
async def _broker_kill(_: faults.BrokerKill, stage: Stage) -> AsyncIterator[None]:
    assert stage.operator is not None
    try:
        await stage.operator.kill()
        stage.happened("broker killed (SIGKILL)")
        yield
    finally:
        await stage.operator.revive()
        stage.happened("broker started again")


@asynccontextmanager
async def _broker_hang(_: faults.BrokerHang, stage: Stage) -> AsyncIterator[None]:
    assert stage.operator is not None
    try:
        stage.operator.suspend()
        stage.happened("broker hangs (SIGSTOP)")
        yield
    finally:
        stage.operator.go_on()
        stage.happened("broker continues (SIGCONT)")


@asynccontextmanager
async def _memory_alarm(_: faults.MemoryAlarmFault, stage: Stage) -> AsyncIterator[None]:
    assert stage.operator is not None
    try:
        await stage.operator.set_alarm(raised=True)
        stage.happened("memory alarm raised")
        yield
    finally:
        await stage.operator.set_alarm(raised=False)
        stage.happened("memory alarm cleared")


@asynccontextmanager
async def _nacks(fault: faults.Nacks, stage: Stage) -> AsyncIterator[None]:
    assert isinstance(stage.operator, EmbeddedOperator)
    try:
        await stage.operator.misbehave(nack_share=fault.share)
        stage.happened(f"broker refuses {fault.share:.0%} of what is published")
        yield
    finally:
        await stage.operator.misbehave(nack_share=0.0)
        stage.happened("broker refuses nothing any more")


# --- one node of a cluster ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _node_kill(fault: faults.NodeKill | faults.LeaderKill, stage: Stage) -> AsyncIterator[None]:
    cluster = _cluster(stage)
    node = await cluster.choose("leader" if isinstance(fault, faults.LeaderKill) else fault.node, stage.queue)
    number, led = cluster.number(node), await _leads(cluster, node, stage.queue)
    since = time.time()
    try:
        await asyncio.to_thread(node.kill)
        stage.happened(f"node {number}{led} killed (SIGKILL)")
        async with _telling_election(cluster, stage, node, since, expected=bool(led)):
            yield
    finally:
        await node.revive()
        stage.happened(f"node {number} started again")


@asynccontextmanager
async def _node_restart(_: faults.NodeRestart, stage: Stage) -> AsyncIterator[None]:
    """Begin, and go through all nodes even when the phase ends before: half an upgrade is none."""
    upgrading = asyncio.create_task(_upgrade(_cluster(stage), stage), name="rolling upgrade")
    try:
        yield
    finally:
        await upgrading


async def _upgrade(cluster: ClusterOperator[Any], stage: Stage) -> None:
    for number, node in enumerate(cluster.nodes, start=1):
        led = await _leads(cluster, node, stage.queue)
        since = time.time()
        await cluster.prepare_stop(node)
        await node.stop()
        stage.happened(f"node {number}{led} handed over and stopped")
        async with _telling_election(cluster, stage, node, since, expected=bool(led), handed_over=True):
            await node.revive()
            await cluster.until_in_sync(stage.queue)
        stage.happened(f"node {number} started again, {stage.queue} in sync after {time.time() - since:.1f} s")


@asynccontextmanager
async def _partition(fault: faults.Partition, stage: Stage) -> AsyncIterator[None]:
    cluster = _cluster(stage)
    node = await cluster.choose(fault.node, stage.queue)
    number, led = cluster.number(node), await _leads(cluster, node, stage.queue)
    try:
        since = await cluster.cut_off(node)
        stage.happened(f"node {number}{led} cut off from the others")
        async with _telling_election(cluster, stage, node, since, expected=bool(led)):
            yield
    finally:
        await cluster.join_again(node)
        stage.happened(f"node {number} may join the others again")
        await cluster.until_in_sync(stage.queue)
        stage.happened(f"node {number} is in sync again")


@asynccontextmanager
async def _disk_alarm(fault: faults.DiskAlarm, stage: Stage) -> AsyncIterator[None]:
    cluster = _cluster(stage)
    assert isinstance(cluster, RabbitMQCluster)
    node = await cluster.choose(fault.node, stage.queue)
    number = cluster.number(node)
    try:
        await cluster.set_disk_alarm(node, raised=True)
        stage.happened(f"disk alarm raised at node {number}")
        yield
    finally:
        await cluster.set_disk_alarm(node, raised=False)
        stage.happened(f"disk alarm cleared at node {number}")


def _cluster(stage: Stage) -> ClusterOperator[Any]:
    assert isinstance(stage.operator, ClusterOperator)
    return stage.operator


async def _leads(cluster: ClusterOperator[Any], node: object, queue: str) -> str:
    return f", which leads {queue}," if node is await cluster.leader(queue) else ""


@asynccontextmanager
async def _telling_election(
    cluster: ClusterOperator[Any],
    stage: Stage,
    node: Any,
    since: float,
    *,
    expected: bool,
    handed_over: bool = False,
) -> AsyncIterator[None]:
    """Tell how long the election took, if one is ``expected``, as soon as it is over."""

    async def tell() -> None:
        stage.happened(await cluster.election(stage.queue, node, since, handed_over=handed_over))

    telling = asyncio.create_task(tell(), name="election") if expected else None
    try:
        yield
        if telling is not None:
            await telling
    finally:
        if telling is not None:
            telling.cancel()
            await asyncio.wait({telling})


# --- network ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _network(fault: faults.NetworkFault, stage: Stage) -> AsyncIterator[None]:
    assert stage.proxy is not None
    try:
        stage.happened(f"network: {await _disturb(stage.proxy, fault)}")
        yield
    finally:
        await stage.proxy.mend()
        stage.happened("network whole again")


async def launch_over(proxy: Proxy, fault: faults.Fault | None, launch: Callable[[], Awaitable[None]]) -> None:
    """Launch processes on a network that is as slow as the first phase asks for with ``fault``.

    A producer that is far from its broker knows it when it begins; other faults happen to processes that are at work.
    Where connecting would take too long, the network is slow afterwards, and the processes get time to notice.
    """
    slow = isinstance(fault, faults.NetworkDelay | faults.NetworkBandwidth) and fault.for_s is None
    connects = isinstance(fault, faults.NetworkDelay) and fault.ms <= _CONNECTS_OVER_MS
    if slow and connects:
        await _disturb(proxy, fault)  # type: ignore[arg-type]  # slow says which it is
    await launch()
    if slow and not connects:
        await _disturb(proxy, fault)  # type: ignore[arg-type]  # see above
        await asyncio.sleep(_NOTICED_S + 2 * proxy.delay_s)


async def _disturb(proxy: Proxy, fault: faults.NetworkFault) -> str:
    """Do it and say what was done."""
    match fault:
        case faults.NetworkDelay():
            proxy.delay_s = fault.ms / 1000
            return f"{fault.ms:g} ms slower each way"
        case faults.NetworkBandwidth():
            proxy.bytes_per_s = fault.kb_per_s * 1000
            return f"{fault.kb_per_s:g} kB/s at most"
        case faults.NetworkHalfOpen():
            proxy.half_open()
            return "half open"
        case _:
            await proxy.cut()
            return "cut"


Effect = Callable[[Any, Stage], AbstractAsyncContextManager[None]]
"""Does a fault of its kind to a stage, and undoes it on leaving. Raises `PaceError` when either is impossible."""

EFFECTS: dict[type[faults.Fault], Effect] = {
    faults.ConsumerKill: _process_kill,
    faults.ConsumerStop: _consumer_stop,
    faults.ConsumerSlow: _consumer_slow,
    faults.ConsumerChurn: _consumer_churn,
    faults.ProducerKill: _process_kill,
    faults.BrokerRestart: _broker_restart,
    faults.BrokerKill: _broker_kill,
    faults.BrokerHang: _broker_hang,
    faults.MemoryAlarmFault: _memory_alarm,
    faults.NodeKill: _node_kill,
    faults.LeaderKill: _node_kill,
    faults.NodeRestart: _node_restart,
    faults.Partition: _partition,
    faults.DiskAlarm: _disk_alarm,
    faults.Nacks: _nacks,
    faults.NetworkCut: _network,
    faults.NetworkHalfOpen: _network,
    faults.NetworkDelay: _network,
    faults.NetworkBandwidth: _network,
    faults.Poison: _poison,
    faults.ProcessingFailures: _processing_failures,
    faults.ClockJump: _clock_jump,
}
