"""How long a consumer's membership in its group lasts: from being let in, in time or not at all, until it stops.

A member whose thread ended cannot go on, so another one takes its place, after a pause.
"""

from __future__ import annotations

import asyncio
import logging

from backpressure.core.kafka_names import group_id
from backpressure.errors import NotConnectedError, TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.kafka.polling import GroupListener, GroupMember
from backpressure.transports.outage import Outage, pauses

__all__ = ["Membership"]

_log = logging.getLogger("backpressure")
_JOIN_WITHIN_S = 30.0  # a new group waits for 3 s by default, and for a dead member's session, 6 s


class Membership:
    """One member after the other; there is always one to ask."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, queue: str, listener: GroupListener) -> None:
        self._broker = broker
        self._outage = outage
        self._name = name
        self._queue = queue
        self._listener = listener
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pauses = pauses(broker.reconnect_min_s, broker.reconnect_max_s)
        self._rejoining: asyncio.Task[None] | None = None
        self._said_refused = False
        self.member = self._new_member()

    async def join(self) -> None:
        """Connect, and return when the group has let us in.

        Raises `TransportError` when it refuses, or when it takes its time and nobody is to wait.
        """
        await self.member.start()
        while not (await asyncio.wait({self._joined}, timeout=_JOIN_WITHIN_S))[0]:
            error = NotConnectedError(
                f"the group {group_id(self._queue)!r} at {self._broker.address()} has let nobody in for "
                f"{_JOIN_WITHIN_S:g} s"
            )
            if not self._broker.wait:
                raise error
            _log.warning("%s: still waiting", error)
        self._joined.result()

    def assigned(self) -> bool:
        """The group has given us partitions, or told that there are none; return whether that let us in."""
        if self._joined.done():
            return False
        self._joined.set_result(None)
        self._outage.end()
        return True

    def refused(self, error: TransportError) -> None:
        """The broker lets us not join, or not read: final for who waits to join, and worth a line later."""
        if not self._joined.done():
            self._joined.set_exception(error)
        elif not self._said_refused:
            self._said_refused = True
            _log.warning("%s", error)

    def received(self) -> None:
        """Messages come: nobody refuses anything."""
        self._said_refused = False

    def died(self, error: TransportError) -> bool:
        """The member cannot go on: another one joins, if this one had; return whether that was so."""
        if not self._joined.done():
            self._joined.set_exception(error)
            return False
        self._outage.begin(error)
        self._joined = asyncio.get_running_loop().create_future()
        self._rejoining = asyncio.create_task(self._rejoin(), name=f"rejoin {self._name}")
        return True

    async def stop(self) -> None:
        """Leave the group."""
        if self._rejoining is not None:
            self._rejoining.cancel()
        await self.member.stop()

    async def _rejoin(self) -> None:
        while True:
            await asyncio.sleep(next(self._pauses))
            self.member = self._new_member()
            try:
                await self.join()
            except TransportError as error:
                _log.warning("%s: joining again", error)
                await self.member.stop()
                self._joined = asyncio.get_running_loop().create_future()
            else:
                return

    def _new_member(self) -> GroupMember:
        return GroupMember(self._broker, self._outage, self._name, self._queue, self._listener)
