"""The management API that changes things (queues, exchanges, bindings, messages, definitions), and its lists."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from pika import BasicProperties

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from pika.adapters.blocking_connection import BlockingChannel


@pytest.fixture
def statuses(janitor: httpx.Client) -> Any:
    """The statuses of several equal requests."""

    def _statuses(method: str, *paths: str, **options: Any) -> list[int]:
        return [janitor.request(method, path, **options).status_code for path in paths]

    return _statuses


# -- queues and exchanges ----------------------------------------------------------------------------------------------


def test_a_queue_is_created_once(statuses: Any, channel: BlockingChannel, name: Callable[[], str]) -> None:
    queue = name()
    document = {"durable": True, "arguments": {"x-max-length": 5}}
    assert statuses("PUT", *[f"/queues/%2F/{queue}"] * 2, json=document) == [201, 204]
    channel.queue_declare(queue, durable=True, arguments={"x-max-length": 5})


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"durable": 5}, 400),
        ({"arguments": {"x-max-length": -1}}, 400),
        ({"arguments": []}, 201),
        ({"durable": "true"}, 201),
        ([], 400),
    ],
)
def test_a_queue_that_makes_no_sense_is_not_created(
    janitor: httpx.Client, name: Callable[[], str], document: Any, status: int
) -> None:
    queue = name()
    assert janitor.put(f"/queues/%2F/{queue}", json=document).status_code == status
    assert (janitor.get(f"/queues/%2F/{queue}").status_code == 200) is (status == 201)


def test_an_exchange_is_created_once_and_stays_of_its_type(statuses: Any, name: Callable[[], str]) -> None:
    path = f"/exchanges/%2F/{name()}"
    assert statuses("PUT", path, path, json={"type": "topic", "internal": True}) == [201, 204]
    assert statuses("PUT", path, json={"type": "direct"}) == [400]
    assert statuses("PUT", f"/exchanges/%2F/{name()}", json={"type": "nonsense"}) == [400]


def test_the_default_exchange_has_a_name_in_paths(janitor: httpx.Client) -> None:
    document = janitor.get("/exchanges/%2F/amq.default").json()
    assert (document["name"], document["type"], document["durable"]) == ("", "direct", True)


# -- bindings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ends(janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str]) -> tuple[str, str]:
    """An exchange and a queue, not bound."""
    exchange, queue = name(), name()
    channel.exchange_declare(exchange, "topic")
    channel.queue_declare(queue)
    return exchange, queue


def test_bindings_are_created_distinguished_and_removed(
    janitor: httpx.Client, ends: tuple[str, str], statuses: Any
) -> None:
    exchange, queue = ends
    path = f"/bindings/%2F/e/{exchange}/q/{queue}"
    locations = []
    for document in ({"routing_key": "a.b/c"}, {"routing_key": "a.b/c", "arguments": {"x": 1}}, {}):
        answer = janitor.post(path, json=document)
        assert answer.status_code == 201
        locations.append(answer.headers["location"])
    assert (locations[0], locations[2]) == (f"{queue}/a.b%252Fc", f"{queue}/~")
    assert locations[1].startswith(f"{queue}/a.b%252Fc~")
    found = janitor.get(path).json()
    assert sorted((b["routing_key"], len(b["arguments"])) for b in found) == [("", 0), ("a.b/c", 0), ("a.b/c", 1)]
    for binding in found:
        assert janitor.get(f"{path}/{binding['properties_key'].replace('%', '%25')}").json() == binding
    assert statuses("DELETE", *[f"{path}/a.b%252Fc"] * 2, f"{path}/~") == [204, 404, 204]
    (left,) = janitor.get(path).json()
    assert left["arguments"] == {"x": 1}


def test_bindings_are_listed_by_their_ends(janitor: httpx.Client, channel: BlockingChannel, ends: Any) -> None:
    exchange, queue = ends
    channel.queue_bind(queue, exchange, "k")
    of_queue = janitor.get(f"/queues/%2F/{queue}/bindings").json()
    assert sorted((b["source"], b["routing_key"]) for b in of_queue) == [("", queue), (exchange, "k")]
    (of_source,) = janitor.get(f"/exchanges/%2F/{exchange}/bindings/source").json()
    assert (of_source["destination"], of_source["destination_type"]) == (queue, "queue")
    assert janitor.get(f"/exchanges/%2F/{exchange}/bindings/destination").json() == []


def test_a_binding_needs_both_its_ends(statuses: Any, ends: tuple[str, str]) -> None:
    exchange, queue = ends
    missing = (f"/bindings/%2F/e/{exchange}/q/contract.missing", f"/bindings/%2F/e/contract.missing/q/{queue}")
    assert statuses("POST", *missing, json={}) == [404, 404]


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def get(janitor: httpx.Client, queue: str) -> Any:
    def _get(ackmode: str = "ack_requeue_false", count: int = 5, encoding: str = "auto", **more: Any) -> Any:
        asked = {"ackmode": ackmode, "count": count, "encoding": encoding, **more}
        return janitor.post(f"/queues/%2F/{queue}/get", json=asked).json()

    return _get


def test_a_message_is_published_with_its_properties(
    janitor: httpx.Client, channel: BlockingChannel, queue: str
) -> None:
    properties = {"delivery_mode": 2, "headers": {"a": 1}, "priority": 3, "timestamp": 5, "content_type": "text/plain"}
    document = {"properties": properties, "routing_key": queue, "payload": "aMOp", "payload_encoding": "base64"}
    assert janitor.post("/exchanges/%2F/amq.default/publish", json=document).json() == {"routed": True}
    _, received, body = channel.basic_get(queue, auto_ack=True)
    assert body == "hé".encode()
    assert {key: getattr(received, key) for key in properties} == properties
    document["routing_key"] = "contract.missing"
    assert janitor.post("/exchanges/%2F/amq.default/publish", json=document).json() == {"routed": False}


@pytest.mark.parametrize(
    "change", [{"payload": None}, {"payload": "*"}, {"payload_encoding": "x"}, {"properties": None}]
)
def test_a_message_that_makes_no_sense_is_not_published(janitor: httpx.Client, queue: str, change: Any) -> None:
    document = {"properties": {}, "routing_key": queue, "payload": "aGk=", "payload_encoding": "base64", **change}
    document = {key: value for key, value in document.items() if value is not None}
    assert janitor.post("/exchanges/%2F/amq.default/publish", json=document).status_code == 400


def test_messages_are_looked_at_and_stay(channel: BlockingChannel, queue: str, get: Any) -> None:
    channel.basic_publish("", queue, "hé".encode(), BasicProperties(message_id="m", headers={"a": [1, "x"]}))
    channel.basic_publish("", queue, b"\xff\x00")
    first, second = get("ack_requeue_true")
    assert (first["payload"], first["payload_encoding"], first["payload_bytes"]) == ("hé", "string", 3)
    assert (first["routing_key"], first["exchange"], first["message_count"]) == (queue, "", 1)
    assert first["properties"]["headers"] == {"a": [1, "x"]}
    assert (base64.b64decode(second["payload"]), second["payload_encoding"]) == (b"\xff\x00", "base64")
    assert [message["redelivered"] for message in (first, second, *get("reject_requeue_true", count=1))] == [
        False,
        False,
        True,
    ]
    assert channel.queue_declare(queue, passive=True).method.message_count == 2


@pytest.mark.parametrize("ackmode", ["ack_requeue_false", "reject_requeue_false"])
def test_messages_are_taken(channel: BlockingChannel, queue: str, get: Any, ackmode: str) -> None:
    for body in (b"first", b"second"):
        channel.basic_publish("", queue, body)
    (taken,) = get(ackmode, count=1, encoding="base64", truncate=2)
    assert (base64.b64decode(taken["payload"]), taken["payload_bytes"]) == (b"fi", 5)
    assert channel.basic_get(queue, auto_ack=True)[2] == b"second"


# -- lists -------------------------------------------------------------------------------------------------------------


def test_lists_come_in_pages(janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str]) -> None:
    names = [name(), name(), name()]
    for queue in names:
        channel.queue_declare(queue, durable=True)
    part = f"^({'|'.join(queue.replace('.', '[.]') for queue in names)})$"
    asked = {"page": 2, "page_size": 2, "name": part, "use_regex": "true", "columns": "name", "sort": "name"}
    answer = janitor.get("/queues/%2F", params=asked).json()
    assert answer["items"] == [{"name": sorted(names)[2]}]
    assert answer.pop("total_count") >= 3
    expected = {"filtered_count": 3, "item_count": 1, "page": 2, "page_size": 2, "page_count": 2}
    assert {key: answer[key] for key in expected} == expected


@pytest.mark.parametrize("kind", ["queues", "exchanges", "connections", "channels"])
def test_a_page_of_anything_has_items(janitor: httpx.Client, kind: str) -> None:
    assert isinstance(janitor.get(f"/{kind}", params={"page": 1}).json()["items"], list)


@pytest.mark.parametrize("query", [{"page": 0}, {"page": "x"}, {"page": 1, "page_size": 501}])
def test_a_page_that_makes_no_sense_is_refused(janitor: httpx.Client, query: Any) -> None:
    assert janitor.get("/queues", params=query).status_code == 400


# -- the broker as a whole ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/aliveness-test/%2F",
        "/health/checks/alarms",
        "/health/checks/local-alarms",
        "/health/checks/virtual-hosts",
        "/health/checks/node-is-quorum-critical",
        "/health/checks/protocol-listener/amqp",
    ],
)
def test_a_healthy_broker_says_so(janitor: httpx.Client, path: str) -> None:
    assert janitor.get(path).json()["status"] == "ok"


@pytest.mark.usefixtures("direct")
def test_a_port_is_distinguished_from_one_that_nobody_listens_on(broker: Any, janitor: httpx.Client) -> None:
    assert janitor.get(f"/health/checks/port-listener/{broker.address[1]}").status_code == 200
    assert janitor.get("/health/checks/port-listener/1").status_code == 503
    assert janitor.get("/health/checks/protocol-listener/mqtt").json()["missing"] == "mqtt"


def test_users_virtual_hosts_and_permissions_are_listed(janitor: httpx.Client, statuses: Any) -> None:
    assert "administrator" in janitor.get("/users/guest").json()["tags"]
    assert [host["name"] for host in janitor.get("/vhosts").json()] == ["/"]
    everything = {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
    assert janitor.get("/permissions/%2F/guest").json() == everything
    assert everything in janitor.get("/users/guest/permissions").json()
    assert statuses("GET", "/users/nobody", "/vhosts/none", "/permissions/%2F/nobody") == [404] * 3


def test_a_user_is_added_and_removed(broker: Any, janitor: httpx.Client, statuses: Any) -> None:
    document = {"password": "secret", "tags": "administrator"}
    assert statuses("PUT", *["/users/contract.ana"] * 2, json=document) == [201, 204]
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    assert janitor.put("/permissions/%2F/contract.ana", json=everything).status_code in {201, 204}
    login = ("contract.ana", "secret")
    assert janitor.get("/whoami", auth=login).json()["name"] == "contract.ana"
    known = janitor.get("/users/contract.ana").json()
    salted = base64.b64decode(known["password_hash"])
    assert hashlib.sha256(salted[:4] + b"secret").digest() == salted[4:]
    assert statuses("DELETE", *["/users/contract.ana"] * 2) == [204, 404]
    assert janitor.get("/whoami", auth=login).status_code == 401


def test_users_are_removed_by_the_list(janitor: httpx.Client, statuses: Any) -> None:
    paths = ["/users/contract.one", "/users/contract.two"]
    assert statuses("PUT", *paths, json={"password": "secret", "tags": ""}) == [201, 201]
    names = ["contract.one", "contract.two"]
    assert janitor.post("/users/bulk-delete", json={"users": names}).status_code == 204
    assert statuses("GET", *paths) == [404, 404]


def test_definitions_are_exported_and_imported(
    janitor: httpx.Client, channel: BlockingChannel, name: Callable[[], str]
) -> None:
    queue, exchange, policy = name(), name(), name()
    channel.queue_declare(queue, durable=True, arguments={"x-max-length": 7})
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_bind(queue, exchange, "a.#")
    janitor.put(f"/policies/%2F/{policy}", json={"pattern": f"^{queue}$", "definition": {"max-length": 5}})
    exported = janitor.get("/definitions").json()
    mine = {
        "queues": [q for q in exported["queues"] if q["name"] == queue],
        "exchanges": [x for x in exported["exchanges"] if x["name"] == exchange],
        "bindings": [b for b in exported["bindings"] if b["source"] == exchange],
        "policies": [p for p in exported["policies"] if p["name"] == policy],
    }
    assert all(len(part) == 1 for part in mine.values())
    channel.queue_delete(queue)
    channel.exchange_delete(exchange)
    assert janitor.delete(f"/policies/%2F/{policy}").status_code == 204
    for _ in range(2):  # what is there already, stays
        assert janitor.post("/definitions", json=mine).status_code == 204
    again = janitor.get("/definitions").json()
    for part, (item,) in mine.items():
        assert item in again[part]
    assert janitor.delete(f"/policies/%2F/{policy}").status_code == 204


def test_the_overview_says_on_which_node_and_where_the_api_is(broker: Any, janitor: httpx.Client) -> None:
    (context, *_) = janitor.get("/overview").json()["contexts"]
    assert (context["path"], str(context["port"])) == ("/", broker.management_url.rpartition(":")[2])
    assert context["node"] in {node["name"] for node in janitor.get("/nodes").json()}
