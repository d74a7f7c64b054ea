"""A thin client of RabbitMQ's management HTTP API; the embedded broker serves the same subset.

Its statistics are up to ten seconds old: good enough for display, clean-up and policies, but not for a control loop.
`ManagementClient.totals` is: a classic queue counts for each answer.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Self, TypeVar
from urllib.parse import quote, unquote

from pydantic import TypeAdapter

from backpressure.core.addresses import BrokerAddress, bracketed
from backpressure.errors import (
    AccessRefusedError,
    AnotherBrokerError,
    BrokerUnavailableError,
    QueueNotFoundError,
    TransportError,
)
from backpressure.settings import BrokerSettings
from backpressure.transports import management_models as models
from backpressure.transports.base import Transport
from backpressure.transports.connecting import Servers, tls_context
from backpressure.transports.http_client import HttpAnswer, HttpClient, NoAnswerError

_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
_GUESSED = {"amqp": ("http", 15672), "amqps": ("https", 15671)}
_HEAD_START_S = 1.5

_TOTALS = "disable_stats=true&enable_queue_totals=true"
_TOTALS_COLUMNS = "name,type,messages_ready,messages_unacknowledged"

_T = TypeVar("_T")
_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(TypeAdapter)  # building it takes longer than using it


def management_url(broker: BrokerSettings) -> str:
    """Return the address of the management API, or "" when it is unknown, or the broker is not an AMQP broker.

    It is guessed for the default AMQP ports only: for any other port, a different broker could answer on 15672 and get
    our policies.
    """
    url = broker.parts()
    if url.scheme not in _DEFAULT_PORTS:
        return ""
    if broker.management_url:
        return broker.management_url.rstrip("/")
    servers = broker.servers()
    if any(port != _DEFAULT_PORTS[url.scheme] for _, port in servers):
        return ""
    scheme, port = _GUESSED[url.scheme]
    return f"{scheme}://" + ",".join(f"{bracketed(host)}:{port}" for host, _ in servers)


class ManagementClient:
    """A client for one virtual host of one broker, at any of its nodes.

    Every method raises `BrokerUnavailableError` when there is no answer, `AccessRefusedError` when the user lacks the
    right, and `TransportError` with the broker's reason otherwise.
    """

    def __init__(
        self,
        url: str,
        username: str = "guest",
        password: str = "guest",  # noqa: S107 -- the public password of a fresh RabbitMQ, good on loopback only
        *,
        virtual_host: str = "/",
        timeout_s: float = 5.0,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        """``url`` may name several servers, and hold a user and a password, which take precedence and are not shown."""
        address = BrokerAddress.parse(url)
        named = {
            (host, 0 if port is None else port): bracketed(host) + ("" if port is None else f":{port}")
            for host, port in address.servers
        }
        self.url = f"{address.scheme}://{','.join(named.values())}{address.path}"
        self._virtual_host = _path(virtual_host)
        self._servers = Servers(named)
        login = address.username or username, address.password or password
        self._http = {
            server: HttpClient(f"{address.scheme}://{name}{address.path}", *login, timeout_s=timeout_s, tls=tls)
            for server, name in named.items()
        }

    @classmethod
    def of(cls, broker: BrokerSettings) -> Self | None:
        """Return a client with the broker's credentials; None where no management API is known."""
        address = management_url(broker)
        if not address:
            return None
        url = broker.parts()
        return cls(
            address,
            url.username or broker.username,
            url.password or broker.password.get_secret_value(),
            virtual_host=unquote(url.path[1:]) or "/",
            timeout_s=broker.connect_timeout_s,
            tls=partial(tls_context, broker),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to the API."""
        for http in self._http.values():
            await http.close()

    async def overview(self) -> models.Overview:
        """Return the broker's name, version and totals."""
        return await self._get("/api/overview", models.Overview)

    async def cluster_name(self) -> str:
        """Return what the cluster calls itself; before RabbitMQ 4 each node may have a name of its own."""
        return (await self._get("/api/cluster-name", models.ClusterName)).name

    async def check_owner(self, transport: Transport) -> None:
        """Raise `AnotherBrokerError` if this is known to be the API of another broker than that of ``transport``."""
        probe = transport.probe()
        await probe.start()
        try:
            if not await probe.owns(self):
                raise AnotherBrokerError(self.url)
        finally:
            await probe.stop()

    async def nodes(self) -> list[models.NodeInfo]:
        """Return the nodes of the cluster."""
        return await self._get("/api/nodes", list[models.NodeInfo])

    async def queues(self) -> list[models.QueueInfo]:
        """Return all queues of the virtual host, with what they hold also where the broker keeps no statistics."""
        return await self._get(f"/api/queues/{self._virtual_host}?enable_queue_totals=true", list[models.QueueInfo])

    async def queue(self, name: str) -> models.QueueInfo:
        """Return one queue; raises `QueueNotFoundError`."""
        return await self._of_queue(
            name, self._get(f"/api/queues/{self._virtual_host}/{_path(name)}", models.QueueInfo)
        )

    async def totals(self, name: str) -> models.QueueTotals:
        """Return what one queue holds, ready and unacked of one moment; raises `QueueNotFoundError`.

        It costs a classic queue one request to its process. RabbitMQ before 3.13, and any for a quorum queue, looks
        through all queues of the virtual host: asked for one quorum queue, a node that does not lead it tells zeros.
        """
        path = f"/api/queues/{self._virtual_host}"
        found = await self._of_queue(name, self._get(f"{path}/{_path(name)}?{_TOTALS}", models.QueueTotals))
        if found.ready is not None and found.type == "classic":
            return found
        pattern = _path(f"^{re.escape(name)}$")
        asked = f"{_TOTALS}&columns={_TOTALS_COLUMNS}&page=1&page_size=1&use_regex=true&name={pattern}"
        listed = await self._get(f"{path}?{asked}", models.QueueTotalsPage)
        return next(iter(listed.items), found.model_copy(update={"ready": None, "unacked": None}))

    async def entered(self, name: str) -> int | None:
        """Return how many messages have entered one queue, as of the last statistics; None: the broker does not tell.

        Raises `QueueNotFoundError`.
        """
        path = f"/api/queues/{self._virtual_host}/{_path(name)}?columns=message_stats.publish"
        return (await self._of_queue(name, self._get(path, models.QueueFlow))).entered

    async def connections(self) -> list[models.ConnectionInfo]:
        """Return all connections."""
        return await self._get("/api/connections", list[models.ConnectionInfo])

    async def channels(self) -> list[models.ChannelInfo]:
        """Return all channels."""
        return await self._get("/api/channels", list[models.ChannelInfo])

    async def consumers(self) -> list[models.ConsumerInfo]:
        """Return all consumers of the virtual host."""
        return await self._get(f"/api/consumers/{self._virtual_host}", list[models.ConsumerInfo])

    async def exchanges(self) -> list[models.ExchangeInfo]:
        """Return all exchanges of the virtual host, the broker's own included."""
        return await self._get(f"/api/exchanges/{self._virtual_host}", list[models.ExchangeInfo])

    async def bindings(self) -> list[models.BindingInfo]:
        """Return all bindings of the virtual host."""
        return await self._get(f"/api/bindings/{self._virtual_host}", list[models.BindingInfo])

    async def policies(self) -> list[models.PolicyInfo]:
        """Return all policies of the virtual host."""
        return await self._get(f"/api/policies/{self._virtual_host}", list[models.PolicyInfo])

    async def set_policy(self, policy: models.PolicyInfo) -> None:
        """Create or replace a policy; queues follow within moments."""
        document = policy.model_dump(exclude={"name", "apply_to"}) | {"apply-to": policy.apply_to}
        await self._request("PUT", f"/api/policies/{self._virtual_host}/{_path(policy.name)}", document)

    async def delete_policy(self, name: str) -> None:
        """Remove a policy if it exists."""
        await self._request("DELETE", f"/api/policies/{self._virtual_host}/{_path(name)}", missing_ok=True)

    async def purge(self, queue: str) -> None:
        """Drop the ready messages of a queue; raises `QueueNotFoundError`."""
        path = f"/api/queues/{self._virtual_host}/{_path(queue)}/contents"
        await self._of_queue(queue, self._request("DELETE", path))

    async def delete_queue(self, name: str) -> None:
        """Remove a queue if it exists."""
        await self._request("DELETE", f"/api/queues/{self._virtual_host}/{_path(name)}", missing_ok=True)

    async def delete_exchange(self, name: str) -> None:
        """Remove an exchange if it exists."""
        await self._request("DELETE", f"/api/exchanges/{self._virtual_host}/{_path(name)}", missing_ok=True)

    async def close_connection(self, name: str, reason: str) -> None:
        """End a client's connection if it exists; the client is told the ``reason``."""
        await self._request("DELETE", f"/api/connections/{_path(name)}", reason=reason, missing_ok=True)

    async def _get(self, path: str, shape: type[_T]) -> _T:
        document = await self._request("GET", path)
        try:
            content: _T = _adapter(shape).validate_json(document)
        except ValueError as error:
            raise TransportError(f"{self.url}{path} answers with something else than expected: {error}") from error
        return content

    async def _request(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any] | None = None,
        *,
        reason: str = "",
        missing_ok: bool = False,
    ) -> bytes:
        headers = {"X-Reason": reason} if reason else None
        try:
            _, answer = await self._servers.first(
                lambda server: self._http[server].request(method, path, document, headers), head_start_s=_HEAD_START_S
            )
        except NoAnswerError as error:
            raise BrokerUnavailableError(self.url, str(error), "management API") from error
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise AccessRefusedError(self.url, _stated_reason(answer))
        if answer.status == HTTPStatus.NOT_FOUND:
            if missing_ok:
                return b""
            raise _NotFoundError(f"{self.url}{path} does not exist")
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise TransportError(f"{self.url}{path}: {_stated_reason(answer)}")
        return answer.content

    async def _of_queue(self, name: str, request: Awaitable[_T]) -> _T:
        try:
            return await request
        except _NotFoundError as error:
            raise QueueNotFoundError(name) from error


class _NotFoundError(TransportError):
    """HTTP 404."""


def _path(name: str) -> str:
    return quote(name, safe="")


def _stated_reason(answer: HttpAnswer) -> str:
    """Return the reason in RabbitMQ's ``{"error": …, "reason": …}``, or the status where there is none."""
    try:
        reason = json.loads(answer.content)["reason"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.phrase}"
    return str(reason)
