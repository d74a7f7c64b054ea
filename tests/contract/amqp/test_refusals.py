"""What both brokers refuse, with the same code and text, and what they accept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pamqp import base, commands, header

from backpressure.amqp.methods import method_frame

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_EXCHANGE = "ACCESS_REFUSED - operation not permitted on the default exchange"
LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{0}' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the original declaration."
)


@pytest.fixture
def ask(raw_open: Any) -> Callable[[base.Frame], Any]:
    """Send one method on channel 1; what comes back, a refusal as its code, text and method."""

    def _ask(method: base.Frame) -> Any:
        raw_open.send(method_frame(1, method))
        answer = raw_open.receive()
        if isinstance(answer, (commands.Channel.Close, commands.Connection.Close)):
            return answer.reply_code, answer.reply_text, (answer.class_id, answer.method_id)
        return answer

    return _ask


def named(method: Any, **names: str) -> Any:
    """The method with names that ``pamqp`` would not take."""
    for field, name in names.items():
        setattr(method, field, name)
    return method


@pytest.mark.parametrize("missing", [("queue",), ("exchange",), ("queue", "exchange")])
def test_unbinding_a_queue_that_does_not_exist_or_from_an_exchange_that_does_not_is_not_an_error(
    ask: Any, queue: str, missing: tuple[str, ...]
) -> None:
    names = {"queue": queue, "exchange": "amq.direct", **dict.fromkeys(missing, "contract.missing")}
    assert isinstance(ask(commands.Queue.Unbind(routing_key="k", **names)), commands.Queue.UnbindOk)


@pytest.mark.parametrize("missing", [("destination",), ("source",), ("destination", "source")])
def test_unbinding_exchanges_that_do_not_exist_is_not_an_error(ask: Any, missing: tuple[str, ...]) -> None:
    names = {"destination": "amq.direct", "source": "amq.fanout", **dict.fromkeys(missing, "contract.missing")}
    assert isinstance(ask(commands.Exchange.Unbind(routing_key="k", **names)), commands.Exchange.UnbindOk)


@pytest.mark.parametrize(
    "method",
    [
        commands.Queue.Unbind(queue="contract.missing", exchange="", routing_key="k"),
        commands.Exchange.Unbind(destination="contract.missing", source="", routing_key="k"),
        commands.Exchange.Unbind(destination="", source="amq.direct", routing_key="k"),
    ],
)
def test_nothing_is_unbound_from_the_default_exchange(ask: Any, method: base.Frame) -> None:
    assert ask(method)[:2] == (403, DEFAULT_EXCHANGE)


def test_names_lose_their_line_breaks_where_they_are_declared_bound_and_deleted(
    ask: Any, channel: Any, name: Callable[[], str]
) -> None:
    queue, exchange = name(), name()
    assert ask(named(commands.Queue.Declare(), queue=f"{queue}\r\n")).queue == queue
    assert isinstance(ask(named(commands.Exchange.Declare(), exchange=f"\n{exchange}")), commands.Exchange.DeclareOk)
    channel.exchange_declare(exchange, passive=True)
    bind = named(commands.Queue.Bind(routing_key="k"), queue=f"{queue}\n", exchange=f"{exchange}\r")
    assert isinstance(ask(bind), commands.Queue.BindOk)
    channel.basic_publish(exchange, "k", b"x", mandatory=True)
    assert ask(named(commands.Queue.Delete(), queue=f"\n{queue}")).message_count == 1


def test_names_keep_their_line_breaks_where_messages_are_sent_and_taken(ask: Any, queue: str) -> None:
    refusal = (404, f"NOT_FOUND - no queue '{queue}\n' in vhost '/'", (60, 70))
    assert ask(named(commands.Basic.Get(), queue=f"{queue}\n")) == refusal


def test_a_name_of_line_breaks_is_not_a_name(ask: Any) -> None:
    assert ask(named(commands.Queue.Declare(exclusive=True), queue="\r\n")).queue.startswith("amq.gen-")


def test_a_shared_queue_is_not_redeclared_as_exclusive(ask: Any, queue: str) -> None:
    refusal = ask(commands.Queue.Declare(queue=queue, exclusive=True, durable=True))
    assert refusal == (405, LOCKED.format(queue), (50, 10))


def test_an_exclusive_queue_is_not_redeclared_as_shared(ask: Any) -> None:
    queue = str(uuid4())  # goes with its connection
    ask(commands.Queue.Declare(queue=queue, exclusive=True))
    assert ask(commands.Queue.Declare(queue=queue)) == (405, LOCKED.format(queue), (50, 10))


def test_an_exclusive_queue_is_never_durable(ask: Any) -> None:
    queue = str(uuid4())
    ask(commands.Queue.Declare(queue=queue, exclusive=True, durable=True))
    assert ask(commands.Queue.Declare(queue=queue, exclusive=True, durable=False)).queue == queue


def test_a_name_that_the_broker_gave_is_not_declared_again(ask: Any) -> None:
    queue = ask(commands.Queue.Declare(exclusive=True)).queue
    assert ask(commands.Queue.Declare(queue=queue, passive=True)).queue == queue
    reason = f"ACCESS_REFUSED - queue name '{queue}' contains reserved prefix 'amq.*'"
    assert ask(commands.Queue.Declare(queue=queue, exclusive=True)) == (403, reason, (50, 10))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("every", 'value <<"every">>; expected all, any, all-with-x, or any-with-x'),
        ("ALL", 'value <<"ALL">>; expected all, any, all-with-x, or any-with-x'),
        (1, "type signedint (value 1); expected longstr"),
        (True, "type bool (value true); expected longstr"),
    ],
)
def test_a_headers_exchange_refuses_an_x_match_that_it_does_not_know(
    ask: Any, queue: str, value: Any, problem: str
) -> None:
    bind = commands.Queue.Bind(queue=queue, exchange="amq.headers", arguments={"x-match": value})
    assert ask(bind)[:2] == (406, f"PRECONDITION_FAILED - Invalid x-match field {problem}")


def test_another_exchange_takes_any_x_match(ask: Any, queue: str) -> None:
    bind = commands.Queue.Bind(queue=queue, exchange="amq.direct", arguments={"x-match": "every"})
    assert isinstance(ask(bind), commands.Queue.BindOk)


@pytest.mark.parametrize(("value", "kind"), [("5", "longstr"), (5.0, "double"), (True, "bool")])
def test_a_consumers_priority_is_a_whole_number(ask: Any, queue: str, value: Any, kind: str) -> None:
    consume = commands.Basic.Consume(queue=queue, consumer_tag="t", arguments={"x-priority": value})
    reason = f"invalid arg 'x-priority' for queue '{queue}' in vhost '/': \"expected integer, got {kind}\""
    assert ask(consume)[:2] == (406, f"PRECONDITION_FAILED - {reason}")


@pytest.mark.parametrize(("value", "shown"), [(10.0, "'10.0'"), (None, "none")])
def test_a_bound_of_another_type_is_another_bound(ask: Any, name: Callable[[], str], value: Any, shown: str) -> None:
    queue = name()
    ask(commands.Queue.Declare(queue=queue, arguments={"x-message-ttl": 10}))
    refusal = ask(commands.Queue.Declare(queue=queue, arguments={"x-message-ttl": value}))
    reason = f"inequivalent arg 'x-message-ttl' for queue '{queue}' in vhost '/': received {shown} but current is '10'"
    assert refusal[:2] == (406, f"PRECONDITION_FAILED - {reason}")


@pytest.mark.parametrize(
    ("octets", "got"),
    [
        (b"\x00\x32\x00\x00", "one for class 50"),
        (b"\x00\x00\x00\x00", "one for class 0"),
        (b"\x00\x3c\x00\x07", "non content header frame"),
    ],
)
def test_a_content_header_is_of_the_class_of_its_method_and_without_weight(
    raw_open: Any, octets: bytes, got: str
) -> None:
    raw_open.send(commands.Basic.Publish(routing_key="contract.missing"), channel=1)
    raw_open.send(b"\x02\x00\x01\x00\x00\x00\x0e" + octets + bytes(10) + b"\xce")
    closed = raw_open.expect(commands.Connection.Close)
    reason = f"UNEXPECTED_FRAME - expected content header for class 60, got {got} instead"
    assert (closed.reply_code, closed.reply_text) == (505, reason)


@pytest.mark.parametrize(
    "method",
    [
        commands.Channel.Flow(active=False),
        commands.Basic.Qos(prefetch_size=10),
        commands.Basic.Recover(requeue=False),
    ],
)
def test_unimplemented_methods_are_refused_by_name(ask: Any, method: base.Frame) -> None:
    code, _, named = ask(method)
    assert (code, named) == (540, (method.index >> 16, method.index & 0xFFFF))


def test_a_client_of_amqp_0_8_gets_the_ticket_it_asks_for(raw_open: Any) -> None:
    raw_open.send(b"\x01\x00\x01\x00\x00\x00\x07\x00\x1e\x00\x0a\x01/\x00\xce")
    assert raw_open.socket.recv(100) == b"\x01\x00\x01\x00\x00\x00\x06\x00\x1e\x00\x0b\x00\x01\xce"


def test_a_new_password_is_accepted_on_an_open_connection(raw_open: Any) -> None:
    raw_open.send(commands.Connection.UpdateSecret("guest", "renewed"))
    raw_open.expect(commands.Connection.UpdateSecretOk)


def test_a_payload_may_be_as_large_as_a_frame(raw: Any, queue: str) -> None:
    raw.handshake(frame_max=4096)
    raw.open_channel()
    raw.send(commands.Confirm.Select(), commands.Basic.Publish(routing_key=queue), channel=1)
    raw.send(header.ContentHeader(body_size=4096), channel=1)
    raw.send(b"\x03\x00\x01\x00\x00\x10\x00" + bytes(4096) + b"\xce")
    raw.expect(commands.Confirm.SelectOk)
    raw.expect(commands.Basic.Ack)
    raw.send(commands.Basic.Publish(routing_key=queue), header.ContentHeader(body_size=4097), channel=1)
    raw.send(b"\x03\x00\x01\x00\x00\x10\x01" + bytes(4097) + b"\xce")
    assert raw.expect(commands.Connection.Close).reply_code == 501
