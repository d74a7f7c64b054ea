"""Creating, emptying and removing the exchange and the queues of an experiment."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Any

from pika.exceptions import AMQPError

from backpressure.amqp.bindings import takes
from backpressure.core.message import Delivery, Message
from backpressure.errors import (
    AccessRefusedError,
    AnotherBrokerError,
    BrokerUnavailableError,
    ExchangeNotFoundError,
    NotConnectedError,
    PreconditionFailedError,
    QueueNotFoundError,
    TransportError,
    UnsupportedError,
)
from backpressure.settings import BrokerSettings, QueueSettings
from backpressure.transports.base import BrokerIdentity, FoundQueue
from backpressure.transports.connecting import Outage
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.management_models import PolicyInfo, QueueInfo
from backpressure.transports.queue_declarations import QueueDeclaration, bound_policy, not_reached, queue_declarations
from backpressure.transports.rabbitmq.failures import request_error, stream_error
from backpressure.transports.rabbitmq.link import RabbitMQRequests
from backpressure.transports.rabbitmq.wire import read_elsewhere

_TIMEOUT_S = 120.0  # purging or deleting millions of messages takes a while
_DRAIN_PREFETCH = 1000
_DRAIN_RECHECK_S = 0.1
_ATTEMPTS = 5
_AGAIN_AFTER_S = 0.5

BOUND_ARGUMENTS = frozenset({"x-max-length", "x-max-length-bytes", "x-overflow"})


class RabbitMQAdmin:
    """An `ExchangeAdmin`."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str) -> None:
        self._requests = RabbitMQRequests(broker, outage, name, timeout_s=_TIMEOUT_S)
        self._bound = BoundPolicy(broker)

    async def start(self) -> None:
        """See `QueueAdmin.start`."""
        await self._requests.link.start()

    async def identity(self) -> BrokerIdentity:
        """See `QueueAdmin.identity`."""
        return BrokerIdentity(
            product=self._property("implementation") or self._property("product") or "unknown",
            version=self._property("implementation_version") or self._property("version") or "unknown",
            address=self._requests.link.address,
        )

    async def missing(self, queue: QueueSettings) -> list[str]:
        """See `QueueAdmin.missing`."""
        absent, _ = await self._compare(queue, by_policy=await self._bounds_by_policy(queue))
        return absent

    async def declare(self, queue: QueueSettings, *, keep_bound: bool = False) -> None:
        """See `QueueAdmin.declare`."""
        by_policy = await self._bounds_by_policy(queue)
        absent, declarations = await self._compare(queue, by_policy=by_policy)
        try:
            if queue.exchange in absent:
                await self._declare_exchange(queue)
            if by_policy and not (keep_bound and await self._exists("queue_declare", queue=queue.work)):
                await self._bound.put(queue.work, bound_policy(queue))
            for declaration in declarations:
                if declaration.name in absent:
                    await self._declare_queue(declaration)
                if declaration.bound:
                    await self._bind(queue, declaration, new=bool({queue.exchange, declaration.name} & set(absent)))
        except TransportError:
            await self._take_back(queue, absent)
            raise

    async def _bind(self, queue: QueueSettings, declaration: QueueDeclaration, *, new: bool) -> None:
        try:
            for key in queue.bindings:
                binding = {"exchange": queue.exchange, "routing_key": key}
                await self._requests.call("queue_bind", queue=declaration.name, **binding)
        except AccessRefusedError:
            if new:
                raise  # queues that existed before are bound already

    async def _bounds_by_policy(self, queue: QueueSettings) -> bool:
        return await self._bound.is_possible(queue.work, self._property("cluster_name"))

    async def _compare(self, queue: QueueSettings, *, by_policy: bool) -> tuple[list[str], list[QueueDeclaration]]:
        """Return what is not there, and the declarations that agree with what is; changes nothing.

        Raises `PreconditionFailedError` when something exists with other arguments. Only a user with configure rights
        can compare the arguments: for others, whatever exists is accepted.
        """
        absent = []
        if await self._exists("exchange_declare", exchange=queue.exchange):
            with suppress(AccessRefusedError):
                await self._declare_exchange(queue)
        else:
            absent.append(queue.exchange)
        declarations = queue_declarations(queue, bound_by_policy=by_policy)
        absent += [each.name for each in declarations if not await self._exists("queue_declare", queue=each.name)]
        try:
            await self._declare_queues(declarations, absent)
        except PreconditionFailedError as error:
            if not by_policy or error.argument not in BOUND_ARGUMENTS:
                raise
            # A process without a management API declared the queue first: accept its bound if it is the same.
            declarations = queue_declarations(queue, bound_by_policy=False)
            await self._declare_queues(declarations, absent)
        return absent, declarations

    async def look(self, queue: str, *, exchange: str, keys: Sequence[str], dead_letter: str) -> FoundQueue:
        """See `QueueAdmin.look`. AMQP tells only that a queue exists; its arguments are in the management API."""
        await self._requests.call("queue_declare", queue=queue, passive=True)
        if exchange:
            await self._requests.call("exchange_declare", exchange=exchange, passive=True)
        has_queue = await self._exists("queue_declare", queue=dead_letter)
        try:
            dead_letters = await self._bound.dead_letters(queue, self._property("cluster_name"))
            if exchange:
                await self._bound.check_routes(exchange, keys, queue)
        except (UnsupportedError, NotConnectedError):
            raise
        except TransportError as error:  # no management API, not ours, or not for this user: work without
            return FoundQueue(None, has_queue, str(error))
        return FoundQueue(dead_letters, has_queue)

    async def _exists(self, method: str, **name: str) -> bool:
        try:
            await self._requests.call(method, passive=True, **name)
        except (ExchangeNotFoundError, QueueNotFoundError):
            return False
        return True

    async def _declare_exchange(self, queue: QueueSettings) -> None:
        await self._requests.call("exchange_declare", exchange=queue.exchange, exchange_type="direct", durable=True)

    async def _declare_queues(self, declarations: list[QueueDeclaration], absent: list[str]) -> None:
        """Declare those that exist: the broker compares the arguments and changes nothing."""
        for declaration in declarations:
            if declaration.name not in absent:
                with suppress(AccessRefusedError):
                    await self._declare_queue(declaration)

    async def _declare_queue(self, declared: QueueDeclaration) -> None:
        arguments = {"durable": declared.durable, "arguments": declared.arguments}
        await self._requests.call("queue_declare", queue=declared.name, **arguments)

    async def _take_back(self, queue: QueueSettings, made: list[str]) -> None:
        """Remove what a failed declaration has ``made``, unless it is in use already."""
        for name in made:
            with suppress(TransportError):
                if name == queue.exchange:
                    await self._requests.call("exchange_delete", exchange=name, if_unused=True)
                else:
                    await self._requests.call("queue_delete", queue=name, if_unused=True, if_empty=True)
        if queue.work in made:
            await self._bound.forget(queue.work)

    async def declare_fanout(self, exchange: str, queues: Iterable[str], *, max_length: int) -> None:
        """See `ExchangeAdmin.declare_fanout`."""
        call = self._requests.call
        await call("exchange_declare", exchange=exchange, exchange_type="fanout", durable=True)
        bound: dict[str, str | int] = {"x-max-length": max_length, "x-overflow": "drop-head"}
        for queue in queues:
            await call("queue_declare", queue=queue, durable=True, arguments=bound)
            await call("queue_bind", queue=queue, exchange=exchange, routing_key="")

    async def purge(self, queue: str) -> int:
        """See `QueueAdmin.purge`."""
        reply = await self._requests.call("queue_purge", queue=queue)
        return int(reply.message_count)

    async def delete(self, queue: str) -> None:
        """See `QueueAdmin.delete`."""
        with suppress(QueueNotFoundError):
            await self._requests.call("queue_delete", queue=queue)
        await self._bound.forget(queue)

    async def delete_exchange(self, exchange: str) -> None:
        """See `QueueAdmin.delete_exchange`."""
        await self._requests.call("exchange_delete", exchange=exchange)

    async def set_bound(self, queue: str, *, max_length: int | None, overflow: str) -> None:
        """See `QueueAdmin.set_bound`."""
        await self._bound.change(queue, max_length=max_length, overflow=overflow)

    async def drain(self, queue: str) -> AsyncIterator[Delivery]:
        """See `QueueAdmin.drain`; raises `QueueNotFoundError`.

        What is read ahead goes back to the queue when the iteration is left early.
        """
        arrived: asyncio.Queue[Delivery] = asyncio.Queue()

        def on_message(
            message: Message, tag: int, redelivered: bool, exchange: str, routing_key: str, header: bytes
        ) -> None:
            received_ns = time.monotonic_ns()
            arrived.put_nowait(Delivery(message, tag, 0, redelivered, exchange, routing_key, received_ns, header))

        try:
            connection = self._requests.link.connection
            channel = await connection.open_channel(vital=False)
            connection.incoming.deliver_to(channel.raw.channel_number, on_message)
            await channel.call("basic_qos", prefetch_count=_DRAIN_PREFETCH)
            await channel.call("basic_consume", queue=queue, on_message_callback=read_elsewhere)
            try:
                while True:
                    # Deliveries precede the reply on the channel: the queue is empty if nothing has arrived either.
                    ready = (await channel.call("queue_declare", queue=queue, passive=True)).message_count
                    if not ready and arrived.empty():
                        return
                    try:
                        delivery = await asyncio.wait_for(arrived.get(), _DRAIN_RECHECK_S)
                    except TimeoutError:
                        continue  # another consumer was faster
                    while True:
                        yield delivery
                        channel.raw.basic_ack(delivery.tag)
                        if arrived.empty():
                            break
                        delivery = arrived.get_nowait()
            finally:
                await channel.close()
        except AMQPError as error:
            raise request_error(error, self._requests.link.address) from error

    async def stop(self) -> None:
        """Close."""
        await self._bound.close()
        await self._requests.link.stop()

    def _property(self, name: str) -> str:
        """Return one of the properties that the broker sends at login, or ""."""
        properties = self._requests.link.connection.server_properties or {}
        return str(properties.get(name, ""))


class BoundPolicy:
    """The work queue's bound as a policy, so that it can change while the queue exists; it is named after the queue.

    An argument is fixed when the queue is declared. With both an argument and a policy, the broker applies the smaller
    limit, so a bound that was declared as an argument can never be raised. The bound is a policy where the management
    API lets us set one, and an argument elsewhere. The last process that declares the queue decides.
    """

    def __init__(self, broker: BrokerSettings) -> None:
        self._management = ManagementClient.of(broker)
        # Nodes of a young cluster may answer late, and all processes must declare a queue in the same way. On 3.10 each
        # node may have a cluster name of its own, unless one was set.
        self._is_cluster = len(broker.servers()) > 1
        self._attempts = _ATTEMPTS if self._management is not None and self._is_cluster else 1

    async def close(self) -> None:
        """Close the connections to the management API."""
        if self._management is not None:
            await self._management.close()

    async def is_possible(self, queue: str, cluster_name: str) -> bool:
        """Whether a policy of ours can hold the bound of ``queue``.

        Not when another policy matches it: only one applies to a queue, and ours would replace it. And not when the
        management API belongs to another broker than the one we are connected to.
        """
        for left in reversed(range(self._attempts)):
            policies = await self._policies(cluster_name)
            if policies is not None:
                return not any(policy.name != _name(queue) and _matches(policy, queue) for policy in policies)
            if left:
                await asyncio.sleep(_AGAIN_AFTER_S)
        return False

    async def _policies(self, cluster_name: str) -> list[PolicyInfo] | None:
        """Return the policies; None: the API is not enabled, not reachable, not for us, or another broker's."""
        if self._management is None:
            return None
        try:
            overview, policies = await self._management.overview(), await self._management.policies()
        except TransportError:
            return None
        return policies if self._is_same(cluster_name, overview.cluster_name) else None

    def _is_same(self, ours: str, theirs: str) -> bool:
        return self._is_cluster or ours in {"", theirs}

    async def dead_letters(self, queue: str, cluster_name: str) -> bool:
        """Return whether what is rejected from ``queue`` reaches another queue, as the management API tells.

        Raises `UnsupportedError` for a stream, and `TransportError` when the API does not tell.
        """
        if self._management is None:
            raise TransportError("no management API is known (broker.management_url)")
        overview = await self._management.overview()
        if not self._is_same(cluster_name, overview.cluster_name):
            raise AnotherBrokerError(self._management.url)
        found = await self._management.queue(queue)
        if found.type == "stream":
            raise stream_error(queue)
        exchange = found.arguments.get("x-dead-letter-exchange", found.effective_policy.get("dead-letter-exchange"))
        if exchange is None:
            return False
        key = found.arguments.get("x-dead-letter-routing-key", found.effective_policy.get("dead-letter-routing-key"))
        sources = {(each.source, each.routing_key) for each in await self._management.bindings()}
        return any(source == exchange and (exchange or bound == key) for source, bound in sources)

    async def check_routes(self, exchange: str, keys: Iterable[str], queue: str) -> None:
        """Raise `UnsupportedError` if what is published to ``exchange`` is known not to come into ``queue``.

        Where it may go on to other exchanges, nothing is known.
        """
        assert self._management is not None, "ask dead_letters() first"
        about = next((each for each in await self._management.exchanges() if each.name == exchange), None)
        bindings = [each for each in await self._management.bindings() if each.source == exchange]
        goes_on = any(each.destination_type != "queue" for each in bindings)
        if about is None or goes_on or about.policy or "alternate-exchange" in about.arguments:
            return
        bound = [each.routing_key for each in bindings if each.destination == queue]
        for key in keys:
            if not any(takes(about.type, pattern, key) for pattern in bound):
                raise not_reached(queue, exchange, key, bound)

    async def put(self, queue: str, definition: dict[str, Any]) -> None:
        """Set the bound, or remove it when ``definition`` is empty."""
        assert self._management is not None, "ask is_possible() first"
        if definition:
            pattern = f"^{re.escape(queue)}$"
            await self._management.set_policy(PolicyInfo(name=_name(queue), pattern=pattern, definition=definition))
        else:
            await self._management.delete_policy(_name(queue))

    async def change(self, queue: str, *, max_length: int | None, overflow: str) -> None:
        """Change the bound of a live queue, in force when this returns.

        Raises `QueueNotFoundError`, or `TransportError` saying what to do instead.
        """
        if self._management is None:
            raise _needs_management(queue, "none is known")
        try:
            _refuse_what_arguments_forbid(await self._management.queue(queue), max_length, overflow)
            policies = await self._management.policies()
            held = next((policy.definition for policy in policies if policy.name == _name(queue)), {})
            limits = {key: value for key, value in held.items() if key == "max-length-bytes"}
            if max_length is not None:
                limits["max-length"] = max_length
            await self.put(queue, limits | {"overflow": overflow} if limits else {})
        except (BrokerUnavailableError, AccessRefusedError) as error:
            raise _needs_management(queue, str(error)) from error

    async def forget(self, queue: str) -> None:
        """Remove the policy of a deleted queue, if there is one and we may."""
        if self._management is None:
            return
        try:
            await self._management.delete_policy(_name(queue))
        except TransportError:  # then we cannot have created one
            return


def _name(queue: str) -> str:
    return f"pace-bound-{queue}"


def _matches(policy: PolicyInfo, queue: str) -> bool:
    try:
        return re.search(policy.pattern, queue) is not None
    except re.error:  # valid in Erlang but not in Python: it may match
        return True


def _needs_management(queue: str, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"changing the bound of the live queue {queue!r} takes a policy, and so the management API ({reason}): enable "
        f"rabbitmq_management and set broker.management_url, or delete the queue (pace cleanup {queue}) and start again"
    )


def _refuse_what_arguments_forbid(queue: QueueInfo, max_length: int | None, overflow: str) -> None:
    declared, declared_overflow = queue.arguments.get("x-max-length"), queue.arguments.get("x-overflow")
    if declared is not None and (max_length is None or max_length > declared):
        raise UnsupportedError(
            f"queue {queue.name!r} was declared with x-max-length = {declared}: while it lives the bound can only be "
            f"lowered; to raise it, delete the queue (pace cleanup {queue.name}) and start again"
        )
    if declared_overflow not in {None, overflow}:
        raise UnsupportedError(
            f"queue {queue.name!r} was declared with x-overflow = {declared_overflow}, which no policy changes; "
            f"delete the queue (pace cleanup {queue.name}) and start again"
        )
