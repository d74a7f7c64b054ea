"""The control APIs on real brokers: one answer per request, bounds that can be changed, and `pace check` of a stack."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from backpressure.api.consumer import consumer_app
from backpressure.api.producer import producer_app
from backpressure.cli.check import CheckOutcome, CheckPlan, SystemCheck
from backpressure.config import replaced
from backpressure.engines.clock import Clock
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.producer import ProducerEngine
from backpressure.transports.factory import connect

Play = Callable[..., None]

pytestmark = pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])


@asynccontextmanager
async def producer_on(bench: Any, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run a producer that sends only what is requested, and yield a client of its API.

    Client and API share the process: a thousand requests are at work at once, and not as many as a pool has sockets.
    """
    quiet = {"producer.start_paused": True, "producer.strategy": "unbounded"}
    settings = replaced(bench.settings, quiet | changes)
    engine = ProducerEngine(connect(settings), settings, Clock())
    transport = httpx.ASGITransport(app=producer_app(engine))
    async with running(engine), httpx.AsyncClient(transport=transport, base_url="http://producer") as client:
        yield client


@asynccontextmanager
async def running(engine: ProducerEngine | ConsumerEngine) -> AsyncIterator[None]:
    """Run an engine as long as the block takes."""
    await engine.start()
    task = asyncio.create_task(engine.run())
    yield
    engine.stop()
    await task
    await engine.close()


class Stack(httpx.AsyncBaseTransport):
    """The way to a producer and a consumer in this process, by the names of their hosts."""

    def __init__(self, producer: ProducerEngine, consumer: ConsumerEngine) -> None:
        apps = {"producer": producer_app(producer), "consumer": consumer_app(consumer)}
        self._ways = {name: httpx.ASGITransport(app=app) for name, app in apps.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._ways[request.url.host].handle_async_request(request)


async def checked(stack: Stack, timeout_s: float) -> dict[str, CheckOutcome]:
    """Return how each check came out."""
    plan = CheckPlan("http://producer", "http://consumer", "", requests=50, timeout_s=timeout_s)
    async with SystemCheck(plan, stack) as system:
        return {result.name: result.outcome async for result in system.run()}


def test_no_request_of_a_thousand_parallel_ones_is_lost_or_doubled(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with producer_on(bench) as client:
            answers = await asyncio.gather(
                *(client.post("/produce", json={"id": f"r{n}", "payload": n}) for n in range(1000))
            )
        assert {answer.status_code for answer in answers} == {200}
        assert [answer.json()["message_id"] for answer in answers] == [f"r{n}" for n in range(1000)]
        assert Counter(await bench.contents()) == Counter({b"%d" % n: 1 for n in range(1000)})

    play(story)


def test_when_the_queue_fills_under_parallel_requests_what_was_confirmed_is_there_and_the_rest_was_reported(
    play: Play,
) -> None:
    async def story(bench: Any) -> None:
        async with producer_on(bench, **{"producer.strategy": "bounded"}) as client:
            answers = await asyncio.gather(*(client.post("/produce", json={"payload": n}) for n in range(300)))
        codes = Counter(answer.status_code for answer in answers)
        assert codes == {200: 100, 429: 200}
        assert all(answer.headers["Retry-After"] == "1" for answer in answers if answer.status_code == 429)
        taken = [b"%d" % number for number, answer in enumerate(answers) if answer.status_code == 200]
        assert sorted(await bench.contents()) == sorted(taken)

    play(story, max_length=100, type="classic")


def test_a_new_mode_binds_the_live_queue_or_frees_it(play: Play) -> None:
    async def story(bench: Any) -> None:
        probe = await bench.started(bench.transport.probe())

        async def change(**body: Any) -> None:
            answer = await client.post("/admin/config", json=body)
            assert answer.status_code == 200, answer.text

        async def burst(count: int) -> tuple[int, int]:
            """Send a burst and return the answer's code and how many messages are in the queue then."""
            code = (await client.post("/produce", json={"count": count})).status_code
            depth = (await probe.read(bench.queue.work)).ready
            assert (await client.get("/status")).json()["queue"]["max_size"] == bound
            return code, depth

        async with producer_on(bench) as client:
            bound: int | None = 5
            await change(queue_mode="bounded", max_queue_size=bound)
            assert await burst(8) == (429, 5)
            bound = None
            await change(queue_mode="unbounded")
            assert await burst(8) == (200, 13)
            bound = 15
            await change(queue_mode="rate_limited", rate_limit=50, max_queue_size=bound)
            assert await burst(8) == (429, 15)
            for law in ("aimd", "pace"):  # the law changes, the bound stays
                await change(queue_mode=law)
                assert await burst(1) == (429, 15)
            bound = 16
            await change(max_queue_size=bound)
            assert await burst(2) == (429, 16)
            assert (await client.post("/admin/clear-queue")).json()["purged"] == 16
            bound = 3
            await change(queue_mode="bounded", max_queue_size=bound)
            assert await burst(8) == (429, 3)

    play(story)


def test_pace_check_passes_a_sound_stack_and_fails_one_whose_consumer_hangs(play: Play) -> None:
    async def story(bench: Any) -> None:
        quiet = {"producer.start_paused": True, "producer.strategy": "unbounded", "consumer.rate": 1000}
        settings = replaced(bench.settings, quiet)
        producer = ProducerEngine(connect(settings), settings, Clock())
        consumer = ConsumerEngine(connect(settings), settings, Clock())
        stack = Stack(producer, consumer)
        async with running(producer), running(consumer):
            sound = await checked(stack, timeout_s=60)
            await consumer.pause()
            still = await checked(stack, timeout_s=0.5)
        assert set(sound.values()) == {CheckOutcome.PASSED}
        assert {name for name, outcome in still.items() if outcome is not CheckOutcome.PASSED} == {"delivery"}
        assert still["delivery"] is CheckOutcome.FAILED

    play(story)
