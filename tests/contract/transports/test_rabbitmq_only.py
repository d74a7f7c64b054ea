"""What only a real RabbitMQ can show, or shows in its own way."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backpressure.config import replaced
from backpressure.engines.clock import Clock
from backpressure.engines.consumer import ConsumerEngine
from backpressure.errors import AccessRefusedError, NotConnectedError, QueueNotFoundError, TransportError
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.management_models import PolicyInfo

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


@pytest.mark.parametrize("name", ["ü" * 127, "a" + "ü" * 126])
def test_a_missing_queue_with_the_longest_name_is_told_by_its_name(play: Play, name: str) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url) as management:
            is_4 = (await management.overview()).version.startswith("4.")
        probe = await bench.started(bench.transport.probe())
        with pytest.raises(NotConnectedError if is_4 else QueueNotFoundError) as told:
            await probe.read(name)
        if is_4:  # it fails to cut its own text to the 255 octets that fit, and ends the connection
            assert "INTERNAL_ERROR (541)" in str(told.value)
        else:
            assert told.value.queue == name

    play(story)


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


async def applying(management: ManagementClient, bench: Any) -> list[PolicyInfo]:
    """Return the policies for the story's own queue: other tests leave theirs on the node."""
    return [policy for policy in await management.policies() if re.search(policy.pattern, bench.queue.work)]


def test_a_policy_of_another_application_is_not_hidden_by_ours(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url) as management:
            theirs = PolicyInfo(name="theirs", pattern=f"^{bench.queue.work}", definition={"max-length": 100})
            await bench.admin.delete(bench.queue.work)
            await management.set_policy(theirs)
            try:
                await bench.admin.declare(bench.queue)
                assert (await management.queue(bench.queue.work)).arguments["x-max-length"] == 3
                assert {policy.name for policy in await applying(management, bench)} == {"theirs"}
            finally:
                await management.delete_policy("theirs")

    play(story, max_length=3)


@pytest.mark.parametrize(("keep_bound", "limits"), [(True, []), (False, [3])])
def test_a_consumer_keeps_the_bound_of_a_producer_that_declares_at_the_same_time(
    play: Play, keep_bound: bool, limits: list[int]
) -> None:
    async def story(bench: Any) -> None:
        await bench.admin.delete(bench.queue.work)
        other = await bench.started(bench.transport.admin())
        compare = bench.admin._compare

        async def overtaken(*queue: Any, **options: Any) -> Any:
            found = await compare(*queue, **options)
            await other.declare(bench.queue.model_copy(update={"max_length": None}))
            return found

        bench.admin._compare = overtaken
        await bench.admin.declare(bench.queue, keep_bound=keep_bound)
        async with ManagementClient(bench.broker.management_url) as management:
            assert [policy.definition["max-length"] for policy in await applying(management, bench)] == limits

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


NOTHING, EVERYTHING = "^$", ".*"


@contextmanager
def user_with_rights(node: Any, configure: str, write: str, read: str) -> Iterator[str]:
    """Create a user with these rights, and none to the management API; yield the name, which is the password."""
    name = f"limited-{uuid.uuid4().hex[:8]}"
    node.ctl("add_user", name, name)
    node.ctl("set_permissions", "-p", "/", name, configure, write, read)
    try:
        yield name
    finally:
        node.ctl("delete_user", name)


def as_user(settings: Settings, name: str) -> Settings:
    url = settings.broker.full_url().replace("guest:guest@", f"{name}:{name}@")
    broker = settings.broker.model_copy(update={"url": url})
    return settings.model_copy(update={"broker": broker})


async def consumed(settings: Settings, messages: int) -> ConsumerEngine:
    """Run a consumer whose work always fails until this many messages are settled."""

    async def failing(*_: object) -> None:
        raise ValueError("no")

    changes = {"consumer.expect": messages, "retry.max_attempts": 1}
    engine = ConsumerEngine(connect(settings), replaced(settings, changes), Clock(), handler=failing)
    await engine.start()
    try:
        async with asyncio.timeout(60):
            await engine.run()
    finally:
        await engine.close()
    return engine


def test_a_user_who_may_configure_nothing_works_with_what_is_declared(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        await bench.started(bench.transport.feedback())  # somebody has declared its exchange
        with user_with_rights(bench.broker, NOTHING, EVERYTHING, EVERYTHING) as name:
            bench.transport = connect(as_user(bench.settings, name))
            admin = await bench.started(bench.transport.admin())
            await admin.declare(bench.queue)
            assert (await bench.publish(b"1", b"2")).confirmed == {1, 2}
            heard: list[bytes] = []
            bus = await bench.started(bench.transport.feedback(), heard.append)
            assert "no reports are heard" in caplog.text
            assert bus.send(b"report")
            engine = await consumed(as_user(bench.settings, name), 2)
            assert engine.tally.dead_lettered == 2
            dead = await bench.dead_letters(2)
        assert [each.message.headers["x-pace-reason"] for each in dead] == ["ValueError: no"] * 2

    play(story)


def test_a_user_who_may_not_publish_to_the_dead_letters_leaves_them_to_the_broker(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        await bench.started(bench.transport.feedback())
        await bench.publish(b"1", b"2")
        with user_with_rights(bench.broker, NOTHING, NOTHING, EVERYTHING) as name:
            await consumed(as_user(bench.settings, name), 2)
        assert "no reports are sent" in caplog.text
        dead = await bench.dead_letters(2)
        assert sorted(each.message.body for each in dead) == [b"1", b"2"]
        assert [each.message.headers["x-death"][0]["reason"] for each in dead] == ["rejected"] * 2

    play(story)


def test_what_is_not_there_needs_the_right_to_create_it(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.admin.delete(bench.queue.work)
        with user_with_rights(bench.broker, NOTHING, EVERYTHING, EVERYTHING) as name:
            admin = await bench.started(connect(as_user(bench.settings, name)).admin())
            with pytest.raises(AccessRefusedError, match=f"'{bench.queue.work}'.* refused"):
                await admin.declare(bench.queue)
            with pytest.raises(AccessRefusedError, match=bench.settings.feedback.exchange):
                await connect(as_user(bench.settings, name)).feedback().start()

    play(story)
