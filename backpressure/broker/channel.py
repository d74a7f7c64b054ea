"""A channel: one method after another, each answered, refused, or passed to the publishing or consuming half.

Contains the dispatch, and the methods on queues, exchanges and the channel itself.
Must not know: how bytes become frames, how the connection was opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pamqp import base, commands

from backpressure.amqp.frames import (
    ACK,
    FRAME_BODY,
    FRAME_HEADER,
    FRAME_METHOD,
    NACK,
    PUBLISH,
    REJECT,
)
from backpressure.amqp.methods import (
    ACCESS_REQUEST,
    access_request_ok,
    decode_method,
    method_frame,
    method_index,
    queue_declare_ok,
    read_acknowledgement,
)
from backpressure.broker.consuming import Consumer, Consuming
from backpressure.broker.declarations import check_consumer_arguments
from backpressure.broker.exchange import REPLY_TO
from backpressure.broker.meters import Counters
from backpressure.broker.peer import Peer, Transaction
from backpressure.broker.publishing import Publishing
from backpressure.broker.queue import Queue
from backpressure.broker.replies import (
    ChannelRefusal,
    ConnectionRefusal,
    access_refused,
    channel_error,
    command_invalid,
    no_queue,
    not_allowed,
    not_implemented,
    precondition_failed,
)

Handler = Callable[["Channel", Any], None]

_HANDLERS: dict[type[base.Frame], Handler] = {}


def _handles(kind: type[base.Frame]) -> Callable[[Handler], Handler]:
    """Register a method of `Channel` for one AMQP method."""

    def register(handler: Handler) -> Handler:
        _HANDLERS[kind] = handler
        return handler

    return register


class Channel:
    """One open channel of a session."""

    def __init__(self, session: Peer, number: int) -> None:
        """``number`` is 1 or more."""
        self.session = session
        self.number = number
        self.counters = Counters()
        self.consuming = Consuming(session, number, self.counters)
        self.publishing = Publishing(session, number, self.counters, self.consuming)
        self.closing = False
        self._vhost = session.vhost
        self._last_queue = ""
        self._next_consumer = 1

    def handle(self, kind: int, payload: bytes) -> None:
        """Handle one frame; raises `ConnectionRefusal` for an error that closes the connection."""
        if self.closing:
            self._await_close(kind, payload)
            return
        try:
            if kind == FRAME_BODY:
                self.publishing.body(payload)
            elif kind == FRAME_HEADER:
                self.publishing.header(payload)
            elif kind == FRAME_METHOD:
                self._method(payload)
        except ChannelRefusal as refusal:
            self._fail(refusal, payload)
        except ConnectionRefusal as fault:
            if kind == FRAME_METHOD and not fault.method_index:
                fault.method_index = method_index(payload)
            raise

    def close(self) -> None:
        """Release what the channel holds."""
        self.closing = True
        self.publishing.drop_pieces()
        self.publishing.roll_back()
        self.consuming.close()

    def _method(self, payload: bytes) -> None:
        self.publishing.expect_no_content()
        index = method_index(payload)
        if index == PUBLISH:
            self.publishing.method(payload)
        elif index in {ACK, REJECT, NACK}:
            self._acknowledgement(index, payload)
        elif index == ACCESS_REQUEST:  # from AMQP 0-8; old clients still send it, and all tickets are equal
            self.session.send(access_request_ok(self.number))
        else:
            method = decode_method(payload)
            handler = _HANDLERS.get(type(method))
            if handler is None:
                raise command_invalid(f"unexpected method {method.name}")
            handler(self, method)

    def _acknowledgement(self, index: int, payload: bytes) -> None:
        tag, bits = read_acknowledgement(index, payload)
        if index == ACK:
            self.consuming.ack(tag, multiple=bool(bits & 1))
        elif index == NACK:
            self.consuming.refuse(tag, multiple=bool(bits & 1), requeue=bool(bits & 2))
        else:
            self.consuming.refuse(tag, multiple=False, requeue=bool(bits & 1))

    def _await_close(self, kind: int, payload: bytes) -> None:
        """After a refusal, ignore everything until the client confirms the close."""
        if kind == FRAME_METHOD and method_index(payload) == commands.Channel.CloseOk.index:
            self.session.forget(self.number)
        elif kind == FRAME_METHOD and method_index(payload) == commands.Channel.Close.index:
            self._send(commands.Channel.CloseOk())

    def _fail(self, fault: ChannelRefusal, payload: bytes) -> None:
        index = method_index(payload)
        if index not in commands.INDEX_MAPPING:
            index = PUBLISH
        class_id, method_id = index >> 16, index & 0xFFFF
        self.session.confirm_now(self.publishing)
        self._send(commands.Channel.Close(fault.code, fault.text, class_id, method_id))
        self.close()

    def _send(self, method: base.Frame) -> None:
        self.session.send(method_frame(self.number, method))

    def _reply(self, request: Any, answer: base.Frame) -> None:
        if not request.nowait:
            self._send(answer)

    def _queue(self, name: str) -> Queue:
        """Return the queue that a method names; an empty name means the last one declared on this channel."""
        return self._vhost.queue(self._queue_name(name), self.session)

    def _queue_name(self, name: str) -> str:
        if not name:
            name = self._last_queue
            if not name:
                raise ChannelRefusal(404, "NOT_FOUND", "no previously declared queue")
        return name

    # -- channel and confirm -------------------------------------------------------------------------------------

    @_handles(commands.Channel.Open)
    def _open(self, _method: commands.Channel.Open) -> None:
        raise channel_error("second 'channel.open' seen")

    @_handles(commands.Channel.Close)
    def _close(self, _method: commands.Channel.Close) -> None:
        self.session.confirm_now(self.publishing)
        self.close()
        self._send(commands.Channel.CloseOk())
        self.session.forget(self.number)

    @_handles(commands.Channel.Flow)
    def _flow(self, method: commands.Channel.Flow) -> None:
        if not method.active:
            raise not_implemented("active=false")
        self._send(commands.Channel.FlowOk(active=True))

    @_handles(commands.Confirm.Select)
    def _confirm_select(self, method: commands.Confirm.Select) -> None:
        if self.publishing.transaction is not None:
            raise precondition_failed("cannot switch from tx to confirm mode")
        self.publishing.confirming = True
        self._reply(method, commands.Confirm.SelectOk())

    @_handles(commands.Tx.Select)
    def _tx_select(self, _method: commands.Tx.Select) -> None:
        if self.publishing.confirming:
            raise precondition_failed("cannot switch from confirm to tx mode")
        if self.publishing.transaction is None:
            self.publishing.transaction = self.consuming.transaction = Transaction()
        self._send(commands.Tx.SelectOk())

    @_handles(commands.Tx.Commit)
    def _tx_commit(self, _method: commands.Tx.Commit) -> None:
        self._check_transactional()
        self.publishing.commit()
        self.consuming.commit()
        self._send(commands.Tx.CommitOk())

    @_handles(commands.Tx.Rollback)
    def _tx_rollback(self, _method: commands.Tx.Rollback) -> None:
        self._check_transactional()
        self.publishing.roll_back()
        self.consuming.roll_back()
        self._send(commands.Tx.RollbackOk())

    def _check_transactional(self) -> None:
        if self.publishing.transaction is None:
            raise precondition_failed("channel is not transactional")

    # -- exchange ------------------------------------------------------------------------------------------------

    @_handles(commands.Exchange.Declare)
    def _exchange_declare(self, method: commands.Exchange.Declare) -> None:
        name = _one_line(method.exchange)
        if method.passive:
            self._vhost.exchange(name)
        else:
            if not name:
                raise access_refused("operation not permitted on the default exchange")
            self._vhost.declare_exchange(
                name,
                method.exchange_type,
                durable=method.durable,
                auto_delete=method.auto_delete,
                internal=method.internal,
                arguments=method.arguments,
            )
        self._reply(method, commands.Exchange.DeclareOk())

    @_handles(commands.Exchange.Delete)
    def _exchange_delete(self, method: commands.Exchange.Delete) -> None:
        self._vhost.delete_exchange(_one_line(method.exchange), if_unused=method.if_unused)
        self._reply(method, commands.Exchange.DeleteOk())

    @_handles(commands.Exchange.Bind)
    def _exchange_bind(self, method: commands.Exchange.Bind) -> None:
        destination = self._vhost.exchange(_one_line(method.destination))
        if not destination.name:
            raise access_refused("operation not permitted on the default exchange")
        self._vhost.bind(_one_line(method.source), destination, method.routing_key, method.arguments)
        self._reply(method, commands.Exchange.BindOk())

    @_handles(commands.Exchange.Unbind)
    def _exchange_unbind(self, method: commands.Exchange.Unbind) -> None:
        name = _one_line(method.destination)
        if not name:
            raise access_refused("operation not permitted on the default exchange")
        destination = self._vhost.exchanges.get(name)
        self._vhost.unbind(_one_line(method.source), destination, method.routing_key, method.arguments)
        self._reply(method, commands.Exchange.UnbindOk())

    # -- queue ---------------------------------------------------------------------------------------------------

    @_handles(commands.Queue.Declare)
    def _queue_declare(self, method: commands.Queue.Declare) -> None:
        name = _one_line(method.queue)
        if name.startswith(REPLY_TO):
            if not self._vhost.direct_replies.exist(name):
                raise no_queue(name)
            self._reply(method, commands.Queue.DeclareOk(name, 0, 1))
            return
        if method.passive:
            queue = self._queue(name)
            queue.touch()
        else:
            queue = self._vhost.declare_queue(
                name,
                self.session,
                durable=method.durable,
                exclusive=method.exclusive,
                auto_delete=method.auto_delete,
                arguments=method.arguments,
            )
        self._last_queue = queue.name
        if not method.nowait:
            self.session.send(queue_declare_ok(self.number, queue.name, len(queue), len(queue.consumers)))

    @_handles(commands.Queue.Bind)
    def _queue_bind(self, method: commands.Queue.Bind) -> None:
        queue = self._queue(_one_line(method.queue))
        key = method.routing_key if method.queue or method.routing_key else queue.name
        self._vhost.bind(_one_line(method.exchange), queue, key, method.arguments)
        self._reply(method, commands.Queue.BindOk())

    @_handles(commands.Queue.Unbind)
    def _queue_unbind(self, method: commands.Queue.Unbind) -> None:
        name = self._queue_name(_one_line(method.queue))
        queue = self._vhost.queue(name, self.session) if name in self._vhost.queues else None
        self._vhost.unbind(_one_line(method.exchange), queue, method.routing_key, method.arguments)
        self._send(commands.Queue.UnbindOk())

    @_handles(commands.Queue.Purge)
    def _queue_purge(self, method: commands.Queue.Purge) -> None:
        count = self._queue(method.queue).purge()
        self._reply(method, commands.Queue.PurgeOk(count))

    @_handles(commands.Queue.Delete)
    def _queue_delete(self, method: commands.Queue.Delete) -> None:
        name = self._queue_name(_one_line(method.queue))
        if name not in self._vhost.queues:
            self._reply(method, commands.Queue.DeleteOk(0))
            return
        queue = self._vhost.queue(name, self.session)
        self._vhost.check_deletion(queue, if_unused=method.if_unused, if_empty=method.if_empty)
        self._reply(method, commands.Queue.DeleteOk(len(queue)))  # before its consumers, also this channel's, are told
        self._vhost.delete_queue(queue)

    # -- basic ---------------------------------------------------------------------------------------------------

    @_handles(commands.Basic.Qos)
    def _qos(self, method: commands.Basic.Qos) -> None:
        if method.prefetch_size:
            raise not_implemented(f"prefetch_size!=0 ({method.prefetch_size})")
        shared = method.global_ and "global_qos" not in self._vhost.denied  # denied, it counts for each consumer
        self.consuming.shared_prefetch.limit = method.prefetch_count if shared else 0
        if not shared:
            self.consuming.prefetch = method.prefetch_count
        self.consuming.pump_all()
        self._send(commands.Basic.QosOk())

    @_handles(commands.Basic.Consume)
    def _consume(self, method: commands.Basic.Consume) -> None:
        consuming = self.consuming
        if method.queue == REPLY_TO:
            self._consume_replies(method)
            return
        queue = self._queue(method.queue)
        tag = method.consumer_tag or self._new_tag()
        if tag in consuming.consumers:
            raise not_allowed(f"attempt to reuse consumer tag '{tag}'")
        if queue.exclusive_consumer or (method.exclusive and queue.consumers):
            raise access_refused(f"queue '{queue.name}' in vhost '/' in exclusive use")
        if queue.is_quorum and consuming.shared_prefetch.limit:
            raise not_implemented(f"queue '{queue.name}' in vhost '/' does not support global qos")
        check_consumer_arguments(queue.name, method.arguments)
        consumer = Consumer(
            consuming,
            queue,
            tag,
            no_ack=method.no_ack,
            prefetch=consuming.prefetch,
            arguments=method.arguments,
        )
        consuming.consumers[tag] = consumer
        self._reply(method, commands.Basic.ConsumeOk(tag))
        queue.subscribe(consumer, exclusive=method.exclusive)
        queue.pump()

    def _consume_replies(self, method: commands.Basic.Consume) -> None:
        tag = method.consumer_tag or self._new_tag()
        if tag in self.consuming.consumers:
            raise not_allowed(f"attempt to reuse consumer tag '{tag}'")
        if not method.no_ack:
            raise precondition_failed("reply consumer cannot acknowledge")
        self.consuming.consume_replies(tag)
        self._reply(method, commands.Basic.ConsumeOk(tag))

    def _new_tag(self) -> str:
        tag = f"amq.ctag-{self.session.identity}-{self.number}-{self._next_consumer}"
        self._next_consumer += 1
        return tag

    @_handles(commands.Basic.Cancel)
    def _cancel(self, method: commands.Basic.Cancel) -> None:
        tag = method.consumer_tag or ""
        self.consuming.cancel(tag)
        self._reply(method, commands.Basic.CancelOk(tag))

    @_handles(commands.Basic.Get)
    def _get(self, method: commands.Basic.Get) -> None:
        if not self.consuming.get(self._queue(method.queue), no_ack=method.no_ack):
            self._send(commands.Basic.GetEmpty())

    @_handles(commands.Basic.Recover)
    @_handles(commands.Basic.RecoverAsync)
    def _recover(self, method: commands.Basic.Recover | commands.Basic.RecoverAsync) -> None:
        if not method.requeue:
            raise not_implemented("requeue=false")
        self.consuming.recover()
        if isinstance(method, commands.Basic.Recover):
            self._send(commands.Basic.RecoverOk())


def _one_line(name: str) -> str:
    """The name of a queue or exchange as RabbitMQ reads it where it declares, binds and deletes."""
    return name.replace("\r", "").replace("\n", "")
