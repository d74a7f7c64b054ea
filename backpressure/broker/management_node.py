"""The management API's view of the broker as a whole: overview, node, health, users, the virtual host, permissions.

Must not know: HTTP, queues and exchanges one by one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

from backpressure.broker import management_documents as documents
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.management_requests import Route, bad_request, json_object, not_found, shaped, text_of
from backpressure.broker.management_topology import export_definitions, import_definitions
from backpressure.broker.session import Session
from backpressure.broker.vhost import VirtualHost
from backpressure.broker.web import Answer

_OK = {"status": "ok"}
_SINGLE = {**_OK, "reason": "single node cluster"}
_ALL = {"configure": ".*", "write": ".*", "read": ".*"}


class NodeApi:
    """Everything that there is one of, and the users, who may do everything."""

    def __init__(
        self,
        vhost: VirtualHost,
        config: SessionConfig,
        sessions: Callable[[], Collection[Session]],
        started_at_s: float,
    ) -> None:
        """``sessions`` returns the connected sessions; ``started_at_s`` is on the event loop's clock."""
        self._vhost = vhost
        self._config = config
        self._sessions = sessions
        self._started_at_s = started_at_s
        self.listeners: dict[str, int] = {}
        """The ports, by protocol."""

    def routes(self) -> list[Route]:
        """Everything that this part answers."""
        checks = "health/checks/"
        return [
            ("GET", "overview", self._overview),
            ("GET", "version", lambda **_: self._config.product[1]),
            ("GET", "whoami", lambda user, **_: {"name": user, "tags": self._config.tags_of(user)}),
            ("GET", "nodes", lambda query, **_: shaped([self._node()], query)),
            ("GET", f"nodes/{documents.NODE}", lambda **_: self._node()),
            ("GET", "cluster-name", lambda **_: {"name": documents.NODE}),
            ("GET", "aliveness-test/%2[Ff]", lambda **_: _OK),
            ("GET", f"healthchecks/node(/{documents.NODE})?", lambda **_: _OK),
            ("GET", f"{checks}(local-)?alarms", self._alarms),
            ("GET", f"{checks}virtual-hosts", lambda **_: _OK),
            ("GET", f"{checks}node-is-quorum-critical", lambda **_: _SINGLE),
            ("GET", f"{checks}certificate-expiration/[^/]+/[^/]+", lambda **_: _OK),
            ("GET", f"{checks}port-listener/(?P<port>[^/]+)", self._port_listener),
            ("GET", f"{checks}protocol-listener/(?P<protocol>[^/]+)", self._protocol_listener),
            ("GET", "users", lambda query, **_: shaped([self._user(name) for name in self._config.users], query)),
            ("GET", "users/without-permissions", lambda **_: []),
            ("POST", "users/bulk-delete", self._delete_users),
            ("GET", "users/(?P<name>[^/]+)", lambda name, **_: self._user(name)),
            ("PUT", "users/(?P<name>[^/]+)", self._put_user),
            ("DELETE", "users/(?P<name>[^/]+)", self._delete_user),
            ("GET", "users/(?P<name>[^/]+)/permissions", lambda name, **_: [self._permission(name)]),
            ("GET", "vhosts", lambda query, **_: shaped([self._host()], query)),
            ("GET", "vhosts/(?P<name>[^/]+)", self._one_host),
            ("PUT", "vhosts/(?P<name>[^/]+)", self._put_host),
            ("GET", "vhosts/%2[Ff]/permissions", lambda **_: self._permissions()),
            ("GET", "permissions", lambda **_: self._permissions()),
            ("GET", "permissions/%2[Ff]/(?P<name>[^/]+)", lambda name, **_: self._permission(name)),
            ("PUT", "permissions/%2[Ff]/(?P<name>[^/]+)", self._permit),
            ("GET", "(topic-permissions|parameters|global-parameters|operator-policies|vhost-limits)", lambda **_: []),
            ("GET", "definitions(/%2[Ff])?", self._definitions),
            ("POST", "definitions(/%2[Ff])?", self._import),
        ]

    def _overview(self, **_: Any) -> Any:
        return {
            **documents.overview(self._vhost, self._sessions(), self._config.product),
            "listeners": [
                {"node": documents.NODE, "protocol": protocol, "ip_address": "127.0.0.1", "port": port}
                for protocol, port in self.listeners.items()
            ],
            "contexts": self._contexts(),
        }

    def _node(self) -> Any:
        return {**documents.node_document(self._vhost, self._started_at_s), "contexts": self._contexts()}

    def _contexts(self) -> list[Any]:
        port = self.listeners.get("http")
        if not port:
            return []
        return [{"node": documents.NODE, "description": "Management API", "path": "/", "port": str(port)}]

    # -- health --------------------------------------------------------------------------------------------------

    def _alarms(self, **_: Any) -> Any:
        if not self._vhost.memory.active:
            return _OK
        alarm = {"node": documents.NODE, "resource": "memory"}
        return _failed("There are alarms in effect in the cluster", alarms=[alarm])

    def _port_listener(self, port: str, **_: Any) -> Any:
        if not port.isdecimal():
            raise bad_request("Invalid port")
        if port in {str(known) for known in self.listeners.values()}:
            return {**_OK, "port": int(port)}
        return _failed("No active listener", missing=port, ports=list(self.listeners.values()))

    def _protocol_listener(self, protocol: str, **_: Any) -> Any:
        if protocol in self.listeners:
            return {**_OK, "protocol": protocol}
        return _failed("No active listener", missing=protocol, protocols=list(self.listeners))

    # -- users and permissions -----------------------------------------------------------------------------------

    def _user(self, name: str) -> Any:
        if name not in self._config.users:
            raise not_found()
        salt = hashlib.sha256(name.encode()).digest()[:4]
        digest = hashlib.sha256(salt + self._config.users[name].encode()).digest()
        return {
            "name": name,
            "password_hash": base64.b64encode(salt + digest).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": self._config.tags_of(name),
            "limits": {},
        }

    def _put_user(self, name: str, body: bytes, **_: Any) -> Answer:
        document = json_object(body, required=("password", "tags"))
        created = name not in self._config.users
        tags = document["tags"]
        if not isinstance(tags, list):
            tags = [tag.strip() for tag in text_of(document, "tags").split(",") if tag.strip()]
        self._config.users[name] = text_of(document, "password")
        self._config.tags[name] = [str(tag) for tag in tags]
        return Answer(HTTPStatus.CREATED if created else HTTPStatus.NO_CONTENT)

    def _delete_user(self, name: str, **_: Any) -> None:
        self._user(name)
        del self._config.users[name]
        self._config.tags.pop(name, None)

    def _delete_users(self, body: bytes, **_: Any) -> None:
        names = json_object(body, required=("users",))["users"]
        if not isinstance(names, list):
            raise bad_request("users: must be a list")
        for name in {str(name) for name in names} & self._config.users.keys():
            self._delete_user(name)

    def _permissions(self) -> list[Any]:
        return [self._permission(name) for name in self._config.users]

    def _permission(self, name: str) -> Any:
        self._user(name)
        return {"user": name, "vhost": "/", **_ALL}

    def _permit(self, name: str, body: bytes, **_: Any) -> None:
        self._user(name)
        document = json_object(body, required=_ALL)
        if any(text_of(document, key) != ".*" for key in _ALL):
            raise bad_request('every user may do everything here: each of configure, write and read is ".*"')

    def _put_host(self, name: str, body: bytes, **_: Any) -> None:
        if name != "/":
            raise bad_request("there is one virtual host here: /")
        document = json_object(body)
        if "default_queue_type" in document:
            self._vhost.set_default_queue_type(text_of(document, "default_queue_type"))

    def _one_host(self, name: str, **_: Any) -> Any:
        if name != "/":
            raise not_found()
        return self._host()

    def _host(self) -> Any:
        queues = self._vhost.queues.values()
        ready, unacked = sum(map(len, queues)), sum(queue.unacked for queue in queues)
        return {
            "name": "/",
            "description": "The only virtual host",
            "tags": [],
            "default_queue_type": self._vhost.default_queue_type,
            "tracing": False,
            "cluster_state": {documents.NODE: "running"},
            "messages": ready + unacked,
            "messages_ready": ready,
            "messages_unacknowledged": unacked,
            "message_stats": self._vhost.counters.report(self._vhost.now),
        }

    # -- definitions ---------------------------------------------------------------------------------------------

    def _definitions(self, **_: Any) -> Any:
        product, version = self._config.product
        return {
            "rabbit_version": version,
            "rabbitmq_version": version,
            "product_name": product,
            "product_version": version,
            "users": [self._user(name) for name in self._config.users],
            "vhosts": [{"name": "/", "default_queue_type": self._vhost.default_queue_type}],
            "permissions": self._permissions(),
            "topic_permissions": [],
            "parameters": [],
            "global_parameters": [],
            **export_definitions(self._vhost),
        }

    def _import(self, body: bytes, **_: Any) -> None:
        import_definitions(self._vhost, json_object(body))


def _failed(reason: str, **details: Any) -> Answer:
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "failed", "reason": reason, **details})
