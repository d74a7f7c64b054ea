"""Management listings, as RabbitMQ answers them, become plain states; whatever is missing is unknown."""

from __future__ import annotations

from backpressure.engines.observer_broker import broker_state, listed_queues

QUEUE = {
    "name": "work.queue",
    "messages_ready": 40,
    "messages_unacknowledged": 2,
    "consumers": 1,
    "memory": 55_000,
    "message_stats": {
        "publish": 900, "publish_details": {"rate": 100.4},
        "deliver_get": 860, "deliver_get_details": {"rate": 99.0},
        "ack": 858, "ack_details": {"rate": 98.5},
    },
}  # fmt: skip
CONNECTION = {
    "name": "127.0.0.1:4000 -> 127.0.0.1:5672",
    "user": "guest",
    "state": "running",
    "channels": 1,
    "peer_host": "127.0.0.1",
    "peer_port": 4000,
    "client_properties": {"product": "Pika", "connection_name": "fast_producer"},
    "recv_oct_details": {"rate": 2048.0},
    "send_oct_details": {"rate": 12.5},
}
CONSUMER = {
    "consumer_tag": "ctag1",
    "queue": {"name": "work.queue", "vhost": "/"},
    "prefetch_count": 5,
    "ack_required": True,
    "channel_details": {"peer_host": "127.0.0.1", "peer_port": 4001, "user": "guest"},
}


def test_a_listed_queue_has_counts_and_rates() -> None:
    queue = listed_queues([QUEUE])["work.queue"]
    assert (queue.ready, queue.unacked, queue.depth, queue.consumers) == (40, 2, 42, 1)
    assert (queue.published_per_s, queue.delivered_per_s, queue.acked_per_s) == (100.4, 99.0, 98.5)
    assert queue.memory_bytes == 55_000
    assert not queue.watched


def test_a_queue_without_traffic_has_unknown_rates() -> None:
    queue = listed_queues([{"name": "idle", "messages_ready": 0}])["idle"]
    assert queue.published_per_s is None
    assert queue.unacked is None
    assert queue.consumers is None


def test_an_empty_object_may_come_as_a_list() -> None:
    assert listed_queues([{"name": "idle", "message_stats": []}])["idle"].acked_per_s is None


def test_of_a_cluster_the_node_nearest_to_its_limit_counts() -> None:
    nodes = [
        {"mem_used": 900, "mem_limit": 10_000, "mem_alarm": False},
        {"mem_used": 500, "mem_limit": 1_000, "mem_alarm": True},
    ]
    broker = broker_state({"rabbitmq_version": "3.10.8"}, nodes, [], [])
    assert (broker.product, broker.version) == ("RabbitMQ", "3.10.8")
    assert (broker.memory_bytes, broker.memory_limit_bytes) == (500, 1000)
    assert broker.memory_percent == 50.0
    assert broker.memory_alarm
    assert not broker.disk_alarm


def test_connections_and_consumers_come_with_their_details() -> None:
    broker = broker_state({}, [], [CONNECTION], [CONSUMER])
    (connection,), (client,) = broker.connections, broker.consumers
    assert (connection.name, connection.peer, connection.product) == ("fast_producer", "127.0.0.1:4000", "Pika")
    assert (connection.received_bytes_per_s, connection.sent_bytes_per_s) == (2048.0, 12.5)
    assert (client.tag, client.queue, client.prefetch, client.peer) == ("ctag1", "work.queue", 5, "127.0.0.1:4001")


def test_a_broker_that_tells_nothing_is_unknown_not_zero() -> None:
    broker = broker_state({}, [], [{}], [{}])
    assert broker.memory_bytes is None
    assert broker.memory_percent is None
    assert broker.connections[0].name == ""
