"""One proxied connection: everything passes as it came; what is too fast waits, and keeps its order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from proxy_staging import Staging, deliver, names, publish

from backpressure.amqp.frames import FRAME_BODY, HEARTBEAT, frame
from backpressure.amqp.methods import method_frame
from backpressure.core.signals import Decision
from backpressure.proxy.relay import Relay, foreign_protocol
from backpressure.proxy.routing import KnownBinding
from backpressure.proxy.view import HoldLimits

ACK = commands.Basic.Ack(1, False)


def fill(stage: Staging) -> None:
    """Send what may go at once, and one message more, which waits."""
    stage.client(publish("orders") * 2)
    stage.to_broker()


# --- what passes ------------------------------------------------------------------------------------------------------


def test_the_first_message_passes_and_the_next_one_waits_for_its_time(stage: Staging) -> None:
    first, second = publish("orders", b"1"), publish("orders", b"2" * 300)
    stage.client(first + second)
    assert stage.to_broker() == first
    assert stage.relay.held_messages == 1
    stage.after(0.05)
    assert stage.to_broker() == b""
    stage.after(0.06)
    assert stage.to_broker() == second


def test_pieces_of_a_byte_change_nothing(stage: Staging) -> None:
    stream = publish("orders", b"1") + publish("elsewhere", b"2") + publish("orders", b"3")
    for at in range(len(stream)):
        stage.client(stream[at : at + 1])
    stage.after(1.0)
    assert stage.to_broker() == stream


def test_messages_to_other_queues_pass_at_once(stage: Staging) -> None:
    stage.open_channel(stage.relay, 2)
    fill(stage)
    other = publish("elsewhere", channel=2)
    stage.client(publish("orders") + other)
    assert stage.to_broker() == other


def test_behind_a_message_that_waits_another_of_its_channel_waits_too(stage: Staging) -> None:
    fill(stage)
    stage.client(publish("elsewhere"))
    assert stage.to_broker() == b""
    stage.after(0.11)
    assert stage.to_broker().endswith(publish("elsewhere"))


@pytest.mark.parametrize(
    "method",
    [
        ACK,
        commands.Basic.Nack(1),
        commands.Basic.Reject(1, False),
        commands.Basic.Qos(0, 5, False),
        commands.Basic.Consume(0, "orders", "c"),
        commands.Basic.Cancel("c"),
        commands.Queue.Declare(0, "q"),
        commands.Queue.Bind(0, "q", "e", ""),
        commands.Exchange.Declare(0, "e"),
    ],
)
def test_what_says_nothing_about_messages_overtakes_them(stage: Staging, method: Any) -> None:
    fill(stage)
    stage.client(method)
    assert names(stage.to_broker()) == [type(method).name]


@pytest.mark.parametrize(
    "method",
    [
        commands.Confirm.Select(),
        commands.Tx.Select(),
        commands.Tx.Commit(),
        commands.Basic.Get(0, "orders"),
        commands.Queue.Purge(0, "orders"),
        commands.Queue.Delete(0, "orders"),
        commands.Queue.Unbind(0, "orders", "e", ""),
        commands.Exchange.Delete(0, "e"),
        commands.Channel.Close(200, "", 0, 0),
    ],
)
def test_what_means_something_else_after_the_messages_waits(stage: Staging, method: Any) -> None:
    fill(stage)
    stage.client(method)
    assert stage.to_broker() == b""
    stage.after(0.11)
    assert names(stage.to_broker()) == ["Basic.Publish", "header", "body", type(method).name]


def test_a_declaration_does_not_overtake_a_deletion(stage: Staging) -> None:
    fill(stage)
    stage.client(commands.Queue.Delete(0, "q", nowait=True), commands.Queue.Declare(0, "q"))
    assert stage.to_broker() == b""
    stage.after(0.11)
    assert names(stage.to_broker())[-2:] == ["Queue.Delete", "Queue.Declare"]


def test_in_a_transaction_nothing_overtakes_anything(stage: Staging) -> None:
    stage.client(commands.Tx.Select())
    fill(stage)
    stage.client(commands.Tx.Commit(), ACK)
    assert stage.to_broker() == b""
    stage.after(0.11)
    assert names(stage.to_broker())[-2:] == ["Tx.Commit", "Basic.Ack"]


def test_a_body_that_arrives_after_its_message_was_let_go_is_forwarded_as_it_comes(stage: Staging) -> None:
    fill(stage)
    stream = publish("orders", b"a" * 100)
    stage.client(stream[:-108], frame(FRAME_BODY, 1, b"a" * 40))
    assert stage.to_broker() == b""
    stage.after(0.21)
    assert stage.to_broker().endswith(frame(FRAME_BODY, 1, b"a" * 40))
    rest = frame(FRAME_BODY, 1, b"a" * 60)
    stage.client(rest)
    assert stage.to_broker() == rest


def test_closing_the_connection_waits_for_all_channels(stage: Staging) -> None:
    fill(stage)
    stage.client(commands.Connection.Close(200, "", 0, 0), channel=0)
    assert stage.to_broker() == b""
    stage.after(0.11)
    assert names(stage.to_broker())[-1] == "Connection.Close"


def test_closing_the_connection_goes_on_when_the_broker_closes_the_channel_that_it_waits_for(stage: Staging) -> None:
    fill(stage)
    stage.client(publish("orders"))
    stage.client(commands.Connection.Close(200, "", 0, 0), channel=0)
    stage.to_broker()
    stage.broker(commands.Channel.Close(404, "", 0, 0))
    assert names(stage.to_broker())[-1] == "Connection.Close"


def test_a_client_that_goes_away_takes_nothing_back(stage: Staging) -> None:
    stream = publish("orders") * 5
    stage.client(stream + publish("orders")[:9])
    stage.relay.leaving(stage.time.at)
    assert stage.to_broker() == stream + publish("orders")[:9]


def test_what_the_broker_will_ignore_does_not_wait(stage: Staging) -> None:
    for close in (commands.Channel.Close(404, "", 0, 0), commands.Connection.Close(320, "", 0, 0)):
        fresh = Staging()
        fill(fresh)
        fresh.client(publish("orders"))
        fresh.broker(close, channel=0 if isinstance(close, commands.Connection.Close) else 1)
        assert names(fresh.to_broker())[-3:] == ["Basic.Publish", "header", "body"]
        assert not fresh.relay.holds


def test_connections_to_another_virtual_host_only_pass(stage: Staging) -> None:
    other = stage.connection(virtual_host="other")
    stage.client(publish("orders") * 50, relay=other)
    assert stage.to_broker(other) == publish("orders") * 50
    assert stage.orders.arrived == 0


def test_reports_of_other_programs_are_not_paced(stage: Staging) -> None:
    stage.view.topology.bind(KnownBinding("pace.feedback", "orders", ""))
    report = publish("", exchange="pace.feedback")
    stage.client(report * 10)
    assert stage.to_broker() == report * 10


# --- several queues, several channels ---------------------------------------------------------------------------------


def test_the_slowest_of_several_queues_governs(stage: Staging) -> None:
    stage.paced("audit", rate_per_s=2.0)
    for name in ("orders", "audit"):
        stage.view.topology.bind(KnownBinding("events", name, "k"))
    stage.client(publish("k", exchange="events") * 3)
    sent = 0
    for _ in range(10):
        sent += names(stage.to_broker()).count("Basic.Publish")
        stage.after(0.1)
    assert sent == 2  # one at once, the next after half a second
    assert stage.orders.published == stage.view.paced["audit"].published


def test_channels_take_turns(stage: Staging) -> None:
    stage.open_channel(stage.relay, 2)
    stage.client(publish("orders") * 10)
    stage.client(publish("orders", channel=2) * 2)
    stage.to_broker()
    for _ in range(4):
        stage.after(0.1)
    sent = stage.to_broker()
    assert (sent.count(publish("orders")), sent.count(publish("orders", channel=2))) == (2, 2)


def test_a_client_that_vanishes_leaves_the_queue_to_others(stage: Staging) -> None:
    other = stage.connection()
    fill(stage)
    stage.client(publish("orders"), relay=other)
    stage.relay.lost(stage.time.at)
    stage.after(0.11)
    assert stage.to_broker(other) == publish("orders")
    assert stage.orders.waiting == 0


# --- confirms ---------------------------------------------------------------------------------------------------------


def test_confirms_are_counted_and_without_them_what_was_sent(stage: Staging) -> None:
    stage.orders.apply(Decision(1000.0, "test"))
    stage.client(publish("orders"))
    assert (stage.orders.outbox.confirmed, len(stage.orders.outbox.in_flight)) == (1, 0)
    stage.client(commands.Confirm.Select(), publish("elsewhere") + publish("orders") * 4)
    stage.after(0.1)
    assert len(stage.orders.outbox.in_flight) == 4
    stage.broker(commands.Basic.Ack(3, True))
    stage.broker(commands.Basic.Nack(4, False))
    box = stage.orders.outbox
    assert (box.confirmed, box.nacked, len(box.in_flight)) == (3, 1, 1)
    stage.broker(commands.Channel.Close(404, "", 0, 0))
    assert len(box.in_flight) == 0


def test_a_message_that_no_queue_takes_is_counted(stage: Staging) -> None:
    stage.broker(commands.Basic.Return(312, "NO_ROUTE", "", "orders"))
    assert stage.orders.outbox.returned == 1


def test_no_more_may_be_in_flight_than_the_law_says(stage: Staging) -> None:
    stage.orders.apply(Decision(1000.0, "test", window=2))
    stage.client(commands.Confirm.Select(), publish("orders"), publish("orders"), publish("orders"))
    stage.after(1.0)
    assert names(stage.to_broker()).count("Basic.Publish") == 2
    stage.broker(ACK)
    assert stage.woken
    stage.after(0.01)
    assert names(stage.to_broker()).count("Basic.Publish") == 1


def test_room_that_a_closed_channel_leaves_is_given_to_one_that_waits(stage: Staging) -> None:
    stage.orders.apply(Decision(1000.0, "test", window=1))
    stage.client(commands.Confirm.Select(), publish("orders"))
    other = stage.connection()
    stage.client(publish("orders"), relay=other)
    assert stage.orders.waiting
    stage.woken = 0
    stage.broker(commands.Channel.Close(404, "", 0, 0))
    assert stage.woken


# --- a client that is held --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [HoldLimits(messages=4), HoldLimits(octets=4 * len(publish("orders")))])
def test_a_client_is_not_read_while_it_has_enough_to_wait(limits: HoldLimits) -> None:
    stage = Staging(limits=limits)
    stage.client(publish("orders") * 4)
    assert stage.relay.wants_client
    stage.client(publish("orders"))
    assert not stage.relay.wants_client
    stage.after(0.1)
    assert not stage.relay.wants_client
    stage.after(0.3)
    assert stage.relay.wants_client


def test_a_client_is_told_that_it_is_held_and_when_that_is_over(stage: Staging) -> None:
    stage.client(publish("orders") * 30)
    for _ in range(6):
        stage.after(0.25)
        stage.relay.tick(stage.time.at, broker_written_at=0)
    assert names(stage.to_client()) == ["Connection.Blocked"]
    for _ in range(30):
        stage.after(0.1)
    assert names(stage.to_client()) == ["Connection.Unblocked"]


def test_a_client_that_is_held_for_long_hears_that_messages_go(stage: Staging) -> None:
    stage.client(publish("orders") * 140)
    heard = []
    for _ in range(60):
        stage.after(0.25)
        stage.relay.tick(stage.time.at, broker_written_at=0)
        heard += names(stage.to_client())
    assert heard[:3] == ["Connection.Blocked", "Connection.Unblocked", "Connection.Blocked"]


def test_a_client_that_does_not_know_it_is_not_told(stage: Staging) -> None:
    relay = stage.connection(knows_blocked=False)
    stage.client(publish("orders") * 30, relay=relay)
    stage.time.at += 5
    relay.tick(stage.time.at, broker_written_at=0)
    relay.tick(stage.time.at + 5, broker_written_at=0)
    assert relay.to_client == []


def test_what_the_broker_says_of_an_alarm_is_not_contradicted(stage: Staging) -> None:
    blocked = method_frame(0, commands.Connection.Blocked("low on memory"))
    stage.client(publish("orders") * 10)
    stage.relay.tick(stage.time.at, broker_written_at=0)
    stage.broker(blocked)
    assert stage.to_client() == blocked
    for _ in range(20):
        stage.after(0.25)
        stage.relay.tick(stage.time.at, broker_written_at=0)
    assert stage.to_client() == b""
    stage.broker(commands.Connection.Unblocked(), channel=0)
    assert names(stage.to_client()) == ["Connection.Unblocked"]


def test_the_broker_gets_heartbeats_while_a_client_is_not_read() -> None:
    stage = Staging(limits=HoldLimits(messages=1))
    stage.relay = stage.connection(heartbeat_s=10)
    stage.client(publish("orders") * 3)
    stage.to_broker()
    stage.relay.tick(104.0, broker_written_at=100.0)
    assert stage.to_broker() == b""
    stage.relay.tick(105.0, broker_written_at=100.0)
    assert stage.to_broker() == HEARTBEAT


def test_the_broker_gets_heartbeats_while_all_that_a_client_sends_waits() -> None:
    stage = Staging()
    stage.relay = stage.connection(heartbeat_s=10)
    stage.orders.paused = True
    stage.client(publish("orders"))  # a client that sends something now and then sends no heartbeats
    assert stage.relay.wants_client
    stage.relay.tick(105.0, broker_written_at=100.0)
    assert stage.to_broker() == HEARTBEAT
    stage.orders.paused = False
    stage.after(0.2)
    stage.to_broker()
    stage.relay.tick(115.0, broker_written_at=110.0)
    assert stage.to_broker() == b""  # from now on the client sends its own


# --- what consumers do ------------------------------------------------------------------------------------------------


def consuming(stage: Staging, *, prefetch: int = 10, no_ack: bool = False) -> Any:
    stage.client(commands.Basic.Qos(0, prefetch, False), commands.Basic.Consume(0, "orders", "", no_ack=no_ack))
    stage.broker(commands.Basic.QosOk(), commands.Basic.ConsumeOk("c"))
    [consumer] = stage.view.consumers.values()
    return consumer


def test_deliveries_and_settlements_are_counted(stage: Staging) -> None:
    consumer = consuming(stage)
    stage.broker(*(deliver(tag, redelivered=tag == 1) for tag in range(1, 8)))
    stage.client(commands.Basic.Ack(3, True), commands.Basic.Nack(4, False, True), commands.Basic.Reject(5, False))
    tally = stage.view.tallies["orders"]
    assert (tally.delivered, tally.redelivered, tally.acked, tally.requeued, tally.rejected) == (7, 1, 3, 1, 1)
    assert (tally.held, consumer.held, consumer.prefetch, consumer.acked) == (2, 2, 10, 3)
    stage.client(commands.Basic.Ack(0, True))
    assert (tally.held, tally.acked) == (0, 5)


def test_a_channel_that_ends_gives_back_what_it_holds(stage: Staging) -> None:
    consuming(stage)
    stage.broker(deliver(1), deliver(2))
    stage.broker(commands.Channel.Close(406, "", 0, 0))
    tally = stage.view.tallies["orders"]
    assert (tally.held, tally.lost, stage.view.consumers) == (0, 2, {})


def test_a_cancelled_consumer_may_still_settle(stage: Staging) -> None:
    consumer = consuming(stage)
    stage.broker(deliver(1))
    stage.client(commands.Basic.Cancel("c"))
    assert stage.view.consumers == {}
    stage.client(ACK)
    assert (consumer.held, stage.view.tallies["orders"].acked) == (0, 1)


def test_the_broker_may_cancel_a_consumer(stage: Staging) -> None:
    consuming(stage)
    stage.broker(commands.Basic.Cancel("c"))
    assert stage.view.consumers == {}


def test_deliveries_without_acknowledgements_are_only_counted(stage: Staging) -> None:
    consumer = consuming(stage, no_ack=True)
    stage.broker(deliver(1), deliver(2))
    tally = stage.view.tallies["orders"]
    assert (tally.delivered, tally.unseen, tally.held, consumer.held) == (2, 2, 0, 0)


def test_messages_that_are_fetched_one_by_one_are_counted(stage: Staging) -> None:
    stage.client(commands.Basic.Get(0, "orders"), commands.Basic.Get(0, "orders"))
    stage.broker(commands.Basic.GetEmpty(), commands.Basic.GetOk(1, False, "", "orders", 0))
    tally = stage.view.tallies["orders"]
    assert (tally.got, tally.delivered, tally.held) == (1, 1, 1)
    stage.client(ACK)
    assert (tally.acked, tally.held) == (1, 0)


def test_acknowledgements_count_when_their_transaction_is_committed(stage: Staging) -> None:
    consuming(stage)
    stage.client(commands.Tx.Select())
    stage.broker(commands.Tx.SelectOk(), deliver(1), deliver(2))
    stage.client(ACK, commands.Tx.Rollback())
    stage.broker(commands.Tx.RollbackOk())
    tally = stage.view.tallies["orders"]
    assert tally.acked == 0
    stage.client(ACK, commands.Tx.Commit())
    stage.broker(commands.Tx.CommitOk())
    assert (tally.acked, tally.held) == (1, 1)


def test_what_is_recovered_is_delivered_anew(stage: Staging) -> None:
    consuming(stage)
    stage.broker(deliver(1))
    stage.client(commands.Basic.Recover(True))
    stage.broker(commands.Basic.RecoverOk(), deliver(2, redelivered=True))
    tally = stage.view.tallies["orders"]
    assert (tally.held, tally.lost, tally.delivered) == (1, 1, 2)


def test_an_empty_name_is_the_queue_that_was_declared_last(stage: Staging) -> None:
    stage.client(commands.Queue.Declare(0, ""))
    stage.broker(commands.Queue.DeclareOk("amq.gen-1", 0, 0))
    stage.client(commands.Queue.Bind(0, "", "events", "k"), commands.Basic.Consume(0, "", "c", nowait=True))
    assert stage.view.topology.queues("events", "k") == {"amq.gen-1"}
    assert [consumer.queue for consumer in stage.view.consumers.values()] == ["amq.gen-1"]


def test_a_consumer_gets_no_more_prefetch_than_keeps_it_busy() -> None:
    stage = Staging(prefetch_auto=True)
    stage.client(commands.Basic.Qos(0, 500, False), commands.Basic.Consume(0, "orders", "c"))
    sent = stage.to_broker()
    assert names(sent) == ["Basic.Qos", "Basic.Qos", "Basic.Consume"]
    assert method_frame(1, commands.Basic.Qos(0, 10, False)) in sent
    stage.broker(commands.Basic.QosOk(), commands.Basic.QosOk(), commands.Basic.ConsumeOk("c"))
    assert names(stage.to_client()) == ["Basic.QosOk", "Basic.ConsumeOk"]
    [consumer] = stage.view.consumers.values()
    assert consumer.prefetch == 10


def test_the_next_consumer_gets_what_the_last_one_needed() -> None:
    stage = Staging(prefetch_auto=True)
    consuming(stage, prefetch=0)
    for tag in range(1, 31):
        stage.broker(deliver(tag))
        stage.time.at += 0.01
        stage.client(commands.Basic.Ack(tag, False))
    stage.client(commands.Basic.Cancel("c"), commands.Basic.Consume(0, "orders", "d"))
    assert method_frame(1, commands.Basic.Qos(0, 7, False)) in stage.to_broker()  # 1 in work, 4 for 40 ms, 2 to spare


def test_a_prefetch_of_the_whole_channel_counts_at_once_and_any_other_for_the_next_consumer(stage: Staging) -> None:
    consumer = consuming(stage, prefetch=10)
    stage.client(commands.Basic.Qos(0, 20, False))
    assert consumer.prefetch == 10
    stage.client(commands.Basic.Qos(0, 8, True))
    assert consumer.prefetch == 8
    stage.client(commands.Basic.Qos(0, 15, True))
    assert consumer.prefetch == 10


def test_ending_the_prefetch_of_a_channel_leaves_each_consumer_its_own(stage: Staging) -> None:
    consumer = consuming(stage, prefetch=10)
    stage.client(commands.Basic.Qos(0, 8, True), commands.Basic.Qos(0, 0, True))
    assert consumer.prefetch == 10
    stage.client(commands.Basic.Consume(0, "orders", "next"))
    stage.broker(commands.Basic.ConsumeOk("next"))
    assert [one.prefetch for one in stage.view.consumers.values()] == [10, 10]
    stage.client(commands.Basic.Qos(0, 8, True), commands.Basic.Qos(0, 20, False))  # ends the channel's as well
    assert [one.prefetch for one in stage.view.consumers.values()] == [10, 10]


def test_a_smaller_prefetch_and_consumers_without_acknowledgements_are_left_alone() -> None:
    stage = Staging(prefetch_auto=True)
    stage.client(commands.Basic.Qos(0, 3, False), commands.Basic.Consume(0, "orders", "c"))
    stage.client(commands.Basic.Consume(0, "orders", "d", no_ack=True))
    assert names(stage.to_broker()) == ["Basic.Qos", "Basic.Consume", "Basic.Consume"]


def test_a_prefetch_that_consumers_of_a_channel_share_is_left_alone() -> None:
    stage = Staging(prefetch_auto=True)
    stage.client(commands.Basic.Qos(0, 500, True), commands.Basic.Consume(0, "orders", "c"))
    assert names(stage.to_broker()) == ["Basic.Qos", "Basic.Consume"]  # one for each consumer would end it
    stage.client(commands.Basic.Qos(0, 500, False), commands.Basic.Consume(0, "orders", "d"))
    assert names(stage.to_broker()) == ["Basic.Qos", "Basic.Qos", "Basic.Consume"]


# --- how long messages wait -------------------------------------------------------------------------------------------


def waits_of(stage: Staging) -> list[float]:
    """The shortest and the longest wait, and how many there were."""
    wait = stage.view.tallies["orders"].wait
    return [round(wait.least_s or 0.0, 3), round(wait.most_s or 0.0, 3), wait.total]


def test_the_wait_is_from_leaving_the_proxy_to_the_start_of_the_work(stage: Staging) -> None:
    consuming(stage)
    stage.client(publish("orders"), publish("orders"))
    stage.after(0.11)  # the second one has waited here
    stage.time.at += 0.25
    stage.broker(deliver(1), deliver(2))
    stage.time.at += 0.1
    stage.client(ACK)
    stage.time.at += 0.1
    stage.client(commands.Basic.Ack(2, False))
    assert waits_of(stage) == [0.36, 0.36, 2]  # it left 0.1 s later, and its work began 0.1 s later
    [consumer] = stage.view.consumers.values()
    assert consumer.wait.total == 2


@pytest.mark.parametrize("piece", [1, 9, 1000])
def test_a_message_that_comes_and_goes_in_pieces_is_found_again(stage: Staging, piece: int) -> None:
    consuming(stage)
    sent = publish("orders", b"x") * 2 + publish("orders", b"y" * 700)
    for at in range(0, len(sent), piece):
        stage.client(sent[at : at + piece])
    stage.after(0.3)
    came = deliver(1) + deliver(2) + deliver(3, body=b"y" * 700)
    for at in range(0, len(came), piece):
        stage.broker(came[at : at + piece])
    stage.client(commands.Basic.Ack(3, True))
    assert waits_of(stage)[2] == 3


def test_messages_of_others_and_those_that_come_again_tell_no_wait(stage: Staging) -> None:
    consuming(stage)
    stage.client(publish("orders"))
    stage.broker(deliver(1, body=b"of somebody else"), deliver(2, redelivered=True))
    stage.client(commands.Basic.Ack(0, True))
    assert stage.view.tallies["orders"].wait.total == 0


def test_nothing_is_kept_where_nobody_consumes_here(stage: Staging) -> None:
    stage.client(publish("orders"))
    assert stage.orders.departures is None
    consuming(stage)
    assert stage.orders.departures is not None
    stage.client(commands.Basic.Cancel("c"))
    assert stage.orders.departures is None


# --- nonsense ---------------------------------------------------------------------------------------------------------


def test_what_is_not_amqp_goes_to_the_other_side_after_what_waited(stage: Staging) -> None:
    stage.client(publish("orders") * 3)
    stage.client(b"\x09nonsense")
    assert stage.to_broker() == publish("orders") * 3 + b"\x09nonsense"
    stage.client(publish("orders") * 3)
    assert stage.to_broker() == publish("orders") * 3
    assert not stage.relay.holds


@pytest.mark.parametrize("payload", [b"", b"\x00\x3c", b"\x00\x3c\x00"])
def test_a_frame_too_short_for_a_method_waits_behind_messages(stage: Staging, payload: bytes) -> None:
    short = frame(1, 1, payload)
    stage.client(publish("orders") * 2, short)
    stage.relay.leaving(stage.time.at)
    assert stage.to_broker() == publish("orders") * 2 + short


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"AMQP\x00\x00\x09\x01", ""),
        (b"AM", ""),
        (b"AMQP\x00\x01\x00\x00", "AMQP 1.0"),
        (b"AMQP\x03\x01\x00\x00", "AMQP 1.0"),
        (b"AMQP\x00\x00\x09\x00", "another version of AMQP"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"\x10\x0e\x00\x04MQTT", "MQTT"),
        (b"GET / HTTP/1.1", "HTTP"),
        (b"hello", "no AMQP"),
    ],
)
def test_other_protocols_are_told_by_their_first_octets(header: bytes, name: str) -> None:
    assert foreign_protocol(header) == name


def test_a_broker_that_delivers_a_tag_twice_leaves_nothing_behind(stage: Staging) -> None:
    consuming(stage)
    stage.broker(deliver(2), deliver(2), deliver(1))
    assert stage.view.tallies["orders"].held == 1
    stage.client(commands.Basic.Ack(2, True))
    assert stage.view.tallies["orders"].held == 0


def test_a_consumer_tag_that_is_used_twice_leaves_nothing_behind(stage: Staging) -> None:
    consuming(stage)
    stage.client(commands.Basic.Consume(0, "orders", "c", nowait=True))
    assert len(stage.view.consumers) == 1
    stage.relay.lost(stage.time.at)
    assert stage.view.consumers == {}


METHODS = st.integers(0, 0xFFFFFFFF) | st.sampled_from([60 << 16 | n for n in (20, 40, 50, 60, 71, 80, 90, 120)])
FRAMES = st.builds(
    lambda kind, channel, index, rest: frame(kind, channel, index.to_bytes(4, "big") + rest),
    st.sampled_from([1, 1, 1, 2, 3, 8]),
    st.integers(0, 2),
    METHODS,
    st.binary(max_size=24),
)
SIDES = st.lists(st.tuples(st.booleans(), FRAMES | st.binary(max_size=12)), max_size=25)


@given(SIDES)
def test_whatever_both_sides_send_arrives_and_nothing_fails(story: list[tuple[bool, bytes]]) -> None:
    stage = Staging()
    relay: Relay = stage.relay
    expected = {True: b"", False: b""}
    for from_client, data in story:
        expected[from_client] += data
        (relay.from_client if from_client else relay.from_broker)(data, stage.time.at)
        stage.after(0.01)
    relay.leaving(stage.time.at)
    assert sorted(b"".join(relay.to_broker)) == sorted(expected[True])  # channels may overtake each other
    assert b"".join(relay.to_client) in expected[False]


WHOLE = [
    publish("orders"),
    publish("k", exchange="events"),
    deliver(1),
    *(
        method_frame(1, method)
        for method in (
            commands.Basic.Ack(1, True),
            commands.Basic.Consume(0, "orders", "c"),
            commands.Basic.ConsumeOk("c"),
            commands.Basic.GetOk(1, False, "", "orders", 0),
            commands.Basic.Return(312, "", "", "orders"),
            commands.Basic.Qos(0, 5, False),
            commands.Confirm.Select(),
            commands.Queue.Declare(0, "q", arguments={"a": 1}),
            commands.Channel.Close(200, "", 0, 0),
            commands.Channel.Open(),
        )
    ),
    *(
        method_frame(0, method)
        for method in (
            commands.Connection.StartOk({"capabilities": {"connection.blocked": True}}, "PLAIN", ""),
            commands.Connection.TuneOk(1, 4096, 10),
            commands.Connection.Close(200, "", 0, 0),
        )
    ),
]


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """Change, remove or insert some octets."""
    octets = bytearray(data)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(octets))
        octets[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
    return bytes(octets) or b"\x00"


def test_spoilt_frames_fail_nowhere_and_leave_nothing_behind() -> None:
    chance = random.Random(3)
    for case in range(3000):
        stage = Staging(prefetch_auto=bool(case % 2))
        for _ in range(chance.randrange(1, 6)):
            take = stage.relay.from_client if chance.random() < 0.5 else stage.relay.from_broker
            take(spoilt(chance.choice(WHOLE), chance), stage.time.at)
        stage.relay.tick(stage.time.at + 2, broker_written_at=0)
        stage.relay.leaving(stage.time.at)
        stage.relay.lost(stage.time.at)
        assert (stage.orders.waiting, len(stage.orders.outbox.in_flight), stage.view.consumers) == (0, 0, {})
        assert all(not tally.held for tally in stage.view.tallies.values())
