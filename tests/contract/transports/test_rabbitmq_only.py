"""What only a real RabbitMQ can show, or shows in its own way."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backpressure.errors import AccessRefusedError, TransportError
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.management import ManagementClient, Policy

Play = Callable[..., None]

pytestmark = [pytest.mark.rabbitmq, pytest.mark.parametrize("kind", ["rabbitmq"])]

NUMBERS = [b"%d" % number for number in range(10)]


def without_management(settings: Settings) -> Settings:
    broker = settings.broker.model_copy(update={"management_url": ""})
    return settings.model_copy(update={"broker": broker})


def test_prefetch_changes_live_on_a_quorum_queue_too(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        subscriber, log = await bench.subscriber(prefetch=1)
        await bench.until(lambda: len(log.deliveries) == 1)
        subscriber.set_prefetch(4)
        await bench.until(lambda: len(log.deliveries) == 5)  # four more: what was held comes on top
        for delivery in log.deliveries[:5]:
            assert subscriber.ack(delivery)
        await bench.until(lambda: len(log.deliveries) == 9)
        assert log.bodies == NUMBERS[:9]
        assert not any(delivery.redelivered for delivery in log.deliveries)
        assert (log.ready, log.losses) == (1, [])

    play(story, type="quorum")


def test_a_lazy_queue_is_declared_as_one(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url) as management:
            queue = await management.queue(bench.queue.work)
        assert queue.arguments["x-queue-mode"] == "lazy"
        assert queue.type == "classic"

    play(story, type="lazy")


def test_without_a_management_api_the_bound_is_an_argument_and_the_error_says_what_to_do(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.admin.delete(bench.queue.work)
        admin = await bench.started(connect(without_management(bench.settings)).admin())
        await admin.declare(bench.queue)
        log = await bench.publish(b"0", b"1", b"2", b"3")
        assert log.nacked == {4}
        with pytest.raises(TransportError, match=r"management API.*broker\.management_url.*pace cleanup"):
            await admin.set_bound(bench.queue.work, max_length=5, overflow="reject-publish")
        await bench.admin.declare(bench.queue)  # with a management API: the same bound is found and accepted
        with pytest.raises(TransportError, match="x-max-length = 3: while it lives the bound can only be lowered"):
            await bench.admin.set_bound(bench.queue.work, max_length=5, overflow="reject-publish")
        with pytest.raises(TransportError, match="x-overflow = reject-publish, which no policy changes"):
            await bench.admin.set_bound(bench.queue.work, max_length=2, overflow="drop-head")

    play(story, max_length=3)


async def applying(management: ManagementClient, bench: Any) -> list[Policy]:
    """Return the policies for the story's own queue: other tests leave theirs on the node."""
    return [policy for policy in await management.policies() if re.search(policy.pattern, bench.queue.work)]


def test_a_policy_of_somebody_else_is_not_hidden_by_ours(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url) as management:
            theirs = Policy(name="theirs", pattern=f"^{bench.queue.work}", definition={"max-length": 100})
            await bench.admin.delete(bench.queue.work)
            await management.set_policy(theirs)
            try:
                await bench.admin.declare(bench.queue)
                assert (await management.queue(bench.queue.work)).arguments["x-max-length"] == 3
                assert {policy.name for policy in await applying(management, bench)} == {"theirs"}
            finally:
                await management.delete_policy("theirs")

    play(story, max_length=3)


def test_deleting_the_queue_removes_its_policy(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url) as management:
            [policy] = await applying(management, bench)
            assert policy.definition == {"max-length": 3, "overflow": "reject-publish"}
            await bench.admin.delete(bench.queue.work)
            assert await applying(management, bench) == []

    play(story, max_length=3)


def test_tls_is_verified_and_carries_messages(play: Play, tmp_path: Path) -> None:
    """RabbitMQ itself listens in the clear here: a proxy in front of it ends the encryption."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def story(bench: Any) -> None:
        server = await asyncio.start_server(bench.proxy.serve, "127.0.0.1", 0, ssl=context)
        address = f"amqps://guest:guest@localhost:{server.sockets[0].getsockname()[1]}/"

        def at(**broker: Any) -> Settings:
            return bench.settings.model_copy(
                update={"broker": bench.settings.broker.model_copy(update={"url": address} | broker)}
            )

        async with server:
            with pytest.raises(AccessRefusedError, match="certificate not trusted"):
                await connect(at()).probe().start()
            bench.transport = connect(at(ca_file=str(certificate)))
            log = await bench.publish(*NUMBERS, bytes(500_000))
            assert len(log.confirmed) == 11
            assert await bench.contents() == [*NUMBERS, bytes(500_000)]

    play(story)
