"""`Paced` and its kin where things go wrong: brokers that are away, cancelled and closed calls, forks, loops, ends."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pika
import pytest

from backpressure import BackpressureError, Limiter, Paced, SyncPaced
from backpressure.errors import NotConnectedError
from backpressure.integrations.paced_queues import PacedQueues, working_on
from backpressure.transports.private_process import ReservedPorts

BODIES = [f"{number}".encode() for number in range(40)]
QUEUE = "hostile"


class Restartable:
    """An embedded broker that keeps its data, killed and started again by a test."""

    def __init__(self, folder: Path) -> None:
        self._ports = ReservedPorts()
        self._port, self._management_port = self._ports.reserve([(0, ""), (0, "")])
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}/"

    def start(self) -> None:
        announce = self._folder / "broker.json"
        announce.unlink(missing_ok=True)
        ports = ["--port", str(self._port), "--management-port", str(self._management_port)]
        files = ["--announce", str(announce), "--data-dir", str(self._folder / "data")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backpressure.broker", *ports, *files], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not announce.exists():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert json.loads(announce.read_text())["url"]

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def release(self) -> None:
        self._ports.release()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Restartable]:
    restartable = Restartable(tmp_path)
    yield restartable
    restartable.kill()
    restartable.release()


@contextmanager
def consuming(url: str, expected: int) -> Iterator[list[bytes]]:
    """Consume a durable queue whatever happens to the broker, until ``expected`` different messages have come."""
    bodies: list[bytes] = []
    ready, stop = threading.Event(), threading.Event()

    def consume() -> None:
        while not stop.is_set() and len(set(bodies)) < expected:
            try:
                with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                    channel = connection.channel()
                    channel.queue_declare(QUEUE, durable=True)
                    for method, _, body in channel.consume(QUEUE, inactivity_timeout=0.05):
                        ready.set()
                        if method is not None:
                            channel.basic_ack(method.delivery_tag)
                            bodies.append(body)
                        if stop.is_set() or len(set(bodies)) == expected:
                            break
            except (pika.exceptions.AMQPError, OSError):
                time.sleep(0.05)

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        assert ready.wait(60)
        yield bodies
        thread.join(60)
    finally:
        stop.set()
        thread.join()


def declare(url: str, queue: str = QUEUE) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_declare(queue, durable=True)


# --- a broker that is away ------------------------------------------------------------------------------------------


def test_a_broker_that_is_away_at_the_start_is_said_and_used_when_it_is_there(broker: Restartable) -> None:
    async def story() -> None:
        paced = Paced(broker.url, QUEUE)
        with pytest.raises(NotConnectedError):
            await paced.open()
        broker.start()
        with consuming(broker.url, 1) as bodies:
            async with paced:
                await paced.publish(b"at last")
        assert bodies == [b"at last"]

    asyncio.run(story())


def test_a_broker_that_is_away_at_the_start_is_said_to_a_thread_and_used_when_it_is_there(broker: Restartable) -> None:
    paced = SyncPaced(broker.url, QUEUE)
    with pytest.raises(NotConnectedError):
        paced.open()
    broker.start()
    with consuming(broker.url, 1) as bodies, paced:
        paced.publish(b"at last")
    assert bodies == [b"at last"]


def test_a_limiter_waits_for_a_broker_that_is_away_at_the_start(broker: Restartable) -> None:
    with Limiter(QUEUE, broker.url) as limiter:
        assert not limiter.status().watching
        broker.start()
        declare(broker.url)
        while not limiter.status().watching:
            time.sleep(0.01)


async def a_url(url: str, _stack: AsyncExitStack) -> Any:
    return url


async def a_channel(url: str, stack: AsyncExitStack) -> Any:
    return await (await stack.enter_async_context(await aio_pika.connect(url))).channel()


async def a_robust_connection(url: str, stack: AsyncExitStack) -> Any:
    return await stack.enter_async_context(await aio_pika.connect_robust(url))


@pytest.mark.parametrize("client", [a_url, a_channel, a_robust_connection])
def test_a_broker_that_is_killed_and_comes_back_costs_no_message(
    broker: Restartable, client: Callable[..., Any]
) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack, Paced(await client(broker.url, stack), QUEUE) as paced:
            await paced.publish(BODIES[0])
            publishing = [asyncio.create_task(paced.publish(body)) for body in BODIES[1:]]
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(0)
            await asyncio.to_thread(broker.start)
            await asyncio.gather(*publishing)
            assert paced.status().in_flight == 0
            assert paced.status().waiting == 0

    broker.start()
    with consuming(broker.url, len(BODIES)) as bodies:
        asyncio.run(story())
    assert set(bodies) == set(BODIES)


@pytest.mark.parametrize("given", ["url", "blocking channel"])
def test_a_broker_that_is_killed_and_comes_back_costs_threads_no_message(broker: Restartable, given: str) -> None:
    broker.start()
    client: Any = broker.url if given == "url" else pika.BlockingConnection(pika.URLParameters(broker.url)).channel()
    with consuming(broker.url, len(BODIES)) as bodies, SyncPaced(client, QUEUE) as paced:
        paced.publish(BODIES[0])
        threads = [threading.Thread(target=paced.publish, args=(body,)) for body in BODIES[1:]]
        for thread in threads:
            thread.start()
        broker.kill()
        broker.start()
        for thread in threads:
            thread.join()
        assert paced.status().in_flight == 0
    assert set(bodies) == set(BODIES)


def test_who_only_tries_is_told_of_a_loss_once_and_sends_again_later(broker: Restartable) -> None:
    broker.start()
    with consuming(broker.url, 2) as bodies, SyncPaced(broker.url, QUEUE) as paced:
        paced.publish(b"before")
        broker.kill()
        told = 0
        while told == 0:
            try:
                paced.try_publish(b"lost", timeout=5)
            except NotConnectedError:
                told += 1
        assert not paced.may_send()
        assert not paced.try_publish(b"away")
        broker.start()
        while not paced.try_publish(b"after", timeout=5):
            time.sleep(0.01)
    assert set(bodies) - {b"lost"} == {b"before", b"after"}


def test_tasks_that_only_try_are_told_of_a_loss_once_and_send_again_later(broker: Restartable) -> None:
    async def story() -> None:
        async with Paced(broker.url, QUEUE) as paced:
            await paced.publish(b"before")
            await asyncio.to_thread(broker.kill)
            told = 0
            while told == 0:
                try:
                    await paced.try_publish(b"lost", timeout=5)
                except NotConnectedError:
                    told += 1
                await asyncio.sleep(0.01)
            assert not await paced.try_publish(b"away")
            await asyncio.to_thread(broker.start)
            while not await paced.try_publish(b"after", timeout=5):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)

    broker.start()
    with consuming(broker.url, 2) as bodies:
        asyncio.run(story())
    assert set(bodies) - {b"lost"} == {b"before", b"after"}


# --- callers that give up -------------------------------------------------------------------------------------------


def test_cancelled_publishes_leave_no_trace_and_delay_no_other(broker: Restartable) -> None:
    async def story() -> None:
        async with Paced(broker.url, QUEUE, max_per_s=50) as paced:
            tasks = [asyncio.create_task(paced.publish(body)) for body in BODIES]
            await asyncio.sleep(0)
            for task in tasks[1::2]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes[:2]] == [type(None), asyncio.CancelledError]
            status = paced.status()
            assert (status.waiting, status.in_flight, status.sent) == (0, 0, len(BODIES) // 2)

    broker.start()
    with consuming(broker.url, len(BODIES) // 2) as bodies:
        asyncio.run(story())
    assert bodies == BODIES[::2]


def test_closing_ends_those_who_wait(broker: Restartable) -> None:
    async def story() -> None:
        paced = Paced(broker.url, QUEUE)
        await paced.open()
        waiting = [asyncio.create_task(paced.publish(b"")) for _ in range(100)]  # nobody consumes
        while not paced.status().watching or paced.status().rate_per_s > 0:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        await paced.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {type(None), NotConnectedError}
        with pytest.raises(NotConnectedError, match="not open"):
            await paced.publish(b"")
        await paced.close()

    broker.start()
    declare(broker.url)
    asyncio.run(story())


def test_closing_ends_threads_that_wait(broker: Restartable) -> None:
    broker.start()
    declare(broker.url)
    outcomes: list[type[Exception] | None] = []

    def publish() -> None:
        try:
            paced.publish(b"")
        except NotConnectedError as error:
            outcomes.append(type(error))
        else:
            outcomes.append(None)

    paced = SyncPaced(broker.url, QUEUE)
    with pytest.raises(NotConnectedError, match="not open"):
        paced.publish(b"")
    paced.open()
    threads = [threading.Thread(target=publish) for _ in range(20)]
    for thread in threads:
        thread.start()
    while not paced.status().watching or paced.status().rate_per_s > 0:
        time.sleep(0.01)
    paced.close()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {None, NotConnectedError}
    with pytest.raises(NotConnectedError, match="not open"):
        paced.try_publish(b"")


def test_a_handler_that_fails_is_reported_as_a_failed_attempt(broker: Restartable) -> None:
    broker.start()
    paced = PacedQueues(broker.url)
    reporter = paced.reporter(QUEUE, 1)
    with pytest.raises(ZeroDivisionError), paced.work(QUEUE, 1):
        raise ZeroDivisionError
    report = json.loads(reporter.report())
    assert (report["processed"], report["failed"], report["held"]) == (0, 1, 0)
    assert working_on.get() is None
    paced.close()


# --- processes and loops --------------------------------------------------------------------------------------------


def in_child(call: Callable[[], object]) -> object:
    """Return the outcome of ``call`` in a process that is forked now."""
    context = multiprocessing.get_context("fork")
    outcomes = context.SimpleQueue()

    def run() -> None:
        try:
            outcomes.put(call())
        except Exception as error:  # noqa: BLE001 - the outcome
            outcomes.put(str(error))

    child = context.Process(target=run)
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        pytest.fail("the child hangs")
    assert not outcomes.empty()
    return outcomes.get()


def test_a_process_that_was_forked_gets_connections_and_threads_of_its_own(broker: Restartable) -> None:
    broker.start()
    with consuming(broker.url, 4) as bodies, SyncPaced(broker.url, QUEUE) as paced:
        paced.publish(b"parent 1")

        def child() -> bool:
            paced.publish(b"child 1", timeout=60)
            while not paced.status().watching:
                time.sleep(0.01)
            paced.publish(b"child 2", timeout=60)
            paced.close()
            return True

        assert in_child(child) is True
        paced.publish(b"parent 2")
        assert paced.status().watching
    assert sorted(bodies) == [b"child 1", b"child 2", b"parent 1", b"parent 2"]


def test_a_connection_that_was_given_is_not_shared_with_a_process_that_was_forked(broker: Restartable) -> None:
    broker.start()
    with (
        pika.BlockingConnection(pika.URLParameters(broker.url)) as connection,
        consuming(broker.url, 1),
        SyncPaced(connection, QUEUE) as paced,
    ):
        paced.publish(b"parent")
        said = in_child(lambda: paced.publish(b"child", timeout=60))
    assert "this process was forked after its connection was made" in str(said)


def test_queues_of_an_application_begin_again_in_a_process_that_was_forked(broker: Restartable) -> None:
    broker.start()
    declare(broker.url)
    paced = PacedQueues(broker.url)
    before = paced.limiter(QUEUE)
    assert before is not None

    def child() -> bool:
        limiter = paced.limiter(QUEUE)
        assert limiter is not None
        while not limiter.status().watching:
            time.sleep(0.01)
        paced.close()
        return limiter is not before

    assert in_child(child) is True
    paced.close()


def test_a_paced_belongs_to_its_event_loop(broker: Restartable) -> None:
    broker.start()
    declare(broker.url)
    paced = Paced(broker.url, QUEUE)

    async def other() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await paced.publish(b"")

    async def story() -> None:
        async with paced:
            await asyncio.to_thread(asyncio.run, other())

    asyncio.run(story())


def test_a_limiter_serves_two_event_loops_and_a_thread_at_once(broker: Restartable) -> None:
    broker.start()
    with consuming(broker.url, 1), Limiter(QUEUE, broker.url, law="unbounded", max_per_s=500) as limiter:

        async def send() -> None:
            for _ in range(20):
                async with limiter.sending_async(60):
                    await asyncio.sleep(0)

        def send_blocking() -> None:
            for _ in range(20):
                with limiter.sending(60):
                    pass

        calls = [lambda: asyncio.run(send()), lambda: asyncio.run(send()), send_blocking]
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        status = limiter.status()
        assert (status.sent, status.confirmed, status.waiting, status.in_flight) == (60, 60, 0, 0)
        with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
            connection.channel().basic_publish("", QUEUE, b"")


PROGRAM = """
import sys, time
from backpressure import SyncPaced
paced = SyncPaced(*sys.argv[1:])
paced.open()
paced.publish(b"the last one")
while not paced.status().watching:
    time.sleep(0.01)
"""
"""Opens, and forgets to close."""


def ends(url: str, queue: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, queue], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_program_that_forgets_to_close_ends(broker: Restartable) -> None:
    broker.start()
    with consuming(broker.url, 1) as bodies:
        ends(broker.url, QUEUE)
    assert bodies == [b"the last one"]


@pytest.mark.kafka
def test_a_program_that_forgets_to_close_ends_on_kafka(kafka: Any, topic: str) -> None:
    ends(kafka.url, topic)


@pytest.mark.kafka
def test_a_process_that_was_forked_gets_a_producer_of_its_own_on_kafka(kafka: Any, topic: str) -> None:
    with SyncPaced(kafka.url, topic, min_per_s=10) as paced:
        paced.publish(b"parent")

        def child() -> bool:
            paced.publish(b"child", timeout=60)
            return True

        assert in_child(child) is True
        paced.publish(b"parent")


def test_back_pressure_has_no_end_while_the_broker_has_none(broker: Restartable) -> None:
    with Limiter(QUEUE, broker.url, clock=time.monotonic) as limiter:
        limiter.acquire()  # the first goes at once: nothing is known yet
        with pytest.raises(BackpressureError) as caught:
            limiter.acquire(0.05)
        assert caught.value.retry_after_s > 0
        assert not limiter.try_acquire()
        assert limiter.retry_after_s >= 1
