"""Faults on demand: each does what it says, and ends when it is withdrawn."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp import commands

from backpressure.broker.faults import FaultSettings
from backpressure.broker.vhost import VirtualHost
from backpressure.errors import ConfigError


def confirming(peer: Any) -> None:
    peer.send(commands.Queue.Declare(queue="q"), commands.Confirm.Select())
    peer.frames()


def test_a_share_of_publishes_is_nacked_and_not_enqueued(peer: Any, vhost: VirtualHost) -> None:
    confirming(peer)
    vhost.faults.apply(FaultSettings(nack_share=0.25))
    outcomes = []
    for _ in range(100):
        peer.publish("q")
        outcomes += [method.name for method in peer.methods()]
    assert outcomes.count("Basic.Nack") == 25
    assert outcomes[:8] == ["Basic.Ack", "Basic.Ack", "Basic.Ack", "Basic.Nack"] * 2
    assert len(vhost.queues["q"]) == 75


def test_confirms_are_delayed_and_never_overtake_each_other(peer: Any, vhost: VirtualHost) -> None:
    confirming(peer)
    vhost.faults.apply(FaultSettings(confirm_delay_ms=100))
    peer.publish("q")
    assert peer.methods() == []
    vhost.advance(0.05)
    vhost.faults.apply(FaultSettings())
    peer.publish("q")
    assert peer.methods() == []
    vhost.advance(0.1)
    assert [method.delivery_tag for method in peer.methods()] == [1, 2]
    peer.publish("q")
    assert [method.delivery_tag for method in peer.methods()] == [3]


def test_a_delayed_confirm_for_a_channel_that_is_gone_is_not_sent(peer: Any, vhost: VirtualHost) -> None:
    confirming(peer)
    vhost.faults.apply(FaultSettings(confirm_delay_ms=100))
    peer.publish("q")
    peer.send(commands.Channel.Close(200, "", 0, 0))
    vhost.advance(1.0)
    assert [method.name for method in peer.methods()] == ["Channel.CloseOk"]


def test_stalled_reads_are_taken_up_where_they_were(peer: Any, vhost: VirtualHost) -> None:
    vhost.faults.apply(FaultSettings(stall_reads=True))
    assert peer.session.wants_input is False
    peer.send(commands.Queue.Declare(queue="q"))
    assert peer.methods() == []
    vhost.faults.apply(FaultSettings())
    peer.session.go_on(vhost.now)
    assert [method.name for method in peer.methods()] == ["Queue.DeclareOk"]


def test_the_memory_alarm_is_raised_and_lowered(peer: Any, vhost: VirtualHost) -> None:
    vhost.faults.apply(FaultSettings(memory_alarm=True))
    peer.send(commands.Queue.Declare(queue="q"))
    peer.publish("q")
    assert [method.name for method in peer.methods()] == ["Queue.DeclareOk", "Connection.Blocked"]
    vhost.faults.apply(FaultSettings())
    assert [method.name for method in peer.methods()] == ["Connection.Unblocked"]


def test_connections_are_dropped_again_and_again(peer_class: Any, vhost: VirtualHost) -> None:
    vhost.faults.apply(FaultSettings(drop_every_s=10))
    for now in (10.0, 20.0):
        peer = peer_class(vhost).login(1)
        vhost.advance(now - 0.1)
        assert not peer.session.closed
        vhost.advance(now)
        assert peer.session.closed
        assert peer.session.take_output() == b""
    vhost.faults.apply(FaultSettings())
    peer = peer_class(vhost).login(1)
    vhost.advance(1000.0)
    assert not peer.session.closed


@pytest.mark.parametrize(
    "document",
    [
        {"nonsense": 1},
        {"nack_share": 1.5},
        {"nack_share": -1},
        {"nack_share": True},
        {"stall_reads": 1},
        {"confirm_delay_ms": "x"},
    ],
    ids=str,
)
def test_a_fault_that_makes_no_sense_is_refused_by_name(document: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        FaultSettings().updated(document)
    assert caught.value.key in document
