"""Commands that only read change nothing, and failed ones leave nothing behind: the state of the broker is compared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from backpressure.cli.commands import pace
from backpressure.errors import AccessRefusedError, PreconditionFailedError
from backpressure.settings import QueueSettings, Settings
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient

Play = Callable[..., None]

on_amqp = pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])


def beside(queue: QueueSettings, **changes: Any) -> QueueSettings:
    """Return the settings of another experiment that has no queues yet."""
    names = {name: f"{getattr(queue, name)}.beside" for name in ("exchange", "work", "dead_letter")}
    return queue.model_copy(update={**names, "routing_key": "beside", **changes})


def test_looking_for_a_missing_queue_names_it_and_creates_nothing(play: Play) -> None:
    async def story(bench: Any) -> None:
        assert await bench.admin.missing(bench.queue) == []
        other = beside(bench.queue)
        names = [other.dead_letter, other.work]
        expected = names if bench.kind == "kafka" else [other.exchange, *names]
        for _ in range(2):
            assert await bench.admin.missing(other) == expected

    play(story)


@on_amqp
def test_the_doctor_leaves_the_broker_as_it_was(play: Play) -> None:
    async def story(bench: Any) -> None:
        broker, found = bench.settings.broker, []
        for queue in (bench.queue, beside(bench.queue), beside(bench.queue, work=bench.queue.work, message_ttl_ms=7)):
            command = ["doctor", "--url", broker.url, "--management-url", broker.management_url]
            settings = {f"PACE_QUEUE__{name.upper()}": str(value) for name, value in queue if value is not None}
            before = await bench.definitions()
            result = await asyncio.to_thread(CliRunner(env=settings | {"COLUMNS": "1000"}).invoke, pace, command)
            await bench.unchanged(before)
            (line,) = [line for line in result.output.splitlines() if " queues " in line]
            found.append(" ".join(line.split()))
        assert found[0] == f"ok queues {bench.queue.work} exists as configured"
        assert found[1].startswith("ok queues to be created at the first start: ")
        assert found[2].startswith("failed queues ")
        assert "x-message-ttl" in found[2] or "x-dead-letter-routing-key" in found[2]

    play(story)


@on_amqp
@pytest.mark.parametrize("change", [{"message_ttl_ms": 5000}, {"durable": False}])
def test_a_declaration_that_differs_from_what_is_there_leaves_nothing_behind(
    play: Play, change: dict[str, Any]
) -> None:
    async def story(bench: Any) -> None:
        before = await bench.definitions()
        other = beside(bench.queue, work=bench.queue.work, max_length=1, **change)
        with pytest.raises(PreconditionFailedError):
            await bench.admin.declare(other)
        await bench.unchanged(before)

    play(story, max_length=5)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["rabbitmq"])
def test_a_declaration_that_is_refused_half_way_takes_back_what_it_made(play: Play) -> None:
    async def story(bench: Any) -> None:
        other = beside(bench.queue)
        await asyncio.to_thread(bench.broker.ctl, "add_user", "half", "half")
        allowed = f"^({other.exchange}|{other.dead_letter})$".replace(".", "\\.")
        await asyncio.to_thread(bench.broker.ctl, "set_permissions", "half", allowed, ".*", ".*")
        settings: Settings = bench.settings.model_copy(
            update={
                "broker": bench.settings.broker.model_copy(
                    update={
                        "url": bench.settings.broker.url.replace("guest:guest@", "half:half@"),
                        "management_url": "",
                    }
                )
            }
        )
        before = await bench.definitions()
        admin = await bench.started(connect(settings).admin())
        with pytest.raises(AccessRefusedError):
            await admin.declare(other)
        await bench.unchanged(before)
        await asyncio.to_thread(bench.broker.ctl, "delete_user", "half")

    play(story)


@on_amqp
def test_a_clean_up_of_exchanges_leaves_those_that_running_programs_publish_to(play: Play) -> None:
    async def story(bench: Any) -> None:
        settings: Settings = bench.settings
        flags = ["--url", settings.broker.url, "--management-url", settings.broker.management_url]
        environ = {"PACE_FEEDBACK__EXCHANGE": settings.feedback.exchange, "COLUMNS": "1000"}
        command = ["cleanup", "--exchanges", "--yes", *flags]
        feedback = connect(settings).feedback()  # as of a consumer: it reports, and nobody listens
        await feedback.start()
        try:
            async with asyncio.timeout(60), ManagementClient(bench.broker.management_url) as management:
                while not any(c.client_name.startswith("feedback-") for c in await management.connections()):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.1)  # RabbitMQ lists a connection a moment later
            result = await asyncio.to_thread(CliRunner(env=environ).invoke, pace, command)
            assert f"kept: exchange {settings.feedback.exchange}" in result.output
            async with ManagementClient(bench.broker.management_url) as management:
                assert settings.feedback.exchange in {exchange.name for exchange in await management.exchanges()}
        finally:
            await feedback.stop()

    play(story)
