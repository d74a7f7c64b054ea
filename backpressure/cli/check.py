"""``pace check``: the system test of a running stack over HTTP, what an operator would otherwise try by hand.

It sends its own messages beside the regular traffic and stops nothing. They need no processing time, so that the test
does not slow a consumer down. A read-only test sends none: it only asks whether all parts answer.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self
from urllib.parse import urlsplit

import click
import httpx
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from backpressure import program
from backpressure.cli import options
from backpressure.cli.options import setting
from backpressure.cli.process import settings_from
from backpressure.core.addresses import bracketed
from backpressure.errors import ConfigError
from backpressure.presentation.terminal import new_console
from backpressure.program import printable_lines

_BATCH = 10
_LOOK_EVERY_S = 0.2
_PRODUCED, _CONSUMED = "messages_produced_total", "messages_consumed_total"
_DEAD_LETTERED = "pace_messages_dead_lettered_total"
_PRODUCER_METRICS = (_PRODUCED, "http_request_duration_seconds")
_MONITOR_METRICS = ("pace_observed_messages_total", "pace_source_up", "pace_threshold_breached")
_CONSUMER_METRICS = (_CONSUMED, "message_processing_duration_seconds", "message_processing_errors_total")
_BAD_BODIES: Sequence[tuple[str, str, str]] = (
    ("/produce", "no JSON", "{"),
    ("/produce", "nothing in it", "{}"),
    ("/produce", "an unknown field", '{"payload": "x", "colour": "red"}'),
    ("/produce", "a negative processing time", '{"payload": "x", "processing_time": -1}'),
    ("/produce", "a count of zero", '{"count": 0}'),
    ("/batch-produce", "no messages", '{"messages": []}'),
    ("/batch-produce", "a message without payload", '{"messages": [{"id": "x"}]}'),
)


class CheckOutcome(Enum):
    """The outcome of a check; ``MISSING``: a part does not answer, so it could not be tested."""

    PASSED = "passed"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: its name, its outcome and what was observed."""

    name: str
    outcome: CheckOutcome
    detail: str


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """Where the stack is (without a consumer or monitor if its URL is ""), and how much load to send."""

    producer_url: str
    consumer_url: str
    monitor_url: str
    token: str = ""
    requests: int = 200
    concurrency: int = 20
    timeout_s: float = 60.0
    read_only: bool = False


class _UnexpectedError(Exception):
    """A check got another answer than expected."""


class SystemCheck:
    """Tests one stack; an async context manager."""

    def __init__(self, plan: CheckPlan, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """``transport`` replaces the network in tests."""
        headers = {b"Authorization": f"Bearer {plan.token}".encode()} if plan.token else {}
        self._plan = plan
        self._client = httpx.AsyncClient(headers=headers, timeout=15.0, trust_env=False, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def run(self) -> AsyncIterator[CheckResult]:
        """Yield each result as it arrives; without a producer, nothing else is tested."""
        plan = self._plan
        parts = (
            ("producer", plan.producer_url, "fast_producer.py"),
            ("consumer", plan.consumer_url, "slow_consumer.py"),
            ("monitor", plan.monitor_url, "monitor.py"),
        )
        there = set()
        for part, url, script in parts:
            if url:
                health = await self._health(part, url, script)
                yield health
                if health.outcome is CheckOutcome.PASSED:
                    there.add(part)
            if "producer" not in there:
                return
        if not plan.read_only:
            async for result in self._traffic():
                yield result
        yield await _tested("producer metrics", lambda: self._metrics(plan.producer_url, _PRODUCER_METRICS))
        if "consumer" in there:
            yield await _tested("consumer metrics", lambda: self._metrics(plan.consumer_url, _CONSUMER_METRICS))
        if "monitor" in there:
            yield await _tested("monitor metrics", lambda: self._metrics(plan.monitor_url, _MONITOR_METRICS))
        if not plan.read_only:
            yield await self._arrival(there)

    async def _traffic(self) -> AsyncIterator[CheckResult]:
        yield await _tested("single message", self._single)
        yield await _tested("batch", self._batch)
        yield await _tested("invalid input", self._invalid)
        yield await _tested("concurrent load", self._load)

    async def _arrival(self, there: Collection[str]) -> CheckResult:
        if "monitor" in there:
            return await _tested("delivery", lambda: self._delivery(self._done_by_monitor))
        if "consumer" in there:
            return await _tested("delivery", lambda: self._delivery(self._done_by_consumer))
        return CheckResult("delivery", CheckOutcome.MISSING, "no consumer and no monitor to tell what arrives")

    async def _health(self, part: str, url: str, script: str) -> CheckResult:
        name = f"{part} health"
        try:
            answer = await self._client.get(f"{url}/health")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            how = "nothing listens at" if isinstance(error, httpx.ConnectError) else "no answer from"
            return CheckResult(name, CheckOutcome.MISSING, f"{how} {url}: start python {script}")
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            return CheckResult(name, CheckOutcome.MISSING, f"{url} wants a token: give --token (PACE_API__TOKEN)")
        if answer.is_error or not _is_healthy(answer):
            return CheckResult(name, CheckOutcome.FAILED, f"{url}/health answers {_shown(answer)}")
        return CheckResult(name, CheckOutcome.PASSED, f"{url} is healthy")

    async def _single(self) -> str:
        message_id = f"check-{uuid.uuid4()}"
        content = {"id": message_id, "payload": "pace check", "processing_time": 0}
        answer = _json(await self._post("/produce", content))
        if (answer.get("status"), answer.get("message_id")) != ("success", message_id):
            raise _UnexpectedError(f"POST /produce answers {answer}")
        return "confirmed by the broker, under its own id"

    async def _batch(self) -> str:
        messages = [{"payload": f"pace check {number}", "processing_time": 0} for number in range(_BATCH)]
        answer = _json(await self._post("/batch-produce", {"messages": messages}))
        if (answer.get("status"), answer.get("messages_produced")) != ("success", _BATCH):
            raise _UnexpectedError(f"POST /batch-produce answers {answer}")
        return f"{_BATCH} messages confirmed"

    async def _invalid(self) -> str:
        headers = {"Content-Type": "application/json"}
        for path, what, body in _BAD_BODIES:
            answer = await self._client.post(self._plan.producer_url + path, content=body, headers=headers)
            if answer.status_code != httpx.codes.UNPROCESSABLE_ENTITY:
                raise _UnexpectedError(f"POST {path} with {what} answers {_shown(answer)} instead of 422")
        return f"{len(_BAD_BODIES)} bad bodies, each answered with 422"

    async def _load(self) -> str:
        plan = self._plan
        room = asyncio.Semaphore(plan.concurrency)
        latencies: list[float] = []

        async def one(number: int) -> int:
            async with room:
                started = time.monotonic()
                content = {"payload": f"pace check load {number}", "processing_time": 0}
                answer = await self._client.post(f"{plan.producer_url}/produce", json=content)
                latencies.append(time.monotonic() - started)
                return answer.status_code

        started = time.monotonic()
        codes = Counter(await asyncio.gather(*(one(number) for number in range(plan.requests))))
        seconds = time.monotonic() - started
        confirmed, held_back = codes.pop(httpx.codes.OK, 0), codes.pop(httpx.codes.TOO_MANY_REQUESTS, 0)
        if codes:
            raise _UnexpectedError(f"{plan.requests} requests: {confirmed} confirmed, other answers {dict(codes)}")
        if not confirmed:
            raise _UnexpectedError(f"{plan.requests} requests, all answered with 429: the queue is full")
        slowest = max(latencies) * 1000
        full = f", {held_back} held back (429, the queue is full)" if held_back else ""
        rate = plan.requests / seconds if seconds > 0 else 0.0
        return f"{confirmed} of {plan.requests} confirmed{full}; {rate:.0f} requests/s, slowest {slowest:.0f} ms"

    async def _metrics(self, url: str, names: Sequence[str]) -> str:
        text = await self._text(f"{url}/metrics")
        missing = [name for name in names if not re.search(rf"^# TYPE {name} ", text, re.MULTILINE)]
        if missing:
            raise _UnexpectedError(f"{url}/metrics lacks {', '.join(missing)}")
        return ", ".join(names)

    async def _delivery(self, done: Callable[[], Awaitable[float]]) -> str:
        """Send a batch, and wait until everything queued before it and published up to its end is processed."""
        done_before = await done()
        produced_before = await self._produced()
        queue = _json(await self._get(f"{self._plan.producer_url}/status")).get("queue", {})
        await self._batch()
        due = (queue.get("size") or 0) + await self._produced() - produced_before
        started, arrived = time.monotonic(), 0.0
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                while (arrived := await done() - done_before) < due:  # noqa: ASYNC110 - it asks another process
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            raise _UnexpectedError(
                f"{arrived:.0f} of {due:.0f} messages were consumed within {self._plan.timeout_s:g} s"
                f" (several consumers need a monitor to be counted: --monitor-url)"
            ) from None
        return f"{due:.0f} messages, all that waited and those sent, consumed in {time.monotonic() - started:.1f} s"

    async def _produced(self) -> float:
        return _sample(await self._text(f"{self._plan.producer_url}/metrics"), _PRODUCED)

    async def _done_by_consumer(self) -> float:
        text = await self._text(f"{self._plan.consumer_url}/metrics")
        return _sample(text, _CONSUMED) + _sample(text, _DEAD_LETTERED)

    async def _done_by_monitor(self) -> float:
        totals = _json(await self._get(f"{self._plan.monitor_url}/api/snapshot")).get("totals", {})
        return float(totals.get("processed", 0) + totals.get("dead_lettered", 0))

    async def _post(self, path: str, content: dict[str, Any]) -> httpx.Response:
        return _good(await self._client.post(self._plan.producer_url + path, json=content))

    async def _get(self, url: str) -> httpx.Response:
        return _good(await self._client.get(url))

    async def _text(self, url: str) -> str:
        return (await self._get(url)).text


async def _tested(name: str, check: Callable[[], Awaitable[str]]) -> CheckResult:
    try:
        return CheckResult(name, CheckOutcome.PASSED, await check())
    except _UnexpectedError as error:
        return CheckResult(name, CheckOutcome.FAILED, str(error))
    except httpx.HTTPError as error:
        return CheckResult(name, CheckOutcome.FAILED, f"no answer: {error!r}")
    except (AttributeError, TypeError, ValueError) as error:  # JSON, but of another shape than the stack's
        return CheckResult(name, CheckOutcome.FAILED, f"an answer that is not understood: {error}")


def _is_healthy(answer: httpx.Response) -> bool:
    try:
        return _json(answer).get("status") == "healthy"
    except _UnexpectedError:
        return False


def _good(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        request = answer.request
        raise _UnexpectedError(f"{request.method} {request.url.path} answers {_shown(answer)}")
    return answer


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise _UnexpectedError(f"{answer.request.url} did not answer with a JSON object: {answer.text[:100]!r}")
    return content


def _shown(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:200]}"


def _sample(metrics: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)", metrics, re.MULTILINE))


_WORDS = {
    CheckOutcome.PASSED: "[green]passed[/]",
    CheckOutcome.FAILED: "[red]failed[/]",
    CheckOutcome.MISSING: "[yellow]missing[/]",
}


@click.command()
@click.option("--url", help="Control API of the producer.  [default: http://localhost:5000]")
@click.option(
    "--consumer-url", help='Control API of the consumer; "": no consumer.  [default: port 8001 on the producer\'s host]'
)
@click.option("--monitor-url", help='The monitor; "": no monitor.  [default: port 8000 on the producer\'s host]')
@setting(
    "--token", key="api.token", help="Token of all three; better in PACE_API__TOKEN, where no process list shows it"
)
@click.option(
    "--requests",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="Number of requests of the load test.",
)
@click.option(
    "--timeout",
    type=options.FiniteRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit for the delivery of all messages.",
)
@click.option("--read-only", is_flag=True, help="Send nothing: test health and metrics only.")
@options.logs
@click.pass_context
def check(
    context: click.Context,
    /,
    url: str | None,
    consumer_url: str | None,
    monitor_url: str | None,
    requests: int,
    timeout: float,
    read_only: bool,
    **_: object,
) -> None:
    """Test a running stack: health, single and batch messages, invalid input, load, metrics, delivery.

    With --url alone, consumer and monitor are expected on the same machine.

    Exit code 0: all passed; 1: something failed; 3: a part to be tested is not running.
    """
    settings = settings_from(context)
    producer_url = _base("--url", f"http://localhost:{settings.api.producer_port}" if url is None else url)
    if not producer_url:
        raise ConfigError("--url", "", "expected the control API of the producer: http://host:port")
    consumer_url, monitor_url = _base("--consumer-url", consumer_url), _base("--monitor-url", monitor_url)
    plan = CheckPlan(
        producer_url=producer_url,
        consumer_url=_beside(producer_url, settings.api.consumer_port) if consumer_url is None else consumer_url,
        monitor_url=_beside(producer_url, settings.monitor.port) if monitor_url is None else monitor_url,
        token=settings.api.token.get_secret_value(),
        requests=requests,
        timeout_s=timeout,
        read_only=read_only,
    )
    outcomes = program.run(_show(plan))
    context.exit(1 if CheckOutcome.FAILED in outcomes else 3 if CheckOutcome.MISSING in outcomes else 0)


async def _show(plan: CheckPlan) -> set[CheckOutcome]:
    """Show each result as it arrives, and return the outcomes."""
    table = Table("", "check", "seen", box=None, pad_edge=False)
    outcomes = set()
    console = new_console()
    with Live(table, console=console):
        async with SystemCheck(plan) as system:
            async for result in system.run():
                table.add_row(_WORDS[result.outcome], result.name, escape(printable_lines(result.detail)))
                outcomes.add(result.outcome)
    if not console.is_terminal:
        console.print()  # there, `Live` ends without a newline
    return outcomes


def _base(flag: str, url: str | None) -> str | None:
    """Return the URL without a trailing slash; raises `ConfigError`."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a bad port, or one bracket of an IPv6 address
        good = False
    if not good:
        raise ConfigError(flag, url, "expected http://host:port")
    return url.rstrip("/")


def _beside(url: str, port: int) -> str:
    """Return the address of another port on the same machine."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{bracketed(parts.hostname or '')}:{port}"
