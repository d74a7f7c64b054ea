"""What `Paced` and `SyncPaced` need of a client library, and which module has it for which object.

A *client* sends one message with one library, and says what became of it by one of three errors. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from backpressure.core.addresses import BrokerAddress
from backpressure.errors import ConfigError

CLIENTS = {
    "aio_pika": "aio_pika_client:AioPikaClient",
    "aiokafka": "aiokafka_client:AioKafkaClient",
    "pika.channel": "pika_clients:PikaCallbackClient",
    "pika.adapters.asyncio_connection": "pika_clients:PikaCallbackClient",
    "pika.adapters.select_connection": "pika_clients:PikaCallbackClient",
    "confluent_kafka": "confluent_client:ConfluentClient",
    "cimpl": "confluent_client:ConfluentClient",
    "amqp": "aio_pika_client:AioPikaClient",
    "kafka": "aiokafka_client:AioKafkaClient",
}
"""Which class sends for an object of which module, or for a URL of which scheme, in a task."""

BLOCKING_CLIENTS = {
    "pika.adapters.blocking_connection": "pika_clients:PikaBlockingClient",
    "pika.channel": "pika_clients:BlockingPikaCallbackClient",
    "pika.adapters.asyncio_connection": "pika_clients:BlockingPikaCallbackClient",
    "pika.adapters.select_connection": "pika_clients:BlockingPikaCallbackClient",
    "confluent_kafka": "confluent_client:BlockingConfluentClient",
    "cimpl": "confluent_client:BlockingConfluentClient",
    "amqp": "pika_clients:BlockingPikaCallbackClient",
    "kafka": "confluent_client:BlockingConfluentClient",
}
"""The same in a thread."""


class AsyncClient(Protocol):
    """What `Paced` needs of a client library."""

    url: str
    """The broker of the connection, with its password; "": the library does not tell."""

    async def open(self) -> None:
        """Connect, unless there is a connection; called again after a loss. Raises `NotConnectedError`."""

    async def send(self, message: Any, options: Mapping[str, Any]) -> None:
        """Send one message and return when the broker has taken it.

        Raises `RefusedError` (it did not), `UnroutableError` (no queue) or `NotConnectedError` (nobody knows).
        """

    async def close(self) -> None:
        """Close what was opened here, and nothing that was given."""


class BlockingClient(Protocol):
    """What `SyncPaced` needs of a client library; every method may be called from any thread."""

    url: str
    """See `AsyncClient.url`."""

    def open(self) -> None:
        """See `AsyncClient.open`."""

    def send(self, message: Any, options: Mapping[str, Any], timeout_s: float) -> None:
        """See `AsyncClient.send`; raises `TimeoutError` if there is no answer after ``timeout_s`` (may be infinite)."""

    def close(self) -> None:
        """See `AsyncClient.close`."""


def client_class(client: object, clients: Mapping[str, str]) -> Callable[..., Any]:
    """Return the class that sends with ``client``; raises `ConfigError` for an object that is not known here."""
    if isinstance(client, str):
        names = [client.partition(":")[0].lower().removesuffix("+ssl").replace("amqps", "amqp")]
    else:
        names = [cls.__module__ for cls in type(client).__mro__]
    for name in names:
        for prefix, place in clients.items():
            if name == prefix or name.startswith(f"{prefix}."):
                module, _, kind = place.partition(":")
                found: Callable[..., Any] = getattr(import_module(f"backpressure.integrations.{module}"), kind)
                return found
    shown = client if isinstance(client, str) else f"{type(client).__module__}.{type(client).__qualname__}"
    raise ConfigError("client", shown, f"expected a URL, or an object of {_libraries(clients)}")


def _libraries(clients: Mapping[str, str]) -> str:
    if clients is CLIENTS:
        return "aio-pika, aiokafka, confluent-kafka or pika's AsyncioConnection (SyncPaced is for blocking ones)"
    return "pika or confluent-kafka (Paced is for asynchronous ones)"


def several_servers(url: str) -> BrokerAddress | None:
    """Return the parts of a URL of AMQP that names several servers, ``amqp://one,two/``; None: it names one.

    Client libraries know URLs of one server only. Raises `ConfigError` for an impossible host or port in a list.
    """
    if "," not in url:
        return None
    try:
        address = BrokerAddress.parse(url)
    except ValueError as error:
        raise ConfigError("client", url, str(error)) from None
    return address if len(address.servers) > 1 else None
