"""Queues with a test clock: order, bounds, time, fairness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backpressure.broker.entries import Backlog, Entry, QueuedMessage
from backpressure.broker.exchange import Exchange
from backpressure.broker.policy import Policy
from backpressure.broker.queue import Queue
from backpressure.broker.vhost import VirtualHost

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = b"\x00\x3c\x00\x00" + bytes(8) + b"\x00\x00"


def message(body: str = "x", *, expiration_s: float | None = None) -> QueuedMessage:
    return QueuedMessage("", "q", HEADER, body.encode(), expiration_s=expiration_s)


class Consumer:
    """Takes up to ``room`` messages."""

    def __init__(self, room: int = 1_000_000, *, priority: int = 0) -> None:
        self.room = room
        self.priority = priority
        self.taken: list[Entry] = []
        self.is_cancelled = False

    @property
    def ready(self) -> bool:
        return len(self.taken) < self.room

    def take(self, entry: Entry) -> None:
        self.taken.append(entry)

    def cancelled(self) -> None:
        self.is_cancelled = True


@pytest.fixture
def declare(vhost: VirtualHost) -> Callable[..., Queue]:
    def _declare(name: str = "q", **arguments: Any) -> Queue:
        named = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        return vhost.declare_queue(name, None, durable=True, exclusive=False, auto_delete=False, arguments=named)

    return _declare


def bodies(queue: Queue) -> list[str]:
    return [entry.message.body.decode() for entry in queue.ready]


class BacklogMachine(RuleBasedStateMachine):
    """The backlog is a sorted list, only faster."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog()
        self.model: list[int] = []
        self.out: list[Entry] = []
        self.next = 0

    @rule()
    def append(self) -> None:
        self.backlog.append(Entry(self.next, message(str(self.next))))
        self.model.append(self.next)
        self.next += 1

    @precondition(lambda self: self.model)
    @rule()
    def take(self) -> None:
        assert self.backlog.head().sequence == self.model[0]
        entry = self.backlog.take()
        assert entry.sequence == self.model.pop(0)
        self.out.append(entry)

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 1000))
    def give_back(self, index: int) -> None:
        entry = self.out.pop(index % len(self.out))
        self.backlog.give_back(entry)
        self.model = sorted([*self.model, entry.sequence])

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert [entry.sequence for entry in self.backlog] == self.model
        assert len(self.backlog) == len(self.model)
        assert self.backlog.body_bytes == sum(len(str(number)) for number in self.model)


TestBacklogIsASortedList = BacklogMachine.TestCase


@given(max_length=st.integers(0, 5), sizes=st.lists(st.integers(0, 3), max_size=30), taken=st.integers(0, 5))
def test_drop_head_never_holds_more_than_its_bound(max_length: int, sizes: list[int], taken: int) -> None:
    vhost = VirtualHost()
    arguments = {"x-max-length": max_length, "x-max-length-bytes": 6}
    queue = vhost.declare_queue("q", None, durable=True, exclusive=False, auto_delete=False, arguments=arguments)
    for size in sizes:
        assert queue.push(message("x" * size))
        assert len(queue) <= max_length
        assert queue.ready.body_bytes <= 6
    held = [entry for _ in range(taken) if (entry := queue.take()) is not None]
    queue.requeue(held)
    assert len(queue) <= max_length
    queue.purge()
    assert (vhost.memory.used_bytes, queue.unacked) == (0, 0)


def test_messages_expire_when_their_time_comes_and_not_before(
    vhost: VirtualHost, declare: Callable[..., Queue]
) -> None:
    queue = declare(message_ttl=1000)
    queue.push(message("first"))
    vhost.advance(0.5)
    queue.push(message("second"))
    vhost.advance(0.999)
    assert bodies(queue) == ["first", "second"]
    vhost.advance(1.0)
    assert bodies(queue) == ["second"]
    assert vhost.timers.next_deadline() == 1.5
    vhost.advance(1.5)
    assert bodies(queue) == []


def test_a_message_is_judged_when_it_comes_to_the_head(vhost: VirtualHost, declare: Callable[..., Queue]) -> None:
    queue = declare()
    queue.push(message("stays"))
    queue.push(message("late", expiration_s=1.0))
    vhost.advance(5.0)
    assert bodies(queue) == ["stays", "late"]
    assert queue.take() is not None
    vhost.advance(5.0)
    assert bodies(queue) == []


def test_a_requeued_message_keeps_its_time(vhost: VirtualHost, declare: Callable[..., Queue]) -> None:
    queue = declare(message_ttl=1000)
    queue.push(message())
    entry = queue.take()
    assert entry is not None
    vhost.advance(2.0)
    queue.requeue([entry])
    assert (len(queue), queue.unacked, vhost.memory.used_bytes) == (0, 0, 0)


def test_an_unused_queue_expires_from_its_last_use(vhost: VirtualHost, declare: Callable[..., Queue]) -> None:
    queue = declare(expires=1000)
    vhost.advance(0.9)
    declare(expires=1000)  # declaring again is a use
    vhost.advance(1.8)
    consumer = Consumer()
    queue.subscribe(consumer)
    vhost.advance(100.0)
    assert "q" in vhost.queues
    queue.unsubscribe(consumer)
    vhost.advance(101.0)
    assert "q" not in vhost.queues


def test_equals_take_turns_and_the_higher_priority_goes_first(declare: Callable[..., Queue]) -> None:
    queue = declare()
    low, high, other = Consumer(), Consumer(3, priority=1), Consumer()
    for consumer in (low, high, other):
        queue.subscribe(consumer)
    for number in range(9):
        queue.push(message(str(number)))
    taken = [[entry.message.body.decode() for entry in consumer.taken] for consumer in (high, low, other)]
    assert taken == [["0", "1", "2"], ["3", "5", "7"], ["4", "6", "8"]]


def test_a_deleted_queue_cancels_its_consumers_and_forgets_what_they_hold(
    vhost: VirtualHost, declare: Callable[..., Queue]
) -> None:
    queue, consumer = declare(), Consumer(1)
    queue.subscribe(consumer)
    for _ in range(3):
        queue.push(message())
    assert vhost.delete_queue(queue) == 2
    assert consumer.is_cancelled
    queue.requeue(consumer.taken)
    assert (len(queue), vhost.memory.used_bytes) == (0, 0)


def test_a_bound_put_in_force_later_cuts_at_once_and_dead_letters(
    vhost: VirtualHost, declare: Callable[..., Queue]
) -> None:
    dead = declare("dead")
    queue = declare(dead_letter_exchange="", dead_letter_routing_key="dead")
    for number in range(5):
        queue.push(message(str(number)))
    policy = {"pattern": "^q$", "definition": {"max-length": 2}}
    vhost.set_policy(Policy.parse("p", policy))
    assert (bodies(queue), bodies(dead)) == (["3", "4"], ["0", "1", "2"])
    vhost.delete_policy("p")
    queue.push(message("5"))
    assert bodies(queue) == ["3", "4", "5"]


def test_a_defect_in_one_dead_letter_does_not_end_dead_lettering(
    vhost: VirtualHost, declare: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, queue = declare("dead"), declare(max_length=0, dead_letter_exchange="", dead_letter_routing_key="dead")
    with monkeypatch.context() as patch:
        patch.setattr(VirtualHost, "_bury", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            queue.push(message("first"))
    queue.push(message("second"))
    assert bodies(dead) == ["second"]


def test_deleting_a_queue_looks_only_at_the_exchanges_it_is_bound_to(
    vhost: VirtualHost, declare: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, looked_at = declare(), []
    for number in range(100):
        vhost.declare_exchange(f"e{number}", "fanout", durable=False, auto_delete=True, internal=False, arguments={})
        vhost.bind(f"e{number}", declare("other"), "", {})
    for name in ("e1", "e2", "e3"):
        vhost.bind(name, queue, "", {})
    vhost.unbind("e2", queue, "", {})
    vhost.delete_exchange("e3")
    unbind_all = Exchange.unbind_all

    def look(exchange: Exchange, destination: Any) -> bool:
        looked_at.append(exchange.name)
        return unbind_all(exchange, destination)

    monkeypatch.setattr(Exchange, "unbind_all", look)
    vhost.delete_queue(queue)
    assert set(looked_at) <= {"e1", "e2"}
    assert [binding.destination.name for binding in vhost.exchanges["e1"].bindings] == ["other"]
