"""The part of the management HTTP API that monitors and clean-up use: same paths, fields and meanings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pika
import pytest
from pika.exceptions import ConnectionClosedByBroker, NackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection


@dataclass(frozen=True)
class Observed:
    """What the reading tests look at: set up once, for RabbitMQ's statistics take five seconds to show it."""

    queue: str
    consumed: str
    peer_port: int


@pytest.fixture(scope="module")
def observed(broker: Any, local_address: Any) -> Iterator[Observed]:
    connection = pika.BlockingConnection(pika.URLParameters(f"{broker.url}?heartbeat=0"))
    channel = connection.channel()
    channel.confirm_delivery()
    names = Observed("contract.observed", "contract.consumed", local_address(connection)[1])
    for queue in (names.queue, names.consumed):
        channel.queue_declare(queue, durable=True)
    for _ in range(4):
        channel.basic_publish("", names.queue, b"12345")
    channel.basic_ack(channel.basic_get(names.queue)[0].delivery_tag)
    channel.basic_get(names.queue)
    channel.basic_qos(prefetch_count=7)
    channel.basic_consume(names.consumed, lambda *_: None, consumer_tag="listed")
    yield names
    for queue in (names.queue, names.consumed):
        channel.queue_delete(queue)
    connection.close()


@pytest.fixture
def read(janitor: httpx.Client, until: Any) -> Any:
    """Poll a document until some of its fields are as expected, and return those."""

    def _read(path: str, expected: dict[str, Any]) -> Any:
        def fields() -> dict[str, Any]:
            answer = janitor.get(path)
            document = answer.json() if answer.status_code == 200 else {}
            return {key: document.get(key) for key in expected}

        return until(fields, expected)

    return _read


def test_a_password_is_asked_for(broker: Any) -> None:
    answer = httpx.get(f"{broker.management_url}/api/overview", trust_env=False, timeout=60)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_a_wrong_password_is_refused(broker: Any) -> None:
    answer = httpx.get(f"{broker.management_url}/api/overview", auth=("guest", "wrong"), trust_env=False, timeout=60)
    assert answer.status_code == 401
    assert answer.json()["error"] == "not_authorized"


def test_what_does_not_exist_is_not_found(janitor: httpx.Client) -> None:
    for path in ("/nonsense", "/queues/%2F/contract.missing", "/exchanges/%2F/contract.missing", "/policies/%2F/none"):
        assert janitor.get(path).status_code == 404


def test_the_overview_counts_objects_and_messages(observed: Observed, janitor: httpx.Client, until: Any) -> None:
    until(lambda: janitor.get("/overview").json()["queue_totals"].get("messages", 0) >= 3, expected=True)
    overview = janitor.get("/overview").json()
    assert overview["queue_totals"]["messages"] >= 3
    assert overview["object_totals"].keys() >= {"channels", "connections", "consumers", "exchanges", "queues"}
    assert {"node", "rabbitmq_version", "management_version", "message_stats"} <= overview.keys()


def test_a_queue_document_counts_ready_and_unacknowledged(broker: Any, observed: Observed, read: Any) -> None:
    expected = {
        "name": observed.queue,
        "vhost": "/",
        "durable": True,
        "auto_delete": False,
        "exclusive": False,
        "type": "classic",
        "arguments": broker.since_4("the queue's type", {"x-queue-type": "classic"}, before={}),
        "state": "running",
        "messages": 3,
        "messages_ready": 2,
        "messages_unacknowledged": 1,
        "message_bytes": 15,
        "message_bytes_ready": 10,
        "message_bytes_unacknowledged": 5,
    }
    assert read(f"/queues/%2F/{observed.queue}", expected) == expected


def test_a_queue_document_has_totals_and_rates(observed: Observed, janitor: httpx.Client, until: Any) -> None:
    expected = {"publish": 4, "get": 2, "deliver_get": 2, "ack": 1}

    def totals() -> dict[str, Any]:
        stats = janitor.get(f"/queues/%2F/{observed.queue}").json().get("message_stats", {})
        assert all("rate" in stats[key] for key in stats if key.endswith("_details"))
        return {key: stats.get(key) for key in expected}

    assert until(totals, expected) == expected


def test_queues_are_listed(janitor: httpx.Client, queue: str) -> None:
    for path in ("/queues", "/queues/%2F"):
        assert queue in [document["name"] for document in janitor.get(path).json()]


def test_deleting_a_queue(janitor: httpx.Client, channel: BlockingChannel, queue: str, refused: Any) -> None:
    assert janitor.delete(f"/queues/%2F/{queue}").status_code == 204
    with refused(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
        channel.queue_declare(queue, passive=True)


def test_a_queue_with_messages_is_not_deleted_if_empty(
    janitor: httpx.Client, channel: BlockingChannel, queue: str
) -> None:
    channel.basic_publish("", queue, b"x")
    assert janitor.delete(f"/queues/%2F/{queue}", params={"if-empty": "true"}).status_code == 400
    assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_a_queue_with_consumers_is_not_deleted_if_unused(
    janitor: httpx.Client, channel: BlockingChannel, queue: str, subscribe: Any
) -> None:
    subscribe(channel, queue)
    assert janitor.delete(f"/queues/%2F/{queue}", params={"if-unused": "true"}).status_code == 400
    assert channel.queue_declare(queue, passive=True).method.consumer_count == 1


def test_purging_a_queue(janitor: httpx.Client, channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"x")
    assert janitor.delete(f"/queues/%2F/{queue}/contents").status_code == 204
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_exchanges_are_listed_and_deleted(
    janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str], queue: str
) -> None:
    exchange = name()
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_bind(queue, exchange, "k")
    document = janitor.get(f"/exchanges/%2F/{exchange}").json()
    assert (document["name"], document["type"], document["durable"]) == (exchange, "topic", True)
    assert {"", "amq.direct", exchange} <= {e["name"] for e in janitor.get("/exchanges").json()}
    assert janitor.delete(f"/exchanges/%2F/{exchange}", params={"if-unused": "true"}).status_code == 400
    assert janitor.delete(f"/exchanges/%2F/{exchange}").status_code == 204
    assert janitor.get(f"/exchanges/%2F/{exchange}").status_code == 404


def test_bindings_are_listed(janitor: httpx.Client, channel: BlockingChannel, queue: str) -> None:
    channel.queue_bind(queue, "amq.topic", "a.#", arguments={"note": 1})
    fields = ("source", "vhost", "destination", "destination_type", "routing_key", "arguments")
    found = [{key: b[key] for key in fields} for b in janitor.get("/bindings").json() if b["destination"] == queue]
    by_default = dict(zip(fields, ("", "/", queue, "queue", queue, {}), strict=True))
    by_topic = dict(zip(fields, ("amq.topic", "/", queue, "queue", "a.#", {"note": 1}), strict=True))
    assert sorted(found, key=lambda binding: binding["source"]) == [by_default, by_topic]


@pytest.mark.usefixtures("direct")
def test_consumers_are_listed(observed: Observed, janitor: httpx.Client, until: Any) -> None:
    def listed() -> Any:
        return [
            (c["queue"]["name"], c["prefetch_count"], c["ack_required"], c["channel_details"]["peer_port"])
            for c in janitor.get("/consumers").json()
            if c["consumer_tag"] == "listed"
        ]

    expected = [(observed.consumed, 7, True, observed.peer_port)]
    assert until(listed, expected) == expected


@pytest.mark.usefixtures("direct")
def test_channels_are_listed(observed: Observed, janitor: httpx.Client, until: Any) -> None:
    def listed() -> Any:
        return [
            (
                c["confirm"],
                c["consumer_count"],
                c["messages_unacknowledged"],
                c["prefetch_count"],
                c["user"],
                *tuple(c.get("message_stats", {}).get(key) for key in ("publish", "confirm", "deliver_get", "ack")),
            )
            for c in janitor.get("/channels").json()
            if c.get("connection_details", {}).get("peer_port") == observed.peer_port
        ]

    expected = [(True, 1, 1, 7, "guest", 4, 4, 2, 1)]
    assert until(listed, expected) == expected


@pytest.mark.usefixtures("direct")
def test_connections_are_listed(observed: Observed, janitor: httpx.Client, until: Any) -> None:
    def listed() -> Any:
        return [
            (c["user"], c["vhost"], c["state"], c["protocol"], c["channels"], c["client_properties"]["product"])
            for c in janitor.get("/connections").json()
            if c.get("peer_port") == observed.peer_port and "channels" in c
        ]

    expected = [("guest", "/", "running", "AMQP 0-9-1", 1, "Pika Python Client Library")]
    assert until(listed, expected) == expected


def test_nodes_tell_their_memory(janitor: httpx.Client) -> None:
    (node,) = janitor.get("/nodes").json()
    assert node["running"] is True
    assert node["mem_alarm"] is False
    assert node["mem_used"] > 1_000_000
    assert node["mem_limit"] > 1_000_000
    assert janitor.get(f"/nodes/{node['name']}").json()["name"] == node["name"]


@pytest.fixture
def policy(janitor: httpx.Client) -> Any:
    """Set a policy for one queue; it is gone after the test."""
    path = "/policies/%2F/contract"

    def _policy(queue: str, **definition: Any) -> httpx.Response:
        document = {
            "pattern": f"^{queue}$",
            "definition": {key.replace("_", "-"): value for key, value in definition.items()},
            "apply-to": "queues",
            "priority": 5,
        }
        return janitor.put(path, json=document)

    yield _policy
    janitor.delete(path)


def test_a_policy_bounds_a_live_queue_and_its_removal_unbounds_it(
    janitor: httpx.Client, channel: BlockingChannel, queue: str, policy: Any, until: Any
) -> None:
    assert policy(queue, max_length=2, overflow="reject-publish").status_code in {201, 204}

    def refused() -> bool:
        try:
            channel.basic_publish("", queue, b"x")
        except NackError:
            return True
        return False

    assert until(refused, expected=True)
    stored = janitor.get("/policies/%2F/contract").json()
    assert (stored["pattern"], stored["priority"], stored["apply-to"]) == (f"^{queue}$", 5, "queues")
    assert "contract" in [p["name"] for p in janitor.get("/policies/%2F").json()]
    assert janitor.delete("/policies/%2F/contract").status_code == 204
    assert until(refused, expected=False) is False


def test_a_policy_with_a_smaller_bound_cuts_what_is_there(
    channel: BlockingChannel, queue: str, policy: Any, until: Any
) -> None:
    for _ in range(5):
        channel.basic_publish("", queue, b"x")
    policy(queue, max_length=2)
    assert until(lambda: channel.queue_declare(queue, passive=True).method.message_count, 2) == 2


def test_of_policy_and_argument_the_smaller_bound_rules(
    channel: BlockingChannel, name: Callable[[], str], policy: Any
) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-max-length": 2})
    policy(queue, max_length=100)
    for _ in range(5):
        channel.basic_publish("", queue, b"x")
    assert channel.queue_declare(queue, passive=True).method.message_count == 2


@pytest.mark.parametrize(
    "document",
    [
        {"definition": {"max-length": 1}},
        {"pattern": "x"},
        {"pattern": "x", "definition": {}},
        {"pattern": "x", "definition": {"max-length": -1}},
        {"pattern": "x", "definition": {"no-such-key": 1}},
        {"pattern": "x", "definition": {"overflow": "explode"}},
        {"pattern": "(", "definition": {"max-length": 1}},
        {"pattern": 5, "definition": {"max-length": 1}},
        {"pattern": "x", "definition": {"expires": 0}},
        {"pattern": "x", "definition": {"queue-mode": "sleepy"}},
        {"pattern": "x", "definition": {"queue-version": 3}},
        {"pattern": "x", "definition": {"queue-version": "2"}},
        {"pattern": "x", "definition": {"max-priority": 3}},
        {"pattern": "x", "definition": {"max-length": 1}, "apply-to": "odd"},
        {"pattern": "x", "definition": {"alternate-exchange": 5}},
        {"pattern": "x", "definition": {"max-length": 1}, "priority": "1"},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(janitor: httpx.Client, document: dict[str, Any]) -> None:
    assert janitor.put("/policies/%2F/contract.bad", json=document).status_code == 400
    assert janitor.get("/policies/%2F/contract.bad").status_code == 404


def test_a_policy_of_mirrored_queues_is_refused(broker: Any, janitor: httpx.Client) -> None:
    document = {"pattern": "^contract.none$", "definition": {"ha-mode": "all"}}
    told = janitor.put("/policies/%2F/contract.ha", json=document).status_code
    janitor.delete("/policies/%2F/contract.ha")
    assert told == broker.since_4("mirrored queues", 400, before=201)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("apply_to", ["classic_queues", "quorum_queues", "streams", "queues", "exchanges"])
def test_a_policy_may_be_for_queues_of_one_type(
    broker: Any,
    janitor: httpx.Client,
    channel: BlockingChannel,
    name: Callable[[], str],
    until: Any,
    kind: str,
    apply_to: str,
) -> None:
    queue = name()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    document = {"pattern": f"^{queue}$", "definition": {"max-length": 5}, "apply-to": apply_to}
    of_type = apply_to not in {"queues", "exchanges"}
    status = broker.since_4("what a policy applies to", 201, before=400 if of_type else 201)
    assert janitor.put("/policies/%2F/contract.typed", json=document).status_code == status
    expected = "contract.typed" if status == 201 and apply_to in {"queues", f"{kind}_queues"} else None

    def applied() -> str | None:
        return janitor.get(f"/queues/%2F/{queue}").json().get("policy") or None

    try:
        assert until(applied, expected) == expected  # of quorum queues it is told every 5 s
    finally:
        janitor.delete("/policies/%2F/contract.typed")


@pytest.mark.parametrize(
    "definition",
    [
        {"queue-version": 2},
        {"queue-mode": "lazy"},
        {"queue-leader-locator": "balanced"},
        {"dead-letter-strategy": "at-least-once"},
    ],
    ids=lambda definition: next(iter(definition)),
)
def test_a_policy_without_an_effect_here_is_accepted(janitor: httpx.Client, definition: dict[str, Any]) -> None:
    document = {"pattern": "^contract.none$", "definition": definition, "apply-to": "queues"}
    assert janitor.put("/policies/%2F/contract.idle", json=document).status_code == 201
    assert janitor.get("/policies/%2F/contract.idle").json()["definition"] == definition
    janitor.delete("/policies/%2F/contract.idle")


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize(("given", "told"), [({}, "Closed via management plugin"), ({"X-Reason": "spring"}, "spring")])
def test_a_connection_can_be_closed_for_a_reason(
    broker: Any,
    janitor: httpx.Client,
    connection: BlockingConnection,
    local_address: Any,
    until: Any,
    given: dict[str, str],
    told: str,
) -> None:
    ends = [f"{host}:{port}" for host, port in (local_address(connection), broker.address)]
    path = f"/connections/{quote(' -> '.join(ends))}"
    assert until(lambda: janitor.delete(path, headers=given).status_code, 204) == 204
    with pytest.raises(ConnectionClosedByBroker, match=rf"320.*CONNECTION_FORCED - {told}"):
        until(lambda: connection.process_data_events(time_limit=0.05), expected="closed")


def test_a_binding_to_an_exchange_tells_it_from_the_queue_of_the_same_name(
    janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str]
) -> None:
    source, both = name(), name()
    for exchange in (source, both):
        channel.exchange_declare(exchange, "topic")
    channel.queue_declare(both)
    channel.exchange_bind(both, source, "to.exchange")
    channel.queue_bind(both, source, "to.queue")
    bindings = [b for b in janitor.get("/bindings").json() if b["source"] == source]
    assert {b["routing_key"]: b["destination_type"] for b in bindings} == {
        "to.exchange": "exchange",
        "to.queue": "queue",
    }


def test_the_waiting_consumer_of_a_single_active_queue_is_distinguished_from_the_active_one(
    janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str], until: Any
) -> None:
    queue = name()
    channel.queue_declare(queue, arguments={"x-single-active-consumer": True})
    for tag in ("one", "two"):
        channel.basic_consume(queue, lambda *_: None, consumer_tag=tag)

    def states() -> dict[str, Any]:
        mine = [c for c in janitor.get("/consumers").json() if c["queue"]["name"] == queue]
        return {c["consumer_tag"]: (c["active"], c["activity_status"]) for c in mine}

    expected = {"one": (True, "single_active"), "two": (False, "waiting")}
    assert until(states, expected) == expected


@pytest.mark.parametrize(
    "definition",
    [
        {"message-ttl": 10**400},
        {"expires": 315_360_000_001},
        {"dead-letter-exchange": "", "dead-letter-routing-key": "k" * 256},
        {"dead-letter-exchange": "k" * 256},
        {"alternate-exchange": "k" * 256},
    ],
    ids=lambda definition: next(iter(definition)),
)
def test_a_policy_that_could_not_work_later_is_refused(broker: Any, janitor: httpx.Client, definition: Any) -> None:
    document = {"pattern": "^contract.none$", "definition": definition}
    status = janitor.put("/policies/%2F/contract.bad", json=document).status_code
    assert status == broker.by_kind("policies that do not fit", embedded=400, rabbitmq=201)
    assert janitor.delete("/policies/%2F/contract.bad").status_code == broker.by_kind(
        "policies that do not fit", embedded=404, rabbitmq=204
    )


def test_a_pattern_that_backtracks_forever_blocks_no_other_client(
    janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str]
) -> None:
    queue = name() + "a" * 60
    document = {"pattern": "^contract[.0-9]+(a+)+b$", "definition": {"max-length": 1}, "apply-to": "queues"}
    assert janitor.put("/policies/%2F/contract", json=document).status_code in {201, 204}
    try:
        channel.queue_declare(queue, exclusive=True)
    finally:
        assert janitor.delete("/policies/%2F/contract").status_code == 204
