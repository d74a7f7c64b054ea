"""`pace check` with a simulated stack: what passes, what fails, and what is printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from backpressure.cli.check import CheckOutcome, CheckPlan, CheckResult, SystemCheck
from backpressure.cli.commands import pace

Handler = Callable[[httpx.Request], httpx.Response]

EVERYTHING = [
    *("producer health", "consumer health", "monitor health", "single message", "batch", "invalid input"),
    *("concurrent load", "producer metrics", "consumer metrics", "monitor metrics", "delivery"),
]


class Stack:
    """Producer, consumer and monitor whose messages are consumed as soon as anybody looks."""

    def __init__(self) -> None:
        self.produced = 100
        self.consumed = 60
        self.loses = 0
        self.overrides: dict[str, Handler] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        host, path = request.url.host, request.url.path
        if override := self.overrides.get(f"{host}{path}") or self.overrides.get(host):
            return override(request)
        if request.method == "POST":
            return self.produce(request)
        if path == "/health":
            return httpx.Response(200, json={"status": "healthy"})
        if host == "producer":
            return self.producer(path)
        self.consumed = self.produced - self.loses
        if host == "monitor":
            return self.monitor(path)
        names = ("messages_consumed_total", "message_processing_duration_seconds", "message_processing_errors_total")
        types = "".join(f"# TYPE {name} counter\n" for name in names)
        return httpx.Response(200, text=f"{types}messages_consumed_total {float(self.consumed)}\n")

    def monitor(self, path: str) -> httpx.Response:
        if path == "/metrics":
            names = ("pace_observed_messages_total", "pace_source_up", "pace_threshold_breached")
            return httpx.Response(200, text="".join(f"# TYPE {name} gauge\n" for name in names))
        return httpx.Response(200, json={"totals": {"processed": self.consumed - 5, "dead_lettered": 5}})

    def producer(self, path: str) -> httpx.Response:
        if path == "/status":
            return httpx.Response(200, json={"queue": {"size": self.produced - self.consumed}})
        types = "# TYPE messages_produced_total counter\n# TYPE http_request_duration_seconds histogram\n"
        return httpx.Response(200, text=f"{types}messages_produced_total {self.produced}\n")

    def produce(self, request: httpx.Request) -> httpx.Response:
        try:
            content = json.loads(request.content)
            messages = content.get("messages", [content])
            good = messages and all(
                {"payload"} <= set(message) <= {"id", "payload", "processing_time"} for message in messages
            )
            good = good and all(message.get("processing_time", 0) >= 0 for message in messages)
        except ValueError:
            good = False
        if not good:
            return httpx.Response(422, json={"detail": []})
        self.produced += len(messages)
        if "messages" in content:
            return httpx.Response(200, json={"status": "success", "messages_produced": len(messages)})
        return httpx.Response(200, json={"status": "success", "message_id": content.get("id", "new")})


def outcome_of(stack: Stack, **plan: Any) -> dict[str, CheckResult]:
    async def story() -> list[CheckResult]:
        urls = {f"{part}_url": f"http://{part}" for part in ("producer", "consumer", "monitor")}
        whole = CheckPlan(**{**urls, "requests": 30, "concurrency": 5, "timeout_s": 0.01, **plan})
        async with SystemCheck(whole, httpx.MockTransport(stack)) as system:
            return [result async for result in system.run()]

    return {result.name: result for result in asyncio.run(story())}


def answer(code: int, /, **content: Any) -> Handler:
    return lambda _: httpx.Response(code, json=content)


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


def test_a_sound_stack_passes_everything() -> None:
    results = outcome_of(Stack())
    assert list(results) == EVERYTHING
    assert {result.outcome for result in results.values()} == {CheckOutcome.PASSED}
    assert results["concurrent load"].detail.startswith("30 of 30 confirmed;")


def test_a_read_only_check_sends_nothing() -> None:
    methods = set()

    class Recording(Stack):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            methods.add(request.method)
            return super().__call__(request)

    results = outcome_of(Recording(), read_only=True)
    assert [name for name in results if name.endswith("health")] == [n for n in EVERYTHING if n.endswith("health")]
    assert [name for name in results if name.endswith("metrics")] == [n for n in EVERYTHING if n.endswith("metrics")]
    assert len(results) == 6
    assert {result.outcome for result in results.values()} == {CheckOutcome.PASSED}
    assert methods == {"GET"}


@pytest.mark.parametrize("missing", ["consumer", "monitor"])
def test_one_witness_is_enough_for_the_delivery(missing: str) -> None:
    results = outcome_of(Stack(), **{f"{missing}_url": ""})
    assert f"{missing} health" not in results
    assert {result.outcome for result in results.values()} == {CheckOutcome.PASSED}


def test_without_a_producer_nothing_else_is_tried_and_the_line_says_what_to_start() -> None:
    stack = Stack()
    stack.overrides["producer"] = refuse
    [result] = outcome_of(stack).values()
    assert (result.outcome, result.detail) == (
        CheckOutcome.MISSING,
        "nothing listens at http://producer: start python fast_producer.py",
    )


def test_a_consumer_that_does_not_run_is_missing_and_the_rest_is_tried() -> None:
    stack = Stack()
    stack.overrides["consumer"] = refuse
    results = outcome_of(stack)
    assert results.pop("consumer health").detail.endswith("start python slow_consumer.py")
    assert list(results) == [name for name in EVERYTHING if not name.startswith("consumer")]
    assert {result.outcome for result in results.values()} == {CheckOutcome.PASSED}


def test_without_a_witness_the_delivery_counts_as_missing() -> None:
    assert outcome_of(Stack(), consumer_url="", monitor_url="")["delivery"].outcome is CheckOutcome.MISSING


def test_a_wanted_token_is_asked_for_and_sent() -> None:
    stack = Stack()
    stack.overrides["producer/health"] = lambda request: httpx.Response(
        200 if request.headers.get("authorization") == "Bearer sésame" else 401, json={"status": "healthy"}
    )
    assert "--token" in outcome_of(stack)["producer health"].detail
    assert outcome_of(stack, token="sésame")["producer health"].outcome is CheckOutcome.PASSED


@pytest.mark.parametrize(
    ("where", "handler", "name", "said"),
    [
        ("producer/health", answer(200, status="ill"), "producer health", "ill"),
        ("consumer/health", answer(500), "consumer health", "500"),
        ("consumer/health", lambda _: httpx.Response(200, text="<html>"), "consumer health", "<html>"),
        ("producer/health", lambda _: httpx.Response(200, json=["healthy"]), "producer health", "healthy"),
        ("monitor/metrics", answer(200), "monitor metrics", "lacks pace_observed_messages_total"),
        ("monitor/api/snapshot", answer(200, totals=[]), "delivery", "not understood"),
        ("producer/status", answer(200, queue="long"), "delivery", "not understood"),
        ("producer/produce", answer(503, detail="no broker"), "single message", "no broker"),
        ("producer/produce", answer(200, status="success", message_id="other"), "single message", "other"),
        ("producer/produce", answer(200, status="success"), "invalid input", "no JSON answers 200"),
        ("producer/produce", answer(500), "invalid input", "instead of 422"),
        ("producer/produce", answer(503), "concurrent load", "{503: 30}"),
        ("producer/produce", answer(429), "concurrent load", "the queue is full"),
        ("producer/batch-produce", answer(200, status="success", messages_produced=9), "batch", "9"),
        ("producer/metrics", answer(200), "producer metrics", "lacks messages_produced_total"),
        ("consumer/metrics", answer(404), "consumer metrics", "404"),
        ("monitor/api/snapshot", lambda _: httpx.Response(200, text="?"), "delivery", "not answer with a JSON object"),
        ("producer/status", refuse, "delivery", "no answer"),
    ],
)
def test_what_is_wrong_fails_with_what_was_seen(where: str, handler: Handler, name: str, said: str) -> None:
    stack = Stack()
    stack.overrides[where] = handler
    result = outcome_of(stack)[name]
    assert result.outcome is CheckOutcome.FAILED
    assert said in result.detail


def test_held_back_requests_are_counted_and_are_not_failures() -> None:
    stack, asked = Stack(), iter(range(1000))

    def every_third_is_full(request: httpx.Request) -> httpx.Response:
        if b"load" in request.content and next(asked) % 3 == 0:
            return httpx.Response(429, headers={"Retry-After": "1"})
        return stack.produce(request)

    stack.overrides["producer/produce"] = every_third_is_full
    result = outcome_of(stack)["concurrent load"]
    assert result.outcome is CheckOutcome.PASSED
    assert result.detail.startswith("20 of 30 confirmed, 10 held back")


@pytest.mark.parametrize("witness", ["consumer", "monitor"])
def test_messages_that_do_not_arrive_fail_the_delivery(witness: str) -> None:
    stack = Stack()
    other = "monitor" if witness == "consumer" else "consumer"
    stack.overrides["producer/status"] = answer(200, queue={"size": None})

    def losing(request: httpx.Request) -> httpx.Response:
        stack.loses += 1
        return stack.produce(request)

    stack.overrides["producer/batch-produce"] = losing
    result = outcome_of(stack, **{f"{other}_url": ""})["delivery"]
    assert result.outcome is CheckOutcome.FAILED
    assert "of 10 messages were consumed" in result.detail


@pytest.mark.parametrize(
    ("flags", "urls"),
    [
        ((), ("http://localhost:5000", "http://localhost:8001", "http://localhost:8000")),
        (("--url", "http://other:7/"), ("http://other:7", "http://other:8001", "http://other:8000")),
        (("--url", "https://[::1]:7"), ("https://[::1]:7", "https://[::1]:8001", "https://[::1]:8000")),
        (("--url", "http://other:7", "--consumer-url", ""), ("http://other:7", "", "http://other:8000")),
        (("--monitor-url", "http://m:1"), ("http://localhost:5000", "http://localhost:8001", "http://m:1")),
    ],
)
def test_consumer_and_monitor_are_sought_beside_the_producer(
    flags: tuple[str, ...], urls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[CheckPlan] = []

    async def note(plan: CheckPlan) -> set[CheckOutcome]:
        plans.append(plan)
        return {CheckOutcome.PASSED}

    monkeypatch.setattr("backpressure.cli.check._show", note)
    assert CliRunner().invoke(pace, ["check", *flags]).exit_code == 0
    assert [(plan.producer_url, plan.consumer_url, plan.monitor_url) for plan in plans] == [urls]


@pytest.mark.parametrize("flag", ["--url", "--consumer-url", "--monitor-url"])
@pytest.mark.parametrize(
    "url", ["http://localhost:notaport", "http://localhost:99999", "http://[::1", "http://", "localhost:5000"]
)
def test_an_address_that_is_none_is_one_line_and_exit_2(flag: str, url: str) -> None:
    result = CliRunner().invoke(pace, ["check", flag, url])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "expected http://host:port" in result.output
