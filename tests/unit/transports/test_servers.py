"""Which server of a broker is used: one that answers, and after it was lost another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from backpressure.errors import AccessRefusedError, BrokerUnavailableError
from backpressure.transports.connecting import Server, Servers

ONE, TWO, THREE = ("one", 1), ("two", 2), ("three", 3)
Attempt = Callable[[Server], Awaitable[str]]


def servers(*names: Server) -> Servers:
    return Servers(names, shuffle=lambda _order: None)


def answering(*living: Server, tried: list[Server]) -> Attempt:
    """Return an attempt that fails at once at any other server."""

    async def attempt(server: Server) -> str:
        tried.append(server)
        if server not in living:
            raise BrokerUnavailableError(server[0], "refused")
        return server[0]

    return attempt


def test_the_first_that_answers_is_used_and_stays_the_first() -> None:
    async def story() -> None:
        cluster, tried = servers(ONE, TWO, THREE), list[Server]()
        assert await cluster.first(answering(TWO, THREE, tried=tried)) == (TWO, "two")
        assert await cluster.first(answering(TWO, THREE, tried=tried)) == (TWO, "two")
        assert tried == [ONE, TWO, TWO]

    asyncio.run(story())


def test_a_server_that_was_lost_is_tried_last() -> None:
    async def story() -> None:
        cluster, tried = servers(ONE, TWO, THREE), list[Server]()
        cluster.failed(ONE)
        assert (await cluster.first(answering(ONE, THREE, tried=tried)))[0] == THREE
        assert tried == [TWO, THREE]

    asyncio.run(story())


def test_one_that_takes_the_connection_and_says_nothing_costs_its_head_start() -> None:
    async def story() -> None:
        given_up = asyncio.Event()

        async def attempt(server: Server) -> str:
            if server == ONE:
                try:
                    await asyncio.Event().wait()
                finally:
                    given_up.set()
            return server[0]

        cluster = servers(ONE, TWO)
        assert await cluster.first(attempt, head_start_s=0) == (TWO, "two")
        await given_up.wait()
        assert (await cluster.first(answering(ONE, TWO, tried=[])))[0] == TWO

    asyncio.run(story())


def test_a_result_that_comes_too_late_is_given_back() -> None:
    async def story() -> None:
        discarded: list[str] = []
        late = asyncio.Event()

        async def attempt(server: Server) -> str:
            if server == ONE:
                with contextlib.suppress(asyncio.CancelledError):  # it was connected already
                    await asyncio.Event().wait()
            return server[0]

        def discard(result: str) -> None:
            discarded.append(result)
            late.set()

        assert (await servers(ONE, TWO).first(attempt, discard=discard, head_start_s=0))[1] == "two"
        await late.wait()
        assert discarded == ["one"]

    asyncio.run(story())


def test_when_all_fail_the_error_that_says_most_is_raised() -> None:
    async def attempt(server: Server) -> str:
        raise (
            AccessRefusedError("two", "wrong password") if server == TWO else BrokerUnavailableError(server[0], "gone")
        )

    async def story(*names: Server) -> None:
        await servers(*names).first(attempt)

    with pytest.raises(AccessRefusedError):
        asyncio.run(story(ONE, TWO, THREE))
    with pytest.raises(BrokerUnavailableError, match="one"):
        asyncio.run(story(ONE, THREE))
    with pytest.raises(BrokerUnavailableError, match="one"):
        asyncio.run(story(ONE))


def test_clients_begin_at_different_servers() -> None:
    names = [(f"node-{number}", 5672) for number in range(20)]

    async def story() -> set[Server]:
        return {(await Servers(names).first(answering(*names, tried=[])))[0] for _ in range(20)}

    assert len(asyncio.run(story())) > 1
