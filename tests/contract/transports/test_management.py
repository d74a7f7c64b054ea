"""What the management client reads and does, on both brokers that have the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backpressure.errors import AccessRefusedError, QueueNotFoundError
from backpressure.transports.management_client import ManagementClient

Play = Callable[..., None]

pytestmark = pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])


async def polled(read: Callable[[], Any], found: Callable[[Any], bool]) -> Any:
    """Read until the broker's statistics have caught up."""
    while not found(result := await read()):
        pass
    return result


def test_the_overview_names_broker_and_node(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url) as management:
            overview = await management.overview()
            (node,) = await management.nodes()
        assert overview.version[0].isdigit()
        assert overview.node == node.name
        assert node.running
        assert node.memory_limit_bytes > 0
        assert not node.memory_alarm

    play(story)


def test_queues_connections_channels_and_consumers_are_seen(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*[b"x"] * 7)
        await bench.subscriber(prefetch=2)
        async with ManagementClient(bench.broker.management_url) as management:
            queue = await polled(  # each figure is collected at a moment of its own
                lambda: management.queue(bench.queue.work),
                lambda queue: (
                    (queue.messages, queue.messages_ready, queue.messages_unacknowledged, queue.consumers)
                    == (7, 5, 2, 1)
                ),
            )
            assert queue.durable
            found = await polled(  # other tests' processes may still consume elsewhere on this broker
                management.consumers,
                lambda found: any(one.queue == bench.queue.work and one.connection_name for one in found),
            )
            (consumer,) = [one for one in found if one.queue == bench.queue.work]
            assert consumer.ack_required
            assert consumer.consumer_tag.startswith("consumer-")
            connections = await polled(
                management.connections,
                lambda found: any(one.client_name.startswith("consumer-") for one in found),
            )
            names = {connection.name for connection in connections}
            assert consumer.connection_name in names
            channels = await polled(
                management.channels, lambda found: any(one.consumer_count and one.connection_name for one in found)
            )
            assert consumer.connection_name in {
                channel.connection_name for channel in channels if channel.consumer_count
            }

    play(story)


def test_exchanges_and_bindings_are_seen_and_exchanges_deleted(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url) as management:
            exchange = next(one for one in await management.exchanges() if one.name == bench.queue.exchange)
            assert (exchange.type, exchange.durable) == ("direct", True)
            bound = [one for one in await management.bindings() if one.source == bench.queue.exchange]
            assert [(one.destination, one.routing_key) for one in bound] == [(bench.queue.work, "work")]
            for _ in range(2):
                await management.delete_exchange(bench.queue.exchange)
            assert bench.queue.exchange not in {one.name for one in await management.exchanges()}

    play(story)


def test_queues_are_purged_and_deleted(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(b"x")
        async with ManagementClient(bench.broker.management_url) as management:
            await management.purge(bench.queue.work)
            assert await bench.contents() == []
            for _ in range(2):
                await management.delete_queue(bench.queue.work)
            for request in (management.queue, management.purge):
                with pytest.raises(QueueNotFoundError):
                    await request(bench.queue.work)

    play(story)


def test_wrong_credentials_are_refused_without_showing_them(play: Play) -> None:
    async def story(bench: Any) -> None:
        async with ManagementClient(bench.broker.management_url, "guest", "s3cret") as management:
            with pytest.raises(AccessRefusedError) as caught:
                await management.overview()
        assert "s3cret" not in str(caught.value)

    play(story)
