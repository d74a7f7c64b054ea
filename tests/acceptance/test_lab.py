"""pace lab as a process: its workers are killed and replaced, it ends cleanly, and a browser can do everything."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

if TYPE_CHECKING:
    from chromium import Chromium

WaitUntil = Callable[[Callable[[], object], str], None]
NOTE = {"message": "Hello", "timestamp": "2023-01-01T12:00:00", "source": "test_client"}


class Lab:
    """A running lab and a client of it."""

    def __init__(self, start: Any, *flags: str, **settings: str) -> None:
        quick = {"PACE_LAB__SECONDS_PER_COMPLEXITY": "0.05"}
        self.script = start("lab", "--api-port", "0", *flags, **quick | settings)
        self.url = self.script.says(r"^lab: (http://\S+)/ ")[1]
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def post(self, path: str, content: Any = None, code: int = 200) -> Any:
        answer = self.client.post(path, json=content)
        assert answer.status_code == code, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def start_lab(start: Any, tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Return a function that starts a lab with a prefix of its own; flags and settings as given."""
    labs: list[Lab] = []

    def run(*flags: str, **settings: str) -> Lab:
        lab = Lab(start, *flags, **{"PACE_LAB__PREFIX": tmp_path.name, **settings})
        labs.append(lab)
        return lab

    yield run
    for lab in labs:
        lab.client.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_workers_task_goes_to_another_and_no_worker_outlives_the_lab(
    start_lab: Callable[..., Lab], broker: Any, wait_until: WaitUntil
) -> None:
    lab = start_lab("--url", broker.url)
    [first] = lab.post("/tasks/workers/start", {"num_workers": 1})["workers"]
    os.kill(first["pid"], signal.SIGSTOP)  # it gets a task, and is not done with it before it is killed
    task = {"complexity": 4, "type": "test"}
    tasks = [lab.post("/tasks/submit", task | {"data": "first"})["task_id"]]
    workers = lab.post("/tasks/workers/start", {"num_workers": 1})["workers"]
    pids = {worker["worker"]: worker["pid"] for worker in workers}
    assert len(set(pids.values())) == 2
    tasks.append(lab.post("/tasks/submit", task | {"data": "second"})["task_id"])
    os.kill(pids["worker-1"], signal.SIGKILL)
    wait_until(lambda: lab.get("/tasks/results")["completed"] == 2, "both tasks are done")
    results = lab.get("/tasks/results")["results"]
    assert {result["task_id"] for result in results} == set(tasks)
    assert {(result["worker"], result["pid"]) for result in results} == {("worker-2", pids["worker-2"])}
    assert sorted(result["redelivered"] for result in results) == [False, True]
    states = {
        worker["worker"]: (worker["state"], worker["exit_code"]) for worker in lab.get("/tasks/workers")["workers"]
    }
    assert states == {"worker-1": ("ended", -9), "worker-2": ("running", None)}
    lab.script.signal(signal.SIGINT)
    assert lab.script.ends() == 0
    assert not is_running(pids["worker-2"])


def test_workers_end_with_a_lab_that_is_killed(
    start_lab: Callable[..., Lab], broker: Any, wait_until: WaitUntil
) -> None:
    lab = start_lab("--url", broker.url)
    [worker] = lab.post("/tasks/workers/start", {"num_workers": 1})["workers"]
    lab.script.signal(signal.SIGKILL)
    lab.script.ends()
    wait_until(lambda: not is_running(worker["pid"]), "the worker has ended")


def test_everything_works_on_a_real_connection(
    start_lab: Callable[..., Lab], broker: Any, wait_until: WaitUntil, tmp_path: Path
) -> None:
    lab = start_lab("--url", broker.url)
    lab.post("/rabbitmq/send", NOTE)
    lab.post("/rabbitmq/consume")
    wait_until(lambda: lab.get("/rabbitmq/messages")["received"] == 1, "the message has arrived")
    for name in ("one", "two"):
        lab.post("/pubsub/subscribers", {"subscriber_id": name})
    lab.post("/pubsub/subscribers/one/consume")
    assert lab.post("/pubsub/publish", NOTE | {"importance": "high"})["subscribers"] == 2
    wait_until(lambda: lab.get("/pubsub/subscribers/one/messages")["received"] == 1, "the subscriber has its copy")
    queue = f"{tmp_path.name}.pubsub.two"
    assert broker.depth(queue) == 1
    exchanges = httpx.get(
        f"{broker.management_url}/api/exchanges/%2F", auth=("guest", "guest"), trust_env=False, timeout=60
    ).json()
    assert {one["type"] for one in exchanges if one["name"] == f"{tmp_path.name}.pubsub"} == {"fanout"}
    assert "not configured" in lab.post("/kafka/send", NOTE, code=503)["detail"]
    lab.script.signal(signal.SIGTERM)
    assert lab.script.ends() == 0
    queues = httpx.get(
        f"{broker.management_url}/api/queues", auth=("guest", "guest"), trust_env=False, timeout=60
    ).json()
    assert queue not in {one["name"] for one in queues}


def test_it_starts_without_a_broker_says_so_and_works_as_soon_as_there_is_one(
    start_lab: Callable[..., Lab], start_broker: Any, free_port: int
) -> None:
    lab = start_lab("--url", f"amqp://guest:hunter2@127.0.0.1:{free_port}/")
    for path, content in (("/rabbitmq/send", NOTE), ("/tasks/workers/start", None), ("/pubsub/subscribers", None)):
        detail = lab.post(path, content, code=503)["detail"]
        assert detail == f"no broker at amqp://127.0.0.1:{free_port}: connection refused"
    lab.script.signal(signal.SIGINT)
    assert lab.script.ends() == 0
    assert "hunter2" not in lab.script.text
    again = start_lab("--port", str(free_port))
    again.post("/rabbitmq/send", NOTE, code=503)
    with start_broker(free_port):
        again.post("/rabbitmq/send", NOTE)


def test_an_address_others_can_reach_needs_a_token_and_then_asks_for_it(
    start: Any, start_lab: Callable[..., Lab]
) -> None:
    refused = start("lab", "--api-port", "0", PACE_API__HOST="0.0.0.0")
    assert refused.ends() == 2
    assert "token" in refused.text
    lab = start_lab(PACE_API__TOKEN="sesame")
    assert lab.client.get("/status").status_code == 401
    assert lab.client.get("/status", headers={"Authorization": "Bearer sesame"}).status_code == 200
    assert lab.client.get("/", auth=("anybody", "sesame")).status_code == 200
    assert "sesame" not in lab.script.text


def test_kafka_where_amqp_is_needed_is_refused_with_the_right_setting(start: Any) -> None:
    refused = start("lab", "--url", "kafka://localhost:9092")
    assert refused.ends() == 2
    assert "lab.kafka_url" in refused.text


def click(browser: Chromium, selector: str) -> None:
    browser.run(f"document.querySelector({selector!r}).click()")


def text(browser: Chromium, selector: str) -> str:
    return str(browser.run(f"document.querySelector({selector!r})?.textContent ?? ''"))


def test_a_person_can_do_everything_in_a_browser(
    start_lab: Callable[..., Lab], broker: Any, chromium: Chromium, wait_until: WaitUntil
) -> None:
    lab = start_lab("--url", broker.url)
    chromium.open(lab.url)

    def shows(selector: str, wanted: str) -> None:
        wait_until(lambda: wanted in text(chromium, selector), f"{selector} shows {wanted!r}")

    shows("#state", "live")
    shows("#rabbitmq .address", urlsplit(broker.url).hostname or "")
    shows("#kafka .address", "Kafka is not configured")
    assert chromium.run("document.querySelector('#kafka form button').disabled")
    chromium.run("document.querySelector('#rabbitmq [name=message]').value = '<b>bold & brave</b>'")
    click(chromium, "#rabbitmq form button")
    shows("#rabbitmq .counts", "1 sent, 0 received")
    click(chromium, "#rabbitmq [data-post='/rabbitmq/consume']")
    shows("#rabbitmq .messages", "<b>bold & brave</b>")

    click(chromium, "#tasks [data-post='/tasks/workers/start'] button")
    shows("#workers", "worker-3")
    click(chromium, "#ten")
    shows("#tasks .counts", "10 submitted, 10 done")
    click(chromium, "#tasks [data-post='/tasks/submit'] button")
    shows("#tasks .counts", "11 submitted, 11 done")
    click(chromium, "#workers button")
    shows("#workers", "ended (signal 9)")
    click(chromium, "[data-post='/tasks/workers/stop']")
    wait_until(lambda: "worker" not in text(chromium, "#workers td"), "no worker is listed")

    chromium.run("document.querySelector('[name=subscriber_id]').value = 'alice'")
    click(chromium, "[data-post='/pubsub/subscribers'] button")
    shows("#subscribers [data-id=alice] .counts", "0 received")
    click(chromium, "[data-post='/pubsub/subscribers'] button")
    shows("#answer", "409, there is a subscriber 'alice' already")
    click(chromium, "#subscribers [data-id=alice] button")
    shows("#subscribers [data-id=alice] .counts", "consuming")
    click(chromium, "[data-post='/pubsub/publish'] button")
    shows("#subscribers [data-id=alice] table", "[normal] Hello subscribers")
    click(chromium, "#subscribers [data-id=alice] button:last-child")
    wait_until(lambda: not chromium.run("document.querySelector('#subscribers').children.length"), "alice is gone")

    ground = "getComputedStyle(document.body).backgroundColor"
    chromium.prefer("dark")
    dark = chromium.run(ground)
    click(chromium, "#theme")
    assert chromium.run(ground) != dark
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.screenshot().startswith(b"\x89PNG")
    chromium.resize(400, 800)
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    # The duplicate subscriber is the one answer that the browser logs as an error.
    assert [entry for entry in chromium.complaints if "409" not in str(entry)] == []
    lab.script.signal(signal.SIGINT)
    assert lab.script.ends() == 0
    shows("#state", "does not answer")
