"""The lab service on real brokers: `pace lab` as a process, with workers that are processes too."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backpressure.transports.management_client import ManagementClient

Play = Callable[..., None]

NOTE = {"message": "Hello", "timestamp": "2023-01-01T12:00:00", "source": "test_client"}
AMQP = pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])
NOBODY = "amqp://guest:guest@127.0.0.1:1/"
_PATIENCE_S = 60.0


class Client:
    """Asks a running lab."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def post(self, path: str, content: Any = None, code: int = 200) -> Any:
        answer = await self._http.post(path, json=content)
        assert answer.status_code == code, answer.text
        return answer.json()

    async def get(self, path: str) -> Any:
        return (await self._http.get(path)).raise_for_status().json()

    async def delete(self, path: str) -> None:
        (await self._http.delete(path)).raise_for_status()

    async def when(self, path: str, holds: Callable[[Any], object]) -> Any:
        """Return what ``path`` answers as soon as it ``holds``."""
        async with asyncio.timeout(_PATIENCE_S):
            while not holds(answer := await self.get(path)):  # noqa: ASYNC110 -- it asks another process
                await asyncio.sleep(0.05)
        return answer


@asynccontextmanager
async def running_lab(directory: Path, url: str, management_url: str = "", **settings: str) -> AsyncIterator[Client]:
    """Run `pace lab` on a free port; it must end cleanly."""
    ours = re.compile("PACE_|RABBITMQ_|LOG_LEVEL")
    announced = directory / "lab.json"
    environment = {name: value for name, value in os.environ.items() if not ours.match(name)} | {
        "PACE_CONFIG": "",
        "PACE_API__LAB_PORT": "0",
        "PACE_BROKER__URL": url,
        "PACE_BROKER__MANAGEMENT_URL": management_url,
        "PACE_LAB__PREFIX": directory.name,
        "PACE_LAB__SECONDS_PER_COMPLEXITY": "0.05",
        "PACE_PROCESS__ANNOUNCE_FILE": str(announced),
        **settings,
    }
    command = (sys.executable, "-m", "backpressure", "lab")
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=directory, stdout=-3)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while not announced.exists():
                assert process.returncode is None, "the lab did not start"
                await asyncio.sleep(0.05)
        base_url = json.loads(announced.read_text())["api_url"]
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=_PATIENCE_S) as http:
            yield Client(http)
    finally:
        process.terminate()
        assert await process.wait() == 0


def on(bench: Any) -> tuple[str, str]:
    """Return where the broker of a story is."""
    return bench.settings.broker.url, bench.settings.broker.management_url


@AMQP
def test_what_was_sent_waits_until_somebody_consumes(play: Play, tmp_path: Path) -> None:
    async def story(bench: Any) -> None:
        async with running_lab(tmp_path, *on(bench)) as lab:
            sent = [await lab.post("/rabbitmq/send", NOTE | {"message": text}) for text in ("one", "two")]
            assert (await lab.get("/rabbitmq/messages"))["messages"] == []
            await lab.post("/rabbitmq/consume")
            answer = await lab.when("/rabbitmq/messages", lambda seen: seen["received"] == 2)
            assert [message["message_id"] for message in answer["messages"]] == [one["message_id"] for one in sent]
            assert [message["message"] for message in answer["messages"]] == ["one", "two"]
            assert {message["source"] for message in answer["messages"]} == {"test_client"}
            for method, path in (("post", "/kafka/send"), ("post", "/kafka/consume")):
                content = NOTE if path.endswith("send") else None
                assert "not configured" in (await getattr(lab, method)(path, content, code=503))["detail"]

    play(story)


@AMQP
def test_a_busy_worker_is_given_no_second_task_and_the_task_of_a_killed_one_goes_to_another(
    play: Play, tmp_path: Path
) -> None:
    async def story(bench: Any) -> None:
        async with running_lab(tmp_path, *on(bench)) as lab:
            [busy] = (await lab.post("/tasks/workers/start", {"num_workers": 1}))["workers"]
            os.kill(busy["pid"], signal.SIGSTOP)  # whatever it is given, it is not done with it before it is killed
            long = await lab.post("/tasks/submit", {"complexity": 40, "data": "long", "type": "test"})
            workers = (await lab.post("/tasks/workers/start", {"num_workers": 1}))["workers"]
            pids = {worker["worker"]: worker["pid"] for worker in workers}
            for number in range(3):
                await lab.post("/tasks/submit", {"complexity": 1, "data": str(number), "type": "test"})
            shorts = (await lab.when("/tasks/results", lambda seen: seen["completed"] == 3))["results"]
            [idle] = {result["worker"] for result in shorts}  # all three: the other has the long one
            assert idle != busy["worker"]
            assert [result["data"] for result in shorts] == list("012")
            assert all(result["processing_time_s"] >= 0.05 for result in shorts)
            await lab.post(f"/tasks/workers/{busy['worker']}/kill")
            results = (await lab.when("/tasks/results", lambda seen: seen["completed"] == 4))["results"]
            last = results[-1]
            assert (last["task_id"], last["worker"], last["pid"]) == (long["task_id"], idle, pids[idle])
            assert last["redelivered"]
            assert last["processing_time_s"] >= 2
            assert (await lab.post("/tasks/workers/stop"))["stopped"] == 1

    play(story)


@AMQP
def test_every_subscriber_has_a_queue_of_its_own_behind_a_fanout(play: Play, tmp_path: Path) -> None:
    async def story(bench: Any) -> None:
        queues = [f"{tmp_path.name}.pubsub.{name}" for name in ("one", "two")]
        async with ManagementClient(bench.broker.management_url) as management:
            async with running_lab(tmp_path, *on(bench)) as lab:
                await lab.post("/pubsub/publish", NOTE)  # before anybody has subscribed
                for name in ("one", "two"):
                    await lab.post("/pubsub/subscribers", {"subscriber_id": name})
                await lab.post("/pubsub/subscribers/one/consume")
                published = await lab.post("/pubsub/publish", NOTE | {"importance": "high"})
                assert published["subscribers"] == 2
                path = "/pubsub/subscribers/{}/messages"
                first = await lab.when(path.format("one"), lambda seen: seen["received"] == 1)
                assert (await lab.get(path.format("two")))["received"] == 0
                await lab.post("/pubsub/subscribers/two/consume")  # its copy has waited
                second = await lab.when(path.format("two"), lambda seen: seen["received"] == 1)
                for seen in (first, second):
                    [message] = seen["messages"]
                    assert (message["message_id"], message["importance"]) == (published["message_id"], "high")
                exchanges = {exchange.name: exchange.type for exchange in await management.exchanges()}
                assert exchanges[f"{tmp_path.name}.pubsub"] == "fanout"
                await lab.delete("/pubsub/subscribers/one")
                assert not {queue.name for queue in await management.queues()} & {queues[0]}
            assert not {queue.name for queue in await management.queues()} & set(queues)

    play(story)


@pytest.mark.kafka
@pytest.mark.parametrize("kind", ["kafka"])
def test_kafka_keeps_what_was_sent_and_works_though_rabbitmq_is_away(play: Play, tmp_path: Path) -> None:
    async def story(bench: Any) -> None:
        async with running_lab(tmp_path, NOBODY, PACE_LAB__KAFKA_URL=bench.settings.broker.url) as lab:
            sent = [await lab.post("/kafka/send", NOTE | {"message": text}) for text in ("one", "two")]
            await lab.post("/kafka/consume")
            answer = await lab.when("/kafka/messages", lambda seen: seen["received"] == 2)
            assert [message["message_id"] for message in answer["messages"]] == [one["message_id"] for one in sent]
            await lab.post("/kafka/send", NOTE | {"message": "three"})
            answer = await lab.when("/kafka/messages", lambda seen: seen["received"] == 3)
            assert [message["message"] for message in answer["messages"]] == ["one", "two", "three"]
            assert "no broker at amqp://" in (await lab.post("/rabbitmq/send", NOTE, code=503))["detail"]

    play(story)
