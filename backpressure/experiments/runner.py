"""Conducts one run: broker, processes, phases on a common clock, and an orderly end in every case.

Nothing is computed here. Everything that happens is appended to the run directory, which the analysis reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar

from backpressure.config import replaced
from backpressure.core.message import Message
from backpressure.core.snapshot import Snapshot
from backpressure.engines.clock import Clock
from backpressure.engines.observer import Observer
from backpressure.errors import (
    ExperimentError,
    NotConnectedError,
    PaceError,
    PlatformError,
    QueueNotFoundError,
)
from backpressure.experiments import events
from backpressure.experiments.agents.pool import AgentPool
from backpressure.experiments.brokers import BrokerChoice, RunBroker, open_broker
from backpressure.experiments.fault_effects import Injection, Stage, launch_over
from backpressure.experiments.faults import Fault, Partition
from backpressure.experiments.fleet import Fleet, ProcessControl
from backpressure.experiments.leftovers import check_unused, read_leftovers, read_own_leftovers
from backpressure.experiments.phases import Conductor, DoneElsewhere, share_done
from backpressure.experiments.recording import Recorder
from backpressure.experiments.rundir import RunDirectory, RunFacts
from backpressure.experiments.scenario import Scenario, Until
from backpressure.experiments.supervisor import Supervisor
from backpressure.experiments.tcp_proxy import Proxy
from backpressure.experiments.witness import SeenElsewhere, StrangerCounts, Witness, done_by_strangers
from backpressure.program import on_stop_signals
from backpressure.settings import Settings
from backpressure.transports.base import BrokerIdentity, QueueAdmin, QueueProbe, Transport
from backpressure.transports.factory import connect
from backpressure.version import __version__

Result = TypeVar("Result")

TOO_SOON = "interrupted before the first phase had begun: nothing was measured"
_SAMPLE_S = 0.1
_SAMPLES_A_SECOND = 10
_SALVAGE_S = 30.0

ShareDone = Callable[[Snapshot], float | None]
"""From 0 to 1; None where a phase waits for time to pass, or for what cannot be counted."""


class Watcher(Protocol):
    """Shows a run while it lasts."""

    def began(self, title: str, broker: str, queue: str, phases: Sequence[tuple[str, float]]) -> None:
        """Everything is ready; ``queue`` is the work queue, ``phases`` are names and (longest) durations in seconds."""

    def phase_began(self, index: int, share_done: ShareDone) -> None:
        """The phase with this index begins; ``share_done`` returns the share of its condition that is met."""

    def sampled(self, snapshot: Snapshot) -> None:
        """A new view of the loop, ten times a second."""

    def noted(self, text: str) -> None:
        """Something worth a line has happened."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What is open during a run."""

    settings: Settings
    transport: Transport
    admin: QueueAdmin
    observer: Observer
    stage: Stage
    identity: BrokerIdentity
    witness: Witness | None
    counts: StrangerCounts | None


class _InterruptedError(Exception):
    """Ctrl-C, SIGTERM or SIGHUP arrived."""


class Runner:
    """One run; call `conduct` or `run` once.

    Attributes:
        stage: what can be changed and disturbed from outside while the phases last; None before and after them.
    """

    def __init__(
        self,
        scenario: Scenario,
        directory: RunDirectory,
        choice: BrokerChoice,
        watcher: Watcher,
        command: str,
        *,
        ready_for: Iterable[type[Fault]] = (),
    ) -> None:
        """``command`` is the command line that runs it again; it is ``ready_for`` faults that come from outside."""
        self.stage: Stage | None = None
        self._injections: list[Injection] = []
        self._ready_for = [*ready_for, *(type(fault) for fault in scenario.faults)]
        self._scenario = scenario
        self._directory = directory
        self._choice = choice
        self._watcher = watcher
        self._command = command
        self._clock = Clock()
        self._pids: dict[str, int] = {}
        self._load: Callable[[], None] = lambda: None
        self._varies: Callable[[], bool] = lambda: False
        self._recorder = Recorder(scenario.settings.queue.work)
        self._start_ns = 0
        self._counts: StrangerCounts | None = None
        self._witness: Witness | None = None
        self._elsewhere = SeenElsewhere()
        self._agents: AgentPool | None = None

    def conduct(self) -> events.Outcome:
        """Conduct the run and return how it ended, "finished" or "interrupted"; raises `PaceError`.

        The first SIGINT, SIGTERM or SIGHUP ends it cleanly, a second one at once. These signals are blocked until
        their handlers are in place: a `KeyboardInterrupt` while the event loop is created would leave half of a loop.
        """
        if sys.platform == "win32":
            raise PlatformError("a run of real processes", "POSIX signals and process groups")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            return asyncio.run(self.run(until_signalled=True))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def run(self, *, until_signalled: bool = False) -> events.Outcome:
        """Conduct the run in a loop that is already there; `interrupt` ends it, and so do signals if they are to."""
        self._interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._main = asyncio.current_task()
        outcome: events.Outcome = "error"
        reason = ""
        try:
            async with Supervisor(
                self._directory, self._process_started, self._process_ended, self._tell
            ) as self._supervisor:
                with _stop_signals(self.interrupt) if until_signalled else contextlib.nullcontext():
                    outcome = await self._conduct()
        except PaceError as error:
            reason = str(error)
            raise
        except asyncio.CancelledError:
            outcome = "interrupted"
            if not self._directory.has_begun:
                raise ExperimentError(TOO_SOON) from None
        finally:
            self._record(events.RunEnded(at_ns=self._clock.wall_ns(), outcome=outcome, reason=reason))
        return outcome

    async def _conduct(self) -> events.Outcome:
        async with AsyncExitStack() as stack:
            try:
                run = await self._unless_interrupted(self._prepare(stack))
            except _InterruptedError:
                raise ExperimentError(TOO_SOON) from None
            outcome: events.Outcome = "finished"
            try:
                await self._unless_interrupted(self._measure(run))
            except _InterruptedError:
                outcome = "interrupted"
                self._watcher.noted("interrupted: stopping producers, then consumers (once more: at once)")
            except PaceError:
                with contextlib.suppress(PaceError, TimeoutError):  # the error that ended the run is the one to report
                    async with asyncio.timeout(_SALVAGE_S):
                        await self._wind_down(run, patience_s=0.0)
                raise
            await self._wind_down(run)
            return outcome

    async def _prepare(self, stack: AsyncExitStack) -> _Run:
        """Open the broker, declare the queues, start all processes; ``stack`` undoes all of it."""
        self._watcher.noted(f"starting: broker {self._choice.label}")
        broker = await stack.enter_async_context(self._open_broker())
        predeclared = self._scenario.settings.queue.predeclared
        names = broker.settings(self._directory.path.name, predeclared=predeclared)
        common = names | {"process.clock_anchor_ns": self._clock.anchor_ns}
        settings = replaced(self._scenario.settings, common)
        # An experiment does not wait for a broker to appear, and reconnects quickly after an outage.
        transport = connect(replaced(settings, {"broker.wait": False, "broker.reconnect_max_s": 1.0}))
        admin = transport.admin()
        stack.push_async_callback(admin.stop)
        await admin.start()
        if predeclared:
            await check_unused(transport, settings.queue, consumed=self._scenario.roles["consumer"].external)
        else:
            if not broker.private:
                stack.push_async_callback(_remove_all, admin, settings)
            await admin.declare(settings.queue)
            await broker.check_copies(settings.queue)
        observer = Observer(transport, settings, self._clock)
        stack.push_async_callback(observer.stop)
        await observer.start()
        agents = await self._join_agents(stack, settings)
        control = await stack.enter_async_context(ProcessControl(agents=agents))
        proxy = None
        if any(fault.through_proxy for fault in self._ready_for):
            proxy = await stack.enter_async_context(Proxy(broker.proxied or broker.url, broker.proxy_ports))
            common["broker.url"] = proxy.url
        probe = transport.probe()
        stack.push_async_callback(probe.stop)
        await probe.start()
        fleet = Fleet(
            self._supervisor,
            control,
            self._directory,
            common=common,
            scenario=self._scenario,
            consumers=partial(_consumers, probe, settings.queue.work),
            tell=self._tell,
            agents=agents,
        )
        stack.push_async_callback(fleet.stop)
        if self._scenario.proxy:
            self._watcher.noted("starting: proxy")
            await fleet.launch_proxy(str(common.get("broker.url", broker.url)))
        witness, counts = await self._watch_strangers(stack, transport, settings)
        self._watcher.noted("starting: monitor, consumers, producers")
        if proxy is None:
            await fleet.launch()
        else:
            await launch_over(proxy, self._scenario.phases[0].fault, fleet.launch)
        stage = Stage(
            fleet=fleet,
            supervisor=self._supervisor,
            operator=broker.operator,
            proxy=proxy,
            clock=self._clock,
            record=self._record,
            tell=self._watcher.noted,
            queue=settings.queue.work,
        )
        return _Run(settings, transport, admin, observer, stage, await admin.identity(), witness, counts)

    async def _join_agents(self, stack: AsyncExitStack, settings: Settings) -> AgentPool | None:
        """Wait for the agents, where processes are to run on other machines."""
        if not self._scenario.on_agents or self._choice.agents is None:
            return None
        pool = AgentPool(
            settings.broker,
            self._choice.agents,
            self._directory,
            self._clock,
            record=self._record,
            tell=self._tell,
            fail=self._supervisor.fail,
        )
        self._agents = await stack.enter_async_context(pool)
        await pool.recruit()
        return pool

    async def _watch_strangers(
        self, stack: AsyncExitStack, transport: Transport, settings: Settings
    ) -> tuple[Witness | None, StrangerCounts | None]:
        """Begin to watch from outside what programs that are not ours do."""
        witness = None
        if not self._scenario.strange:
            return None, None
        if (ledger := self._scenario.ledger) is not None:
            run = str(self._directory.path)
            witness = Witness(transport, ledger, self._directory.sightings, self._clock, run=run)
            stack.push_async_callback(witness.stop)
            await witness.start()
        counts = StrangerCounts(transport, settings)
        stack.push_async_callback(counts.close)
        await counts.start()
        return witness, counts

    def _open_broker(self) -> AbstractAsyncContextManager[RunBroker]:
        faults = self._ready_for
        durable, proxied = any(fault.restarts_broker for fault in faults), any(fault.through_proxy for fault in faults)
        return open_broker(
            self._choice,
            self._supervisor,
            self._directory,
            durable=durable,
            proxied=proxied,
            partitioned=Partition in faults,
        )

    async def _measure(self, run: _Run) -> None:
        """Go through the phases and take samples."""
        identity = run.identity
        self._start_ns = start_ns = self._clock.wall_ns()
        self._recorder = Recorder(run.settings.queue.work)
        self._directory.write_facts(
            RunFacts(
                strategy=run.settings.producer.strategy,
                broker=identity.product,
                broker_version=identity.version,
                broker_address=identity.address,
                started_at=datetime.fromtimestamp(start_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
                start_ns=start_ns,
                command=self._command,
                environment=_environment(),
            )
        )
        phases = self._scenario.phases
        work = run.settings.queue.work
        self._watcher.began(
            f"{self._scenario.name}: {self._scenario.summary}",
            f"{identity.product} {identity.version} at {identity.address}",
            work,
            [(phase.name, phase.duration_s) for phase in phases],
        )
        fleet = run.stage.fleet
        self._load = lambda: self._record(fleet.load(self._clock.wall_ns()))
        self._varies = lambda: fleet.varies
        self._counts, self._witness = run.counts, run.witness
        sampling = asyncio.create_task(self._sample(run.observer))
        try:
            begin_ns = start_ns
            elsewhere = self._done_elsewhere(run)
            async with Conductor(self._directory, run.stage, run.admin, run.observer, work, elsewhere) as conductor:
                self.stage = run.stage
                for index, phase in enumerate(phases):
                    self._watcher.phase_began(index, partial(_share_done, phase.until, fleet, elsewhere))
                    begin_ns = await conductor.go_through(phase, begin_ns, first=index == 0)
        finally:
            self.stage = None
            self._load = lambda: None
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling
            for injection in self._injections:
                await injection.undo()

    def _done_elsewhere(self, run: _Run) -> DoneElsewhere | None:
        """Return what tells how much is done where the consumers are not ours, else None."""
        if "consumer" not in self._scenario.strange:
            return None

        def done(snapshot: Snapshot) -> int | None:
            by_ledger = run.witness.done if run.witness is not None else None
            counted = run.counts.seen if run.counts is not None else None
            return done_by_strangers(snapshot, by_ledger, counted, run.settings.queue.dead_letter)

        return done

    def inject(self, fault: Fault) -> Injection:
        """Begin a fault from outside; it is undone after its time, or with the phases. `stage` must be there."""
        assert self.stage is not None
        self._injections.append(Injection(fault, self.stage))
        return self._injections[-1]

    async def _sample(self, observer: Observer) -> None:
        """Take samples until cancelled. Any error ends the run: its samples would have a gap that is not visible."""
        try:
            await self._keep_sampling(observer)
        except Exception as error:  # noqa: BLE001 - this task is not awaited during the phases
            self._supervisor.fail(f"sampling failed: {error!r}")

    async def _keep_sampling(self, observer: Observer) -> None:
        for number in itertools.count():
            due_ns = self._start_ns + round(number * _SAMPLE_S * 1e9)
            now_ns = self._clock.wall_ns()
            if now_ns > due_ns + _SAMPLE_S * 1e9:
                continue  # more than one sample late: skip the missed ones
            await asyncio.sleep((due_ns - now_ns) / 1e9)
            snapshot = self._complete(observer.snapshot())
            self._take_sample(snapshot)
            self._watcher.sampled(snapshot)
            if number % _SAMPLES_A_SECOND == 0 and self._varies():
                self._load()
            for note in self._recorder.notes(snapshot):
                self._record(note)
                self._watcher.noted(note.text)

    def _complete(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with what is known of consumers that are not ours."""
        if "consumer" not in self._scenario.strange:
            return snapshot
        witness = self._witness
        by_ledger = witness.processed if witness is not None and witness.done is not None else None
        return self._elsewhere.complete(snapshot, by_ledger, self._counts.seen if self._counts is not None else None)

    def _take_sample(self, snapshot: Snapshot) -> None:
        t_s = (self._clock.wall_ns() - self._start_ns) / 1e9
        with self._failing():
            counts = self._counts
            counted = counts.seen if counts is not None else None
            remote = self._agents.costs() if self._agents is not None else None
            sample = self._recorder.sample(t_s, snapshot, self._pids, counted=counted, remote=remote)
            self._directory.append_sample(sample)

    async def _wind_down(self, run: _Run, *, patience_s: float = 20.0) -> None:
        """Stop producers, then consumers, then read what the queues still hold."""
        await run.stage.fleet.stop(between=run.witness.ask if run.witness else None)
        if run.counts is not None:
            self._watcher.noted("waiting until the broker has counted")
            self._record(self._counted(run, await run.counts.finish(self._clock.wall_ns())))
        self._take_sample(run.observer.snapshot())  # it has the totals of the producers' last reports
        if run.witness is not None:
            await run.witness.finish()
        foreign: Counter[str] = Counter()
        with self._directory.writing_leftovers() as write:
            queue = run.settings.queue
            leftovers = (
                read_own_leftovers(run.transport, queue)
                if queue.predeclared
                else read_leftovers(run.admin, queue, patience_s=patience_s, foreign=_noted_by(run.witness, foreign))
            )
            async for found in leftovers:
                write(*found)
        if run.witness is not None:
            if "producer" in self._scenario.strange:
                async for delivery in run.admin.drain(queue.audit):
                    run.witness.sent(delivery.message)
            await run.witness.stop()
        if self._scenario.strange:
            problems = run.witness.problems if run.witness is not None else {}
            self._record(events.OutcomesRead(at_ns=self._clock.wall_ns(), problems=problems, foreign=foreign))

    def _counted(self, run: _Run, counted: events.StrangersCounted) -> events.StrangersCounted:
        """Return what was counted, by the proxy where all programs that are not ours are behind it."""
        if not self._scenario.proxy or "consumer" not in self._scenario.strange:
            return counted
        seen = run.observer.snapshot().totals
        return counted.model_copy(
            update={
                "published": counted.published or seen.confirmed,
                "delivered": seen.delivered,
                "acknowledged": seen.processed,
                "redelivered": seen.redelivered,
                "by": "pace proxy, which saw each pass",
                "problem": "",
            }
        )

    def _tell(self, text: str) -> None:
        self._record(events.Note(at_ns=self._clock.wall_ns(), text=text))
        self._watcher.noted(text)

    def _record(self, event: events.Event) -> None:
        with self._failing():
            self._directory.append_event(event)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn an error into the end of the run where no task awaits the code, for example on a full disk."""
        try:
            yield
        except ExperimentError as error:
            self._supervisor.fail(str(error))

    def _process_started(self, role: str, process_id: str, pid: int) -> None:
        agent = self._agents.agent_of(process_id) if self._agents is not None else ""
        if not agent:
            self._pids[process_id] = pid
        self._record(events.ProcessStarted(at_ns=self._clock.wall_ns(), role=role, id=process_id, pid=pid, agent=agent))
        self._load()

    def _process_ended(self, process_id: str, code: int | None) -> None:
        self._pids.pop(process_id, None)
        complete = self._agents is None or self._agents.is_complete(process_id)
        self._record(events.ProcessEnded(at_ns=self._clock.wall_ns(), id=process_id, code=code, complete=complete))
        self._load()

    async def _unless_interrupted(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await ``work`` unless a signal arrives or a child dies first; raises `_InterruptedError` or `PaceError`."""
        task = asyncio.ensure_future(work)
        failure = self._supervisor.failure
        awaited: list[asyncio.Future[Any]] = [task, self._interrupted, failure]
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            return task.result()
        if failure.done():
            failure.result()
        raise _InterruptedError

    def interrupt(self) -> None:
        """End the run cleanly; when called once more, at once."""
        if not self._interrupted.done():
            self._interrupted.set_result(None)
        elif self._main is not None:
            self._supervisor.kill()
            self._main.cancel()


@contextlib.contextmanager
def _stop_signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """Call ``on_signal`` instead of dying when the run is told to stop."""
    loop = asyncio.get_running_loop()
    numbers = on_stop_signals(loop, on_signal)
    if sys.platform != "win32":  # see `Runner.conduct`
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _noted_by(witness: Witness | None, counted: Counter[str]) -> Callable[[Message, str], None]:
    def note(message: Message, state: str) -> None:
        counted[state] += 1
        if witness is not None:
            witness.left(message, state)

    return note


async def _consumers(probe: QueueProbe, queue: str) -> int | None:
    """Return how many consumers ``queue`` has; 0 while it cannot be asked."""
    try:
        return (await probe.read(queue)).consumers
    except (NotConnectedError, QueueNotFoundError):
        return 0


def _share_done(until: Until | None, fleet: Fleet, elsewhere: DoneElsewhere | None, snapshot: Snapshot) -> float | None:
    return share_done(until, snapshot, fleet.due, elsewhere)


async def _remove_all(admin: QueueAdmin, settings: Settings) -> None:
    """Delete what the run has created on a shared broker."""
    queue = settings.queue
    for name in (queue.work, queue.dead_letter, queue.audit):
        await admin.delete(name)
    for name in (queue.exchange, settings.feedback.exchange):
        await admin.delete_exchange(name)


def _commit() -> str:
    """Return the commit that is under test: from the CI server, else that of the repository in this folder; or ""."""
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA"):
        if os.environ.get(name):
            return os.environ[name][:12]
    git = shutil.which("git")
    if git is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = [git, "rev-parse", "--short=12", "HEAD"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()  # noqa: S603 - fixed words
    return ""


def _environment() -> dict[str, str]:
    commit = _commit()
    return ({"commit": commit} if commit else {}) | {
        "pace": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
    }
