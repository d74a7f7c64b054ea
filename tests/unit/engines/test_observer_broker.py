"""Management listings become plain states; what RabbitMQ does not say is unknown."""

from __future__ import annotations

from backpressure.engines.observer_view import broker_state, listed_queues
from backpressure.transports.management_models import ConnectionInfo, ConsumerInfo, NodeInfo, Overview, QueueInfo

QUEUE = {
    "name": "work.queue",
    "messages_ready": 40,
    "messages_unacknowledged": 2,
    "consumers": 1,
    "memory": 55_000,
    "message_stats": {
        "publish_details": {"rate": 100.4},
        "deliver_get_details": {"rate": 99.0},
        "ack_details": {"rate": 98.5},
    },
}
CONNECTION = {
    "name": "127.0.0.1:4000 -> 127.0.0.1:5672",
    "user": "guest",
    "state": "running",
    "channels": 1,
    "peer_host": "127.0.0.1",
    "peer_port": 4000,
    "client_properties": {"connection_name": "fast_producer"},
}
CONSUMER = {
    "consumer_tag": "ctag1",
    "queue": {"name": "work.queue", "vhost": "/"},
    "prefetch_count": 5,
    "ack_required": True,
    "channel_details": {"peer_host": "127.0.0.1", "peer_port": 4001},
}


def node(used: int, limit: int, *, alarm: bool = False) -> NodeInfo:
    return NodeInfo(name="n", memory_bytes=used, memory_limit_bytes=limit, memory_alarm=alarm)


def test_a_listed_queue_has_counts_and_rates() -> None:
    queue = listed_queues([QueueInfo.model_validate(QUEUE)])["work.queue"]
    assert (queue.ready, queue.unacked, queue.depth, queue.consumers) == (40, 2, 42, 1)
    assert (queue.published_per_s, queue.delivered_per_s, queue.acked_per_s) == (100.4, 99.0, 98.5)
    assert queue.memory_bytes == 55_000
    assert not queue.watched


def test_exclusive_queues_are_left_out() -> None:
    assert listed_queues([QueueInfo(name="amq.gen-1", exclusive=True)]) == {}


def test_of_a_cluster_the_node_nearest_to_its_limit_counts() -> None:
    broker = broker_state(Overview(version="3.10.8"), [node(900, 10_000), node(500, 1_000, alarm=True)], [], [])
    assert (broker.product, broker.version) == ("RabbitMQ", "3.10.8")
    assert (broker.memory_bytes, broker.memory_limit_bytes) == (500, 1000)
    assert broker.memory_percent == 50.0
    assert broker.memory_alarm
    assert not broker.disk_alarm


def test_connections_and_consumers_come_with_their_details() -> None:
    connections = [ConnectionInfo.model_validate(CONNECTION)]
    broker = broker_state(Overview(), [], connections, [ConsumerInfo.model_validate(CONSUMER)])
    (connection,), (client,) = broker.connections, broker.consumers
    assert (connection.name, connection.peer, connection.state) == ("fast_producer", "127.0.0.1:4000", "running")
    assert (client.tag, client.queue, client.prefetch, client.peer) == ("ctag1", "work.queue", 5, "127.0.0.1:4001")


def test_a_broker_that_does_not_tell_its_memory_is_unknown_not_zero() -> None:
    broker = broker_state(Overview(), [NodeInfo(name="n")], [], [])
    assert broker.memory_bytes is None
    assert broker.memory_percent is None
