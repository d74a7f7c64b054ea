"""One channel that passes through the proxy: what its client publishes, consumes and settles.

Every frame of the client is either let through or waits in the channel's lane, in its order. What may overtake waiting
messages says nothing about them: settlements of deliveries, subscriptions, and declarations that only add something.
In a transaction nothing overtakes anything.
Must not know: sockets, other channels.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pamqp import commands

from backpressure.amqp.frames import (
    ACK,
    DELIVER,
    FRAME_HEADER,
    GET_OK,
    NACK,
    PUBLISH,
    REJECT,
    RETURN,
    DecodeError,
)
from backpressure.amqp.methods import ACCESS_REQUEST, decode_method, method_frame
from backpressure.core.limiters import ConfirmWindow
from backpressure.proxy.paced_queue import ChannelLane, Forward, HeldItem, PacedQueue
from backpressure.proxy.view import View
from backpressure.proxy.watching import Delivered, Departures, WatchedConsumer

_PUBLISH = PUBLISH.to_bytes(4, "big")
_TAG = struct.Struct(">QB")
_BODY_SIZE = struct.Struct(">Q")
_BODY_SIZE_AT = 7 + 4  # in a header frame: behind class and weight
_LOOK_AT_OCTETS = 256
_UNLIMITED = 1 << 62
_QOS_OK = commands.Basic.QosOk.index
_SETTLEMENTS = frozenset((ACK, NACK, REJECT))
_ADDITIONS = frozenset(
    method.index
    for method in (
        commands.Basic.Qos,
        commands.Basic.Consume,
        commands.Basic.Cancel,
        commands.Basic.Recover,
        commands.Basic.RecoverAsync,
        commands.Exchange.Declare,
        commands.Exchange.Bind,
        commands.Queue.Declare,
        commands.Queue.Bind,
        commands.Channel.Flow,
        commands.Channel.FlowOk,
    )
) | {ACCESS_REQUEST}


@dataclass(slots=True)
class _Request:
    """What the client asked for and the broker has not answered: a subscription, or a single message."""

    queue: str
    no_ack: bool
    prefetch: int = 0


class Content:
    """The content of a message that is passing, until its marks are known: its size and how its body begins."""

    __slots__ = ("_came", "_left", "_size")

    def __init__(self, left: list[tuple[Departures, float]], came: Delivered | None = None) -> None:
        """It has ``left`` for queues, at a time each, or it ``came`` from the one that ``left`` names."""
        self._left = left
        self._came = came
        self._size = 0

    def take(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Take a content frame; return whether nothing more is needed."""
        if kind == FRAME_HEADER:
            if end - start < _BODY_SIZE_AT + _BODY_SIZE.size + 1:
                return True  # the other side will refuse it
            (self._size,) = _BODY_SIZE.unpack_from(data, start + _BODY_SIZE_AT)
            if self._size:
                return False
        marks = hash((self._size, data[start + 7 : min(end - 1, start + 7 + _LOOK_AT_OCTETS)] if self._size else b""))
        for departures, at in self._left:
            if self._came is None:
                departures.left(marks, at)
            else:
                self._came.consumer.seen_to_leave(self._came, departures.came(marks))
        return True


@dataclass(slots=True)
class _Settlement:
    """An acknowledgement that takes effect when its transaction is committed."""

    method: int
    tag: int
    multiple: bool
    requeue: bool


class RelayChannel:
    """The state of one channel.

    Attributes:
        lane: what waits.
        prefix: a frame of the proxy to be sent before the frame that `passes` has just looked at.
        incoming: the waiting message whose content is arriving, if the content that arrives belongs to one.
        leaving, coming: content that passes to or from the broker and is to be looked at.
    """

    __slots__ = (
        "_asked_qos",
        "_confirms",
        "_consumers",
        "_gets",
        "_last_queue",
        "_last_tag",
        "_number",
        "_polls",
        "_prefetch",
        "_published",
        "_settlements",
        "_shared",
        "_subscribing",
        "_transaction",
        "_unacked",
        "_unconfirmed",
        "_view",
        "coming",
        "incoming",
        "lane",
        "leaving",
        "prefix",
    )

    def __init__(self, number: int, view: View, forward: Forward) -> None:
        """``forward`` sends frames to the broker."""
        self._number = number
        self.prefix = b""
        self._asked_qos: deque[bool] = deque()
        self.lane = ChannelLane(forward, self._sent)
        self.incoming: HeldItem | None = None
        self.leaving: Content | None = None
        self.coming: Content | None = None
        self._view = view
        self._confirms = self._transaction = False
        self._published = 0
        self._unconfirmed: ConfirmWindow[tuple[tuple[PacedQueue, ...], float]] = ConfirmWindow(_UNLIMITED)
        self._consumers: dict[bytes, WatchedConsumer] = {}
        self._polls: dict[str, WatchedConsumer] = {}
        self._subscribing: deque[_Request] = deque()
        self._gets: deque[_Request] = deque()
        self._unacked: ConfirmWindow[Delivered] = ConfirmWindow(_UNLIMITED)
        self._settlements: list[_Settlement] = []
        self._prefetch = 0
        self._shared = 0
        self._last_queue = ""
        self._last_tag = 0

    # --- from the client --------------------------------------------------------------------------------------------

    def passes(self, method: int, data: bytes, start: int, end: int, now: float) -> bool:
        """Take a method frame of the client; return whether it goes at once.

        Otherwise the caller hands it to `hold`, after it has sent what came before. The frame stands at ``start`` …
        ``end`` in ``data``.
        """
        if method == PUBLISH:
            return self._may_publish(data, start, end, now)
        self.incoming = self.leaving = None
        if method in _SETTLEMENTS:
            self._settle(method, data, start, end, now)
        else:
            self._note(data[start + 7 : end - 1])
        if not self.lane:
            return True
        if self._transaction:
            return False
        return method in _SETTLEMENTS or (method in _ADDITIONS and self.lane.only_messages)

    def _may_publish(self, data: bytes, start: int, end: int, now: float) -> bool:
        self.incoming = self.leaving = None
        if self._confirms:
            self._published += 1
        queues = self._view.queues_of(data[start + 13 : end - 2])
        if self.lane:
            return False
        for queue in queues:
            if not queue.admits(now):
                return False
        for queue in queues:
            queue.arrived += 1
            queue.grant(now)
        if queues:
            self._count_sent(queues, self._published if self._confirms else 0, 0.0, now)
            self.leaving = _leaving(queues, now)
        return True

    def hold(self, frame: bytes, now: float) -> None:
        """Let a method frame of the client wait that `passes` has refused."""
        message = frame[7:11] == _PUBLISH  # a frame may be too short for a method: the broker will refuse it
        queues = self._view.queues_of(frame[13:-2]) if message else ()
        for queue in queues:
            queue.arrived += 1
        tag = self._published if message and self._confirms else 0
        if self.prefix:
            frame, self.prefix = self.prefix + frame, b""
        held = HeldItem(frame, queues, now, message=message, tag=tag)
        if self.lane.add(held, now) and message:
            self.incoming = held

    def content_passes(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Take a content frame of the client; return whether it goes at once. Otherwise `content` gets it."""
        if self.incoming is not None:
            return False
        if self.leaving is not None and self.leaving.take(kind, data, start, end):
            self.leaving = None
        return True

    def content(self, frame: bytes) -> None:
        """Add a content frame of the client to ``incoming``."""
        assert self.incoming is not None
        self.lane.append(self.incoming, frame)

    def _sent(self, held: HeldItem, now: float) -> None:
        arriving = self.incoming is held
        if arriving:
            self.incoming = None  # the rest of it is forwarded as it comes
        if held.queues:
            self._count_sent(held.queues, held.tag, now - held.since, now)
            leaving = _leaving(held.queues, now)
            whole = leaving is None or any(leaving.take(frame[0], frame, 0, len(frame)) for frame in held.frames[1:3])
            if arriving and not whole:
                self.leaving = leaving

    def _count_sent(self, queues: tuple[PacedQueue, ...], tag: int, held_s: float, now: float) -> None:
        for queue in queues:
            queue.sent(confirms=tag > 0, held_s=held_s)
        if tag:
            self._unconfirmed.sent(tag, (queues, now))

    def _settle(self, method: int, data: bytes, start: int, end: int, now: float) -> None:
        if end - start < 20:
            return  # the broker will refuse it
        tag, flags = _TAG.unpack_from(data, start + 11)
        multiple = method != REJECT and bool(flags & 1)
        requeue = bool(flags & (2 if method == NACK else 1)) and method != ACK
        settlement = _Settlement(method, tag, multiple, requeue)
        if self._transaction:
            self._settlements.append(settlement)
        else:
            self._apply(settlement, now)

    def _apply(self, settlement: _Settlement, now: float) -> None:
        if not settlement.tag and settlement.multiple:
            settled = self._unacked.lost()  # 0: everything so far
        else:
            settled = self._unacked.settle(settlement.tag, multiple=settlement.multiple)
        by_consumer: dict[WatchedConsumer, list[Delivered]] = {}
        for one in settled:
            by_consumer.setdefault(one.consumer, []).append(one)
        for consumer, messages in by_consumer.items():
            consumer.settle(messages, now, gone=not settlement.requeue, acked=settlement.method == ACK)

    def _note(self, payload: bytes) -> None:
        """Learn from a method of the client that is not about a single message."""
        try:
            decoded = decode_method(payload)
        except DecodeError:
            return  # the broker will refuse it
        learn = self._LEARN.get(type(decoded))
        if learn is not None:
            learn(self, decoded)
        else:
            self._view.topology.learn(decoded, self._last_queue)

    def _select_confirms(self, _method: commands.Confirm.Select) -> None:
        self._confirms = True

    def _select_transactions(self, _method: commands.Tx.Select) -> None:
        self._transaction = True

    def _set_prefetch(self, method: commands.Basic.Qos) -> None:
        self._asked_qos.append(False)
        if not method.global_:
            self._prefetch = method.prefetch_count  # of each consumer that subscribes from now on
        # That of the whole channel counts at once; the other kind ends it.
        self._shared = method.prefetch_count if method.global_ else 0
        for consumer in self._consumers.values():
            consumer.shared_prefetch = self._shared

    def _consume(self, method: commands.Basic.Consume) -> None:
        queue, prefetch = method.queue or self._last_queue, self._prefetch
        if self._view.prefetch_auto and not (method.no_ack or self._shared):
            enough = self._view.enough_prefetch(queue)
            if not prefetch or prefetch > enough:
                prefetch = enough
                self.prefix = method_frame(self._number, commands.Basic.Qos(0, enough, False))
                self._asked_qos.append(True)
        request = _Request(queue, method.no_ack, prefetch)
        if method.nowait:
            self._subscribed(method.consumer_tag or "", request)
        else:
            self._subscribing.append(request)

    def _get(self, method: commands.Basic.Get) -> None:
        self._gets.append(_Request(method.queue or self._last_queue, method.no_ack))

    def _cancel(self, method: commands.Basic.Cancel | commands.Basic.CancelOk) -> None:
        consumer = self._consumers.pop((method.consumer_tag or "").encode(), None)
        if consumer is not None:
            self._view.ended(consumer)

    def _declare(self, method: commands.Queue.Declare | commands.Queue.DeclareOk) -> None:
        self._last_queue = method.queue or self._last_queue

    # --- from the broker --------------------------------------------------------------------------------------------

    def answer(self, method: int, data: bytes, start: int, end: int, now: float) -> bool:
        """Take a method frame of the broker; return whether it is for the client, and not an answer to the proxy."""
        if method == _QOS_OK:
            return not (self._asked_qos and self._asked_qos.popleft())
        if method == DELIVER:
            self._deliver(data, start, now)
        elif method in {ACK, NACK}:
            self._confirm(method, data, start, end, now)
        elif method == GET_OK:
            self._got(data, start, now)
        elif method == RETURN:
            self._return(data[start + 13 : end - 1])
        else:
            self._note_answer(data[start + 7 : end - 1], now)
        return True

    def _deliver(self, data: bytes, start: int, now: float) -> None:
        at = start + 12 + data[start + 11]
        consumer = self._consumers.get(data[start + 12 : at])
        if consumer is not None:
            tag, redelivered = _TAG.unpack_from(data, at)
            if not self._tag_is_new(tag):
                return
            one = consumer.deliver(now, redelivered=bool(redelivered & 1))
            if one is not None:
                self._unacked.sent(tag, one)
                departures = consumer.departures
                if departures is not None and not redelivered & 1:
                    self.coming = Content([(departures, now)], one)

    def _tag_is_new(self, tag: int) -> bool:
        """Return whether the tag of a delivery is greater than all before it, as a broker's are."""
        if tag <= self._last_tag:
            return False
        self._last_tag = tag
        return True

    def _got(self, data: bytes, start: int, now: float) -> None:
        if not self._gets:
            return
        request = self._gets.popleft()
        consumer = self._polls.get(request.queue)
        if consumer is None:
            consumer = self._view.watch(request.queue, no_ack=False, prefetch=0, subscribed=False)
            self._polls[request.queue] = consumer
        tag, redelivered = _TAG.unpack_from(data, start + 11)
        if not self._tag_is_new(tag):
            return
        consumer.no_ack = request.no_ack
        one = consumer.deliver(now, redelivered=bool(redelivered & 1))
        self._view.tally(request.queue).got += 1
        if one is not None:
            self._unacked.sent(tag, one)

    def _confirm(self, method: int, data: bytes, start: int, end: int, now: float) -> None:
        if end - start < 20:
            return
        tag, flags = _TAG.unpack_from(data, start + 11)
        for queues, at in self._unconfirmed.settle(tag, multiple=bool(flags & 1)):
            for queue in queues:
                queue.answered(confirmed=method == ACK, latency_s=now - at)

    def _return(self, text_and_route: bytes) -> None:
        if text_and_route:
            for queue in self._view.queues_of(text_and_route[1 + text_and_route[0] :]):
                queue.outbox.returned += 1

    def _note_answer(self, payload: bytes, now: float) -> None:
        try:
            decoded = decode_method(payload)
        except DecodeError:
            return
        learn = self._LEARN_ANSWER.get(type(decoded))
        if learn is not None:
            learn(self, decoded, now)

    def _consume_ok(self, method: commands.Basic.ConsumeOk, _now: float) -> None:
        if self._subscribing:
            self._subscribed(method.consumer_tag or "", self._subscribing.popleft())

    def _get_empty(self, _method: commands.Basic.GetEmpty, _now: float) -> None:
        if self._gets:
            self._gets.popleft()

    def _cancelled(self, method: commands.Basic.Cancel, _now: float) -> None:
        self._cancel(method)

    def _recover_ok(self, _method: commands.Basic.RecoverOk, now: float) -> None:
        self._lose_unacked(now)

    def _declare_ok(self, method: commands.Queue.DeclareOk, _now: float) -> None:
        self._declare(method)

    def _rollback_ok(self, _method: commands.Tx.RollbackOk, _now: float) -> None:
        self._settlements.clear()

    def _commit_ok(self, _method: commands.Tx.CommitOk, now: float) -> None:
        for settlement in self._settlements:
            self._apply(settlement, now)
        self._settlements.clear()

    def _subscribed(self, tag: str, request: _Request) -> None:
        consumer = self._view.watch(request.queue, no_ack=request.no_ack, prefetch=request.prefetch)
        consumer.shared_prefetch = self._shared
        former = self._consumers.pop(tag.encode(), None)  # no broker takes a tag twice
        if former is not None:
            self._view.ended(former)
        self._consumers[tag.encode()] = consumer

    def _lose_unacked(self, now: float) -> None:
        lost: dict[WatchedConsumer, int] = {}
        for one in self._unacked.lost():
            lost[one.consumer] = lost.get(one.consumer, 0) + 1
        for consumer, count in lost.items():
            consumer.lose(count, now)

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self, now: float) -> None:
        """The channel is closed: the broker takes back what is unacked, and answers for nothing any more."""
        for consumer in self._consumers.values():
            self._view.ended(consumer)
        self._consumers.clear()
        self._lose_unacked(now)
        for queues, _ in self._unconfirmed.lost():
            for queue in queues:
                queue.forget(1)

    _LEARN: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        commands.Confirm.Select: _select_confirms,
        commands.Tx.Select: _select_transactions,
        commands.Basic.Qos: _set_prefetch,
        commands.Basic.Consume: _consume,
        commands.Basic.Get: _get,
        commands.Basic.Cancel: _cancel,
        commands.Basic.CancelOk: _cancel,
        commands.Queue.Declare: _declare,
    }
    _LEARN_ANSWER: ClassVar[dict[type, Callable[[Any, Any, float], None]]] = {
        commands.Basic.ConsumeOk: _consume_ok,
        commands.Basic.Cancel: _cancelled,
        commands.Basic.GetEmpty: _get_empty,
        commands.Basic.RecoverOk: _recover_ok,
        commands.Queue.DeclareOk: _declare_ok,
        commands.Tx.CommitOk: _commit_ok,
        commands.Tx.RollbackOk: _rollback_ok,
    }


def _leaving(queues: tuple[PacedQueue, ...], now: float) -> Content | None:
    left = [(queue.departures, now) for queue in queues if queue.departures is not None]
    return Content(left) if left else None
