"""The live page's controls are forwarded to processes on this machine, and to no others."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from calling import calling
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from backpressure.api.monitor import serve_control
from backpressure.api.serving import ApiServer
from backpressure.core.controllers import LAWS
from backpressure.core.reports import ConsumerReport, ProducerReport

HERE, OURS = socket.gethostname(), os.getpid()


@dataclass
class Seen:
    """What the control needs of a snapshot."""

    producers: tuple[ProducerReport, ...] = ()
    consumers: tuple[ConsumerReport, ...] = ()


@dataclass
class Process:
    """A control API that writes down what it is asked."""

    asked: list[tuple[str, Any, str]] = field(default_factory=list)
    status: Any = None

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/status")
        async def status() -> Any:
            return self.status

        @app.post("/admin/{action}")
        async def admin(action: str, request: Request) -> JSONResponse:
            body = await request.body()
            self.asked.append((action, body, request.headers.get("authorization", "")))
            return JSONResponse(
                {"detail": "no"} if b"-5" in body else {"status": "success"}, 422 if b"-5" in body else 200
            )

        return app


def report(api_url: str, *, name: str = "slow", pid: int = OURS, host: str = HERE) -> ConsumerReport:
    return ConsumerReport(
        id=name, pid=pid, host=host, at_ns=0, queue="work.queue", delivered=0, processed=0, failed=0, retried=0,
        dead_lettered=0, redelivered=0, duplicates=0, out_of_order=0, held=0, prefetch=5, paused=False,
        capacity_per_s=None, busy_s=0.0, service_sum_s=0.0, service_sum_s2=0.0, rss_bytes=0, cpu_s=0.0,
        api_url=api_url,
    )  # fmt: skip


async def asking(
    reports: Callable[[str], tuple[ConsumerReport, ...]], path: str, body: bytes = b"", token: str = ""
) -> tuple[httpx.Response, Process]:
    """Post to the monitor about processes; one listens at the address that ``reports`` is given."""
    process = Process()
    server = ApiServer(
        process.app(), host="127.0.0.1", port=0, token=SecretStr(token), key="api.host", flag="--api-port"
    )
    async with server:
        seen: Any = Seen(consumers=reports(server.url))
        monitor = FastAPI()
        serve_control(monitor, lambda: seen, SecretStr(token))
        async with calling(monitor) as client:
            return await client.post(f"/api/control/{path}", content=body), process


@pytest.mark.parametrize("action", ["config", "pause", "resume", "slow-down"])
def test_a_request_goes_to_the_process_with_its_body_and_the_token(action: str) -> None:
    answer, process = asyncio.run(
        asking(lambda url: (report(url),), f"consumer/slow/{action}", b'{"factor":5}', token="hunter2")
    )
    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    assert process.asked == [(action, b'{"factor":5}', "Bearer hunter2")]


def test_a_refusal_comes_back_as_it_is() -> None:
    answer, _ = asyncio.run(asking(lambda url: (report(url),), "consumer/slow/config", b'{"rate":-5}'))
    assert (answer.status_code, answer.json()) == (422, {"detail": "no"})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("consumer/stranger/pause", 404), ("producer/slow/pause", 404), ("consumer/slow/pause?pid=8", 404),
        ("consumer/slow/clear-queue", 422), ("broker/slow/pause", 422), ("consumer/slow/..%2fproduce", 404),
    ],
)  # fmt: skip
def test_only_live_processes_and_only_these_actions(path: str, status: int) -> None:
    answer, process = asyncio.run(asking(lambda url: (report(url),), path))
    assert answer.status_code == status
    assert process.asked == []


def test_processes_of_one_name_are_distinguished_by_their_pid() -> None:
    def two(url: str) -> tuple[ConsumerReport, ...]:
        return report(url, pid=7), report("http://127.0.0.1:1", pid=8)

    answer, process = asyncio.run(asking(two, "consumer/slow/pause"))
    assert answer.status_code == 409
    assert "7, 8" in answer.json()["detail"]
    assert process.asked == []
    answer, process = asyncio.run(asking(two, "consumer/slow/pause?pid=7"))
    assert answer.status_code == 200
    assert [action for action, _, _ in process.asked] == ["pause"]


@pytest.mark.parametrize(
    "elsewhere",
    ["", "http://192.0.2.1:8001", "https://{netloc}", "http://{netloc}/x?", "http://{netloc}#", "http://u:p@{netloc}",
     "file:///etc/passwd", "http://localhost", "http://{netloc}@192.0.2.1:80", "http://127.0.0.1:notaport", "{netloc}"],
)  # fmt: skip
def test_an_address_that_is_not_a_plain_one_on_loopback_is_never_called(elsewhere: str) -> None:
    def claimed(url: str) -> tuple[ConsumerReport, ...]:
        return (report(elsewhere.format(netloc=url.removeprefix("http://"))),)

    answer, process = asyncio.run(asking(claimed, "consumer/slow/pause"))
    assert answer.status_code == 409
    assert process.asked == []


def test_the_loopback_of_another_machine_is_not_ours() -> None:
    answer, process = asyncio.run(asking(lambda url: (report(url, host="elsewhere"),), "consumer/slow/pause"))
    assert answer.status_code == 409
    assert "elsewhere" in answer.json()["detail"]
    assert process.asked == []


def test_a_process_that_does_not_answer_is_said_to() -> None:
    answer, _ = asyncio.run(asking(lambda _: (report("http://127.0.0.1:1"),), "consumer/slow/pause"))
    assert answer.status_code == 502
    assert "slow does not answer" in answer.json()["detail"]


async def looking(
    reports: Callable[[str], tuple[ConsumerReport, ...]], *, token: str = "", monitors: str = "", status: Any = None
) -> dict[str, Any]:
    """Return what the page learns of processes; one of them listens, and wants ``token``."""
    server = ApiServer(
        Process(status=status).app(),
        host="127.0.0.1",
        port=0,
        token=SecretStr(token),
        key="api.host",
        flag="--api-port",
    )
    async with server:
        seen: Any = Seen(consumers=reports(server.url))
        monitor = FastAPI()
        serve_control(monitor, lambda: seen, SecretStr(monitors))
        async with calling(monitor) as client:
            learnt: dict[str, Any] = (await client.get("/api/control")).json()
            return learnt


@pytest.mark.parametrize("stranger", [1, 2**22 + 1])
def test_the_token_is_sent_only_to_a_process_of_ours_that_listens_there(stranger: int) -> None:
    def claimed(url: str) -> tuple[ConsumerReport, ...]:
        return (report(url, pid=stranger),)

    answer, process = asyncio.run(asking(claimed, "consumer/slow/pause", token="hunter2"))
    assert (answer.status_code, process.asked) == (409, [])
    assert "the token is not shown to" in answer.json()["detail"]
    learnt = asyncio.run(looking(claimed, monitors="hunter2"))
    assert "the token is not shown to" in learnt["processes"][0]["obstacle"]


def test_without_a_token_there_is_nothing_to_keep_from_anybody() -> None:
    answer, process = asyncio.run(asking(lambda url: (report(url, pid=1),), "consumer/slow/pause"))
    assert (answer.status_code, len(process.asked)) == (200, 1)


def test_the_page_learns_which_laws_there_are_and_whom_it_can_control() -> None:
    assert asyncio.run(looking(lambda url: (report(url),), token="hunter2", monitors="hunter2")) == {
        "laws": list(LAWS),
        "processes": [
            {"role": "consumer", "id": "slow", "pid": OURS, "host": HERE, "obstacle": "", "slow_down_factor": None}
        ],
    }


@pytest.mark.parametrize(
    ("status", "factor"),
    [
        ({"rates": {"slow_down_factor": 5}}, 5.0),
        ({"rates": {"slow_down_factor": "<b>"}}, None), ({"rates": 1}, None), ([], None), ({}, None),
    ],
)  # fmt: skip
def test_the_page_learns_how_much_a_consumer_is_slowed_down_if_it_reports_that(
    status: Any, factor: float | None
) -> None:
    learnt = asyncio.run(looking(lambda url: (report(url),), status=status))
    assert learnt["processes"][0]["slow_down_factor"] == factor


@pytest.mark.parametrize(
    ("changes", "token", "obstacle"),
    [
        ({"api_url": ""}, "", "it serves no control API"),
        ({"host": "elsewhere"}, "", "it runs on elsewhere, its control API is http://127.0.0.1:"),
        ({"api_url": "http://192.0.2.1:8001"}, "", "is not a plain address on this machine's loopback"),
        ({"api_url": "http://127.0.0.1:1"}, "", "its control API http://127.0.0.1:1 does not answer"),
        ({}, "hunter2", "it wants another token than the monitor's (api.token)"),
    ],
)
def test_the_page_learns_why_a_process_cannot_be_controlled(changes: dict[str, Any], token: str, obstacle: str) -> None:
    monitors = "another" if token else ""
    learnt = asyncio.run(looking(lambda url: (replace(report(url), **changes),), token=token, monitors=monitors))
    assert obstacle in learnt["processes"][0]["obstacle"]
