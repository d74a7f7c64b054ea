"""The work queue's bound as a policy, so that it can change while the queue exists.

An argument is fixed when the queue is declared. With both an argument and a policy, the broker applies the smaller
limit, so a bound that was declared as an argument can never be raised. The bound is a policy where the management API
lets us set one, and an argument elsewhere. The last process that declares the queue decides.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from backpressure.errors import AccessRefusedError, BrokerUnavailableError, TransportError, UnsupportedError
from backpressure.settings import BrokerSettings
from backpressure.transports.management_client import ManagementClient, PolicyInfo, QueueInfo

__all__ = ["BOUND_ARGUMENTS", "BoundPolicy"]

_ATTEMPTS = 5
_AGAIN_AFTER_S = 0.5

BOUND_ARGUMENTS = frozenset({"x-max-length", "x-max-length-bytes", "x-overflow"})


class BoundPolicy:
    """One policy for each queue, named after it."""

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
            raise TransportError(f"{self._management.url} is the management API of another broker")
        found = await self._management.queue(queue)
        if found.type == "stream":
            raise UnsupportedError(
                f"{queue!r} is a stream: consumers take nothing out of it, so its length says nothing about their "
                "pace; use a classic or a quorum queue"
            )
        exchange = found.arguments.get("x-dead-letter-exchange", found.effective_policy.get("dead-letter-exchange"))
        if exchange is None:
            return False
        key = found.arguments.get("x-dead-letter-routing-key", found.effective_policy.get("dead-letter-routing-key"))
        sources = {(each.source, each.routing_key) for each in await self._management.bindings()}
        return any(source == exchange and (exchange or bound == key) for source, bound in sources)

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
