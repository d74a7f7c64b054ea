"""A connection without its socket: handshake, flow control, heartbeats, closing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, header
from pamqp import frame as pamqp_frame

from backpressure.amqp.methods import cached_publish
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.session import OUTPUT_LIMIT_BYTES, SessionState
from backpressure.broker.vhost import VirtualHost


def conversation(peer_class: Any) -> bytes:
    """Everything a busy client says in a lifetime."""
    frames = [
        commands.Channel.Open(),
        commands.Exchange.Declare(exchange="e", exchange_type="topic"),
        commands.Queue.Declare(queue="q", arguments={"x-max-length": 5}),
        commands.Queue.Bind(queue="q", exchange="e", routing_key="a.#"),
        commands.Confirm.Select(),
        commands.Basic.Qos(prefetch_count=2),
        commands.Basic.Consume(queue="q", consumer_tag="t"),
    ]
    said = peer_class.LOGIN + b"".join(pamqp_frame.marshal(frame, 1) for frame in frames)
    for number in range(8):
        said += peer_class.publish_bytes("a.b", b"x" * number * 50, exchange="e", headers={"n": number})
    frames = [
        commands.Basic.Ack(2, multiple=True),
        commands.Basic.Nack(3),
        commands.Basic.Get(queue="q"),
        commands.Basic.Cancel("t"),
        commands.Queue.Declare(queue="missing", passive=True),
        commands.Channel.CloseOk(),
    ]
    return said + b"".join(pamqp_frame.marshal(frame, 1) for frame in frames) + b"\x08\0\0\0\0\0\0\xce"


def answer(peer_class: Any, pieces: list[bytes]) -> bytes:
    peer = peer_class(VirtualHost())
    for piece in pieces:
        peer.feed(piece)
    output: bytes = peer.session.take_output()
    return output


def test_a_byte_at_a_time_gets_the_same_answer(peer_class: Any) -> None:
    said = conversation(peer_class)
    whole = answer(peer_class, [said])
    assert len(whole) > 1000
    assert answer(peer_class, [said[i : i + 1] for i in range(len(said))]) == whole


@given(cuts=st.lists(st.integers(0, 5000), max_size=30))
def test_any_split_gets_the_same_answer(peer_class: Any, cuts: list[int]) -> None:
    said = conversation(peer_class)
    edges = [0, *sorted(cut % len(said) for cut in cuts), len(said)]
    assert answer(peer_class, [said[a:b] for a, b in itertools.pairwise(edges)]) == answer(peer_class, [said])


@given(end=st.integers(0, 5000))
def test_a_truncated_conversation_ends_without_a_trace(peer_class: Any, end: int) -> None:
    said = conversation(peer_class)
    vhost = VirtualHost()
    peer = peer_class(vhost)
    peer.feed(said[: end % len(said)])
    peer.session.lost()
    assert vhost.sessions == set()
    assert all(not queue.consumers and not queue.unacked for queue in vhost.queues.values())


# -- holding back ------------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_gets_no_more_than_its_share(peer: Any, peer_class: Any) -> None:
    publisher = peer_class(peer.session.vhost).login(1)
    peer.send(commands.Queue.Declare(queue="q"), commands.Basic.Consume(queue="q", no_ack=True))
    peer.frames()
    for _ in range(1000):
        publisher.publish("q", b"x" * 1024)
    output = peer.session.take_output()
    assert OUTPUT_LIMIT_BYTES <= len(output) < OUTPUT_LIMIT_BYTES + 2048
    assert len(peer.session.vhost.queues["q"]) > 700


def test_a_client_that_reads_again_gets_everything(peer: Any, peer_class: Any) -> None:
    publisher = peer_class(peer.session.vhost).login(1)
    peer.send(commands.Queue.Declare(queue="q"), commands.Basic.Consume(queue="q", no_ack=True))
    peer.frames()
    for number in range(1000):
        publisher.publish("q", b"%1024d" % number)
    bodies = [int(frame.value) for frame in peer.frames() if isinstance(frame, body.ContentBody)]
    assert bodies == list(range(1000))


def test_while_writing_is_paused_nothing_is_delivered_or_answered(peer: Any, peer_class: Any) -> None:
    vhost = peer.session.vhost
    publisher = peer_class(vhost).login(1)
    peer.send(commands.Queue.Declare(queue="q"), commands.Basic.Consume(queue="q", no_ack=True))
    peer.frames()
    peer.session.output_paused()
    assert peer.session.wants_input is False
    publisher.publish("q", b"waits")
    peer.send(commands.Queue.Declare(queue="later"))
    assert peer.frames() == []
    peer.session.output_resumed()
    peer.session.go_on(vhost.now)
    assert [type(frame) for frame in peer.methods()] == [commands.Basic.Deliver, commands.Queue.DeclareOk]


def test_requests_of_a_congested_client_wait_in_their_order(peer: Any) -> None:
    peer.send(commands.Queue.Declare(queue="q"))
    for _ in range(300):
        peer.publish("q", b"x" * 2000)
    peer.frames()
    peer.send(*[commands.Basic.Get(queue="q", no_ack=True) for _ in range(300)])
    assert len(peer.session.vhost.queues["q"]) > 100  # answered as far as there is room
    assert sum(isinstance(frame, commands.Basic.GetOk) for frame in peer.frames()) == 300


def test_the_memory_alarm_blocks_publishers_only_while_it_lasts(peer_class: Any) -> None:
    vhost = VirtualHost(memory_limit_bytes=10_000)
    publisher, other = peer_class(vhost).login(1), peer_class(vhost).login(1)
    publisher.send(commands.Queue.Declare(queue="q"))
    for _ in range(30):
        publisher.publish("q", b"x" * 1000)
    assert [m.name for m in publisher.methods()][-1] == "Connection.Blocked"
    assert len(vhost.queues["q"]) < 10  # what was sent after the block is not read yet
    other.send(commands.Queue.Declare(queue="q", passive=True))
    assert [m.name for m in other.methods()] == ["Queue.DeclareOk"]
    other.send(commands.Queue.Purge(queue="q"))
    seen = [m.name for m in publisher.methods()]
    assert seen[0] == "Connection.Unblocked"


def test_an_unfinished_message_counts_as_memory_from_its_header_on_and_is_given_back(peer_class: Any) -> None:
    vhost = VirtualHost(memory_limit_bytes=1_000_000)
    hoarder, other = peer_class(vhost).login(1), peer_class(vhost).login(1)
    hoarder.send(commands.Basic.Publish(routing_key="q"), header.ContentHeader(body_size=16_000_000))
    assert vhost.memory.active
    other.send(commands.Queue.Declare(queue="q"))
    other.publish("q", b"waits")
    assert (other.session.blocked, len(vhost.queues["q"])) == (True, 0)
    hoarder.session.lost()
    assert (vhost.memory.used_bytes, vhost.memory.active) == (0, False)
    other.frames()
    assert (other.session.blocked, len(vhost.queues["q"])) == (False, 1)


def test_large_properties_of_an_unfinished_message_count_too(peer: Any, vhost: VirtualHost) -> None:
    properties = commands.Basic.Properties(headers={"note": "x" * 50_000})
    peer.send(commands.Basic.Publish(routing_key="q"), header.ContentHeader(body_size=1, properties=properties))
    assert vhost.memory.used_bytes > 50_000
    peer.send(body.ContentBody(b"x"))
    assert vhost.memory.used_bytes == 0


def test_a_message_that_has_begun_can_be_finished_whatever_the_alarm_says(peer_class: Any) -> None:
    vhost = VirtualHost(memory_limit_bytes=100_000)
    peers = [peer_class(vhost).login(1) for _ in range(3)]
    peers[0].send(commands.Queue.Declare(queue="q"))
    for peer in peers:
        peer.send(commands.Basic.Publish(routing_key="q"), header.ContentHeader(body_size=30_000))
        peer.send(body.ContentBody(b"x" * 20_000))
    vhost.memory.forced = True
    for peer in peers:
        assert peer.session.wants_input
        peer.send(body.ContentBody(b"x" * 10_000))
    assert len(vhost.queues["q"]) == 3


def test_publish_methods_are_remembered_only_while_they_are_small(peer: Any) -> None:
    before = cached_publish.cache_info()
    for number in range(100):
        method = b"\x00\x3c\x00\x28\0\0\0\x01q\0" + bytes([number]) * 100_000
        peer.feed(pamqp_frame._marshal(1, 1, method))
        peer.send(header.ContentHeader(body_size=0))
    for number in range(5000):
        peer.publish(f"q.remembered.{number}")
    after = cached_publish.cache_info()
    assert after.misses - before.misses == 5000
    assert after.currsize <= 1024


def test_every_acknowledgement_of_several_costs_what_it_settles(peer: Any, vhost: VirtualHost) -> None:
    peer.send(commands.Queue.Declare(queue="q"), commands.Basic.Consume(queue="q"))
    for _ in range(300):
        peer.publish("q")
    peer.frames()
    unacked = peer.session.channels[1].consuming.unacked
    looked_at = 0

    class Counting(type(unacked)):  # type: ignore[misc]
        def __iter__(self) -> Any:
            nonlocal looked_at
            for tag in super().__iter__():
                looked_at += 1
                yield tag

    peer.session.channels[1].consuming.unacked = Counting(unacked)
    for tag in range(3, 301, 3):
        peer.send(commands.Basic.Ack(tag, multiple=True))
    assert (vhost.queues["q"].unacked, looked_at) == (0, 0)


def test_a_blocked_connection_that_holds_memory_says_so(peer: Any, vhost: VirtualHost) -> None:
    peer.send(commands.Channel.Open(), channel=2)
    peer.send(commands.Basic.Publish(routing_key="q"), header.ContentHeader(body_size=50_000))
    assert not peer.session.holds_memory_while_blocked
    vhost.memory.forced = True
    peer.send(commands.Basic.Publish(routing_key="q"), channel=2)
    assert peer.session.holds_memory_while_blocked
    vhost.memory.forced = False
    assert not peer.session.holds_memory_while_blocked


# -- time --------------------------------------------------------------------------------------------------------------


def with_heartbeat(peer_class: Any, vhost: VirtualHost, seconds: int) -> Any:
    peer = peer_class(vhost)
    peer.feed(peer_class.LOGIN[:8])
    peer.send(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"), channel=0)
    peer.send(commands.Connection.TuneOk(2047, 131072, seconds), commands.Connection.Open("/"), channel=0)
    peer.frames()
    return peer


def test_a_silent_server_sends_heartbeats(peer_class: Any, vhost: VirtualHost) -> None:
    peer = with_heartbeat(peer_class, vhost, 10)
    vhost.advance(5.0)
    assert peer.session.take_output() == b"\x08\0\0\0\0\0\0\xce"


def test_a_silent_client_is_given_up_after_two_intervals(peer_class: Any, vhost: VirtualHost) -> None:
    peer = with_heartbeat(peer_class, vhost, 10)
    for now in (5.0, 10.0, 15.0, 20.0):
        vhost.advance(now)
        peer.session.take_output()
    assert not peer.session.closed
    vhost.advance(25.0)
    assert peer.session.closed


def test_a_client_that_speaks_lives(peer_class: Any, vhost: VirtualHost) -> None:
    peer = with_heartbeat(peer_class, vhost, 10)
    for now in range(5, 200, 5):
        vhost.advance(float(now))
        peer.session.take_output()
        peer.session.receive(b"\x08\0\0\0\0\0\0\xce", float(now))
    assert not peer.session.closed


def test_a_client_that_stopped_reading_is_given_up_too(peer_class: Any, vhost: VirtualHost) -> None:
    peer = with_heartbeat(peer_class, vhost, 10)
    peer.session.output_paused()
    for now in (5.0, 10.0, 15.0, 20.0, 25.0):
        vhost.advance(now)
    assert peer.session.closed


def test_a_blocked_publisher_is_not_expected_to_be_heard(peer_class: Any) -> None:
    vhost = VirtualHost(memory_limit_bytes=100)
    peer = with_heartbeat(peer_class, vhost, 10)
    peer.send(commands.Channel.Open(), commands.Queue.Declare(queue="q"))
    peer.publish("q", b"x" * 1000)
    for now in (5.0, 10.0, 15.0, 20.0, 25.0, 30.0):
        vhost.advance(now)
    assert peer.session.blocked
    assert not peer.session.closed


def test_a_client_that_never_logs_in_is_shown_out(peer_class: Any, vhost: VirtualHost) -> None:
    peer = peer_class(vhost)
    peer.feed(b"AMQP\x00\x00\x09\x01")
    vhost.advance(10.0)
    assert peer.session.closed


def test_a_client_that_never_agrees_to_a_close_is_shown_out(peer: Any, vhost: VirtualHost) -> None:
    peer.session.close(320, "CONNECTION_FORCED - bye")
    assert peer.methods()[-1].reply_code == 320
    assert peer.session.state is SessionState.CLOSING
    vhost.advance(5.0)
    assert peer.session.closed


# -- limits and the end ---------------------------------------------------------------------------------------------


def test_a_message_beyond_the_limit_is_refused_before_its_body(peer_class: Any, vhost: VirtualHost) -> None:
    peer = peer_class(vhost, SessionConfig(max_message_bytes=1000)).login(1)
    peer.send(commands.Basic.Publish(routing_key="q"), header.ContentHeader(body_size=1001))
    (closed,) = peer.methods()
    assert (closed.reply_code, closed.reply_text) == (
        406,
        "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000",
    )


def test_a_leaving_client_gives_back_what_it_held_and_takes_its_exclusive_queues_along(
    peer: Any, vhost: VirtualHost
) -> None:
    peer.send(commands.Queue.Declare(queue="shared"), commands.Queue.Declare(queue="mine", exclusive=True))
    peer.publish("shared")
    peer.send(commands.Basic.Consume(queue="shared"))
    assert vhost.queues["shared"].unacked == 1
    peer.session.lost()
    assert list(vhost.queues) == ["shared"]
    assert (len(vhost.queues["shared"]), vhost.queues["shared"].unacked) == (1, 0)


def test_confirms_of_one_tick_leave_as_one_frame(peer: Any) -> None:
    peer.send(commands.Confirm.Select(), commands.Queue.Declare(queue="q"))
    peer.frames()
    for _ in range(100):
        peer.publish("q")
    (ack,) = peer.methods()
    assert (ack.delivery_tag, ack.multiple) == (100, True)


def test_runs_of_acks_and_nacks_are_distinguished(peer: Any) -> None:
    peer.send(commands.Confirm.Select())
    peer.send(commands.Queue.Declare(queue="q", arguments={"x-max-length": 2, "x-overflow": "reject-publish"}))
    peer.frames()
    for _ in range(5):
        peer.publish("q")
    assert [(m.name, m.delivery_tag, m.multiple) for m in peer.methods()] == [
        ("Basic.Ack", 2, True),
        ("Basic.Nack", 5, True),
    ]


def test_a_long_chain_of_dead_letter_queues_is_not_a_deep_call(peer: Any, vhost: VirtualHost) -> None:
    for number in range(300):
        arguments = {"x-max-length": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"q{number + 1}"}
        peer.send(commands.Queue.Declare(queue=f"q{number}", arguments=arguments))
    peer.send(commands.Queue.Declare(queue="q300"))
    peer.publish("q0")
    assert len(vhost.queues["q300"]) == 1


@pytest.mark.parametrize("depth", [10, 5000])
def test_tables_nested_too_deeply_are_a_syntax_error(peer: Any, depth: int) -> None:
    table = b""
    for _ in range(depth):
        table = b"\x01kF" + len(table).to_bytes(4, "big") + table
    payload = b"\x00\x3c\x00\x00" + bytes(8) + b"\x20\x00" + len(table).to_bytes(4, "big") + table
    peer.send(commands.Basic.Publish(routing_key="q"), pamqp_frame._marshal(2, 1, payload))
    codes = [m.reply_code for m in peer.methods()]
    assert codes == ([] if depth == 10 else [502])
