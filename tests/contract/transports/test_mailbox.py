"""Programs that have only the broker in common reach each other, and leave nothing behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from backpressure.transports.rabbitmq.mailbox import Mailbox

Play = Callable[..., None]

pytestmark = pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])


class Party:
    """Someone with a mailbox, and what has come."""

    def __init__(self, bench: Any, exchange: str, *addresses: str) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.connected = 0
        self.box = Mailbox(
            bench.settings.broker,
            addresses[0],
            exchange,
            addresses,
            on_message=lambda where, data: self.got.append((where, data)),
            on_connected=self.count,
        )

    def count(self) -> None:
        self.connected += 1


def test_each_gets_what_is_sent_to_its_addresses_in_order(play: Play) -> None:
    async def story(bench: Any) -> None:
        exchange = f"pace.agents.{uuid.uuid4().hex}"
        one, two = Party(bench, exchange, "agent.one", "agents"), Party(bench, exchange, "agent.two", "agents")
        for party in (one, two):
            await bench.started(party.box)
        await bench.until(lambda: one.box.is_open and two.box.is_open)
        for number in range(20):
            assert one.box.send("agent.two", b"%d" % number * 5000)
        assert one.box.send("agents", b"all")
        assert one.box.send("nobody", b"lost")
        await bench.until(lambda: len(two.got) == 21 and len(one.got) == 1)
        assert one.got == [("agents", b"all")]
        assert two.got == [*(("agent.two", b"%d" % number * 5000) for number in range(20)), ("agents", b"all")]

    play(story)


def test_a_lost_connection_comes_back_with_the_same_addresses(play: Play) -> None:
    async def story(bench: Any) -> None:
        exchange = f"pace.agents.{uuid.uuid4().hex}"
        one, two = Party(bench, exchange, "run.one"), Party(bench, exchange, "agent.two")
        for party in (one, two):
            await bench.started(party.box)
        bench.cut()
        await bench.until(lambda: one.connected == two.connected == 2)
        assert one.box.send("agent.two", b"again")
        await bench.until(lambda: two.got == [("agent.two", b"again")])

    play(story)


def test_nothing_is_left_when_the_last_has_gone(play: Play) -> None:
    async def story(bench: Any) -> None:
        before = await bench.definitions()
        exchange = f"pace.agents.{uuid.uuid4().hex}"
        parties = [Party(bench, exchange, f"agent.{number}") for number in range(2)]
        for party in parties:
            await party.box.start()
        for party in parties:
            await party.box.stop()
        await bench.unchanged(before)

    play(story)


def test_during_an_alarm_nothing_can_be_sent_and_that_is_said(play: Play) -> None:
    async def story(bench: Any) -> None:
        exchange = f"pace.agents.{uuid.uuid4().hex}"
        one, two = Party(bench, exchange, "run.one"), Party(bench, exchange, "agent.two")
        for party in (one, two):
            await bench.started(party.box)
        async with bench.alarm():
            one.box.send("agent.two", b"is it blocked?")  # the broker tells those that publish
            await bench.until(lambda: not one.box.is_open)
            assert not one.box.send("agent.two", b"no")
        await bench.until(lambda: one.box.is_open)
        assert one.box.send("agent.two", b"yes")
        await bench.until(lambda: two.got[-1:] == [("agent.two", b"yes")])
        assert ("agent.two", b"no") not in two.got

    play(story)
