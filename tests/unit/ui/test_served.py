"""The API of `pace ui`: choices, refusals as sentences, and no file but the reports of the folder."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from backpressure.api.monitor import LiveFeed
from backpressure.core.controllers import LAWS
from backpressure.experiments.brokers import BrokerChoice
from backpressure.experiments.faults import FAULTS
from backpressure.ui import assets
from backpressure.ui.driver import Driver
from backpressure.ui.served import ui_app


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[Callable[[httpx.AsyncClient], Awaitable[None]]], None]:
    """Return a function that runs a story with a client of the API."""

    def run(story: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            driver = Driver(tmp_path / "runs", BrokerChoice("embedded"))
            feed = LiveFeed(lambda: driver.latest, lambda _: [])
            transport = httpx.ASGITransport(app=ui_app(driver, feed, assets()))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                await story(client)

        asyncio.run(all_of_it())

    return run


Ask = Callable[..., None]


def test_it_tells_what_there_is_to_choose_from(ask: Ask) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        choices = (await client.get("/api/choices")).json()
        recovery = next(one for one in choices["scenarios"] if one["name"] == "recovery")
        assert recovery["phases"] == ["normal 20 s", "stopped 10 s", "recovery 30 s"]
        assert choices["laws"] == list(LAWS)
        assert [fault["name"] for fault in choices["faults"]] == list(FAULTS)
        obstacles = {fault["name"]: fault["obstacle"] for fault in choices["faults"]}
        assert obstacles["consumer-kill"] == ""
        assert obstacles["network-cut"] == "the run was not made ready for it at its start"
        assert (await client.get("/api/run")).json()["state"] == "idle"
        assert (await client.get("/api/runs")).json() == []

    ask(story)


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("run", {"scenario": "nowhere"}, 422, "expected one of backpressure"),
        ("run", {"scenario": "recovery", "settings": ["producer.rate=much"]}, 422, "producer.rate"),
        ("run/stop", {}, 409, "no run is under way"),
        ("run/settings", {"changes": {"consumer.rate": 5}}, 409, "no phase of a run is under way"),
        ("run/settings", {"changes": {"broker.url": "amqp://elsewhere"}}, 422, "expected one of consumer.count"),
        ("run/fault", {"fault": "consumer-stop", "for_s": 1}, 409, "no phase of a run is under way"),
        ("compare", {"run": "a", "other": "a"}, 422, "the same run"),
        ("compare", {"run": "a", "other": "b"}, 404, "there is no run a"),
        ("compare", {"run": "../../etc", "other": "b"}, 404, "there is no run ../../etc"),
    ],
)
def test_what_is_not_possible_is_answered_with_a_sentence(
    ask: Ask, path: str, body: dict[str, object], status: int, reason: str
) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        answer = await client.post(f"/api/{path}", json=body)
        assert answer.status_code == status
        assert reason in answer.json()["detail"]

    ask(story)


def test_only_reports_of_runs_are_shown_and_cut_off_from_the_api(ask: Ask, tmp_path: Path) -> None:
    for place in (tmp_path / "runs" / "one", tmp_path / "outside"):
        place.mkdir(parents=True)
        (place / "run.json").touch()
        (place / "report.html").write_text("<p>the report</p>")

    async def story(client: httpx.AsyncClient) -> None:
        shown = await client.get("/runs/one/report.html")
        assert shown.text == "<p>the report</p>"
        policy = shown.headers["content-security-policy"]
        assert "sandbox allow-scripts" in policy
        assert "allow-same-origin" not in policy
        for path in ("one/run.json", "one/compare.html", "%2e%2e/report.html", "..%2foutside/report.html"):
            assert (await client.get(f"/runs/{path}")).status_code in {404, 422}

    ask(story)
