"""The fanout exchange for reports: a report arrives soon or is dropped.

It has a connection of its own: during a memory alarm the broker stops reading from every connection that publishes, and
that must not stop acknowledgements and probing. Each listener has a short queue that drops its oldest report.

A user may lack rights. The exchange need not be created when it exists. A process that may not create a queue gets no
reports, and one that may not publish sends none; each is logged once, and the process works without.

Sums of reports (`backpressure.core.sums`) have an exchange of their own, made by the first one who wants to hear them.

A report that asks how often to report carries the address of its channel (direct reply-to), and is answered there: that
takes neither a queue nor an exchange. Answers leave on a channel of their own, since a user may lack the right to
publish on the default exchange, and only to addresses that a broker has made: nobody can have them sent elsewhere.

Beside a queue that somebody else has declared nothing is left behind: an exchange that is not there is created by the
first listener, and the broker deletes it when the last one has left. A process that only sends looks for it until then,
and so does a listener that must not create anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from pika import BasicProperties
from pika.exceptions import AMQPError, ChannelClosedByBroker

from backpressure.amqp.properties import read_properties
from backpressure.core.message import Message
from backpressure.core.sums import SUMS_SUFFIX
from backpressure.errors import TransportError
from backpressure.settings import BrokerSettings
from backpressure.transports.base import Answer
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.link import RabbitMQLink
from backpressure.transports.rabbitmq.wire import WireChannel, WireConnection, read_elsewhere

_log = logging.getLogger("backpressure")
_LISTENER_QUEUE_LENGTH = 1000
_STALE_BYTES = 65_536  # if more than this is unsent, the broker does not read, and a report would arrive too late
_ACCESS_REFUSED, _NOT_FOUND = 403, 404
_REPLY_TO = "amq.rabbitmq.reply-to"
_ADDRESS = f"{_REPLY_TO}.".encode()
_ASKING = BasicProperties(reply_to=_REPLY_TO)  # type: ignore[no-untyped-call]  # pika has no types here
_LOOK_AFTER_S = 1.0
_LOOK_EVERY_S = 10.0  # the broker logs each look for an exchange that is not there as an error


class Creates(Enum):
    """Which exchange is created if there is none; a temporary one exists as long as somebody listens."""

    LASTING = "lasting"
    TEMPORARY = "temporary"
    NOTHING = "nothing"


class RabbitMQFeedback:
    """A `FeedbackBus` on a fanout exchange."""

    def __init__(self, broker: BrokerSettings, outage: Outage, name: str, exchange: str, creates: Creates) -> None:
        self._link = RabbitMQLink(broker, name, outage, set_up=self._set_up)
        self._exchange = exchange
        self._creates = creates
        self._looking: asyncio.Task[None] | None = None
        self._on_report: Callable[[bytes], None] | None = None
        self._connection: WireConnection | None = None
        self._channel: WireChannel | None = None
        self._refused: set[str] = set()
        self._sums = f"{exchange}{SUMS_SUFFIX}"
        self._wanted = {exchange: True, self._sums: False}
        self._bound: dict[str, bool] = {}
        self._ears: tuple[WireConnection, WireChannel, str] | None = None  # what it hears with
        self._binding: asyncio.Task[None] | None = None
        self._answer: Answer | None = None
        self._on_answer: Callable[[bytes], None] | None = None
        self._asks = False  # whether the channel that reports hears answers
        self._answering: WireChannel | None = None
        self._opening: asyncio.Task[None] | None = None
        self._untold: deque[tuple[str, bytes]] = deque(maxlen=_LISTENER_QUEUE_LENGTH)  # answers, until it is open

    async def start(
        self,
        on_report: Callable[[bytes], None] | None = None,
        *,
        answer: Answer | None = None,
        on_answer: Callable[[bytes], None] | None = None,
    ) -> None:
        """See `FeedbackBus.start`."""
        self._on_report, self._answer, self._on_answer = on_report, answer, on_answer
        await self._link.start()

    @property
    def blocked(self) -> bool:
        """See `FeedbackBus.blocked`."""
        return self._connection is not None and self._connection.blocked

    @property
    def carries_sums(self) -> bool:
        """See `FeedbackBus.carries_sums`."""
        return "heard as sums" not in self._refused

    def listen(self, *, reports: bool, sums: bool) -> None:
        """See `FeedbackBus.listen`."""
        self._wanted = {self._exchange: reports, self._sums: sums and self.carries_sums}
        changed = any(self._bound.get(exchange, False) != wanted for exchange, wanted in self._wanted.items())
        if self._ears is not None and changed and self._binding is None:
            self._binding = asyncio.create_task(self._bind(*self._ears), name="bind feedback")
            self._binding.add_done_callback(self._on_bound)

    def send(self, payload: bytes, *, is_sum: bool = False, asks: bool = False) -> bool:
        """See `FeedbackBus.send`."""
        connection, channel = self._connection, self._channel
        if connection is None or channel is None or not _is_free(connection, channel):
            return False
        if is_sum and not self._bound.get(self._sums):
            return False
        properties = _ASKING if asks and self._asks else None
        channel.raw.basic_publish(self._sums if is_sum else self._exchange, "", payload, properties)
        return True

    async def stop(self) -> None:
        """Close."""
        for task in (self._looking, self._binding, self._opening):
            if task is not None:
                task.cancel()
        await self._link.stop()

    async def _set_up(self, connection: WireConnection) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._ears, self._bound = None, {}
        if await self._exists(connection, self._exchange):
            await self._join(connection)
        elif await self._create(connection, self._exchange):
            await self._join(connection)
            if self._creates is Creates.TEMPORARY and "heard" in self._refused:
                await self._take_back(connection)
        else:
            self._join_later(connection)

    async def _join(self, connection: WireConnection) -> None:
        if self._on_report is not None:
            await self._listen(connection)
        channel = await connection.open_channel(vital=False)
        self._asks = self._on_answer is not None and await self._hear_answers(connection, channel)
        if not channel.is_open:  # a broker without direct reply-to
            channel = await connection.open_channel(vital=False)
        channel.closed.add_done_callback(lambda closed: self._on_closed(connection, closed.result()))
        self._connection, self._channel = connection, channel

    async def _hear_answers(self, connection: WireConnection, channel: WireChannel) -> bool:
        """Hear on ``channel`` what is answered to reports that leave on it; return whether that is possible."""
        connection.incoming.deliver_to(channel.raw.channel_number, self._on_told)
        try:
            await channel.call("basic_consume", queue=_REPLY_TO, on_message_callback=read_elsewhere, auto_ack=True)
        except ChannelClosedByBroker:
            return False
        return True

    def _join_later(self, connection: WireConnection) -> None:
        self._channel = None
        self._looking = asyncio.create_task(self._join_when_there(connection), name="look for feedback")

    async def _join_when_there(self, connection: WireConnection) -> None:
        pause_s = _LOOK_AFTER_S
        try:
            while not await self._exists(connection, self._exchange):  # the broker tells nobody
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LOOK_EVERY_S)
            await self._join(connection)
        except (AMQPError, TransportError) as error:  # the connection is lost, or as good as: set up another one
            connection.fail(error)

    async def _create(self, connection: WireConnection, exchange: str) -> bool:
        """Create the exchange; return False where that is not for us, or only for a listener."""
        temporary = self._creates is Creates.TEMPORARY
        if self._creates is Creates.NOTHING or (temporary and self._on_report is None):
            return False
        channel = await connection.open_channel(vital=False)
        try:
            await channel.call("exchange_declare", exchange=exchange, exchange_type="fanout", auto_delete=temporary)
        except ChannelClosedByBroker as error:
            if error.reply_code == _ACCESS_REFUSED and exchange == self._sums:
                return False
            if error.reply_code != _ACCESS_REFUSED or not temporary:
                raise
            self._say_refused("heard or sent", error)
            return False
        await channel.close()
        return True

    async def _exists(self, connection: WireConnection, exchange: str) -> bool:
        channel = await connection.open_channel(vital=False)
        try:
            await channel.call("exchange_declare", exchange=exchange, passive=True)
        except ChannelClosedByBroker:
            return False
        await channel.close()
        return True

    async def _listen(self, connection: WireConnection) -> None:
        channel = await connection.open_channel(vital=False)
        try:
            declared = await channel.call(
                "queue_declare",
                queue="",
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": _LISTENER_QUEUE_LENGTH},  # drop-head is the default
            )
            await self._bind(connection, channel, declared.queue)
            connection.incoming.deliver_to(channel.raw.channel_number, self._on_message)
            await channel.call("basic_consume", queue=declared.queue, on_message_callback=read_elsewhere, auto_ack=True)
        except ChannelClosedByBroker as error:
            if error.reply_code != _ACCESS_REFUSED:
                raise
            self._say_refused("heard", error)
        else:
            connection.depend_on(channel)
            self._ears = connection, channel, declared.queue

    async def _bind(self, connection: WireConnection, channel: WireChannel, queue: str) -> None:
        """Bind the queue to the exchanges that are wanted, and to no others."""
        for exchange in (self._sums, self._exchange):
            wanted = self._wanted[exchange]
            if self._bound.get(exchange, False) == wanted:
                continue
            if wanted and exchange == self._sums and not await self._make_sums(connection):
                continue
            await channel.call("queue_bind" if wanted else "queue_unbind", queue=queue, exchange=exchange)
            self._bound[exchange] = wanted

    async def _make_sums(self, connection: WireConnection) -> bool:
        """Create the exchange for sums, unless it is there; return False where that is not for us."""
        if await self._exists(connection, self._sums) or await self._create(connection, self._sums):
            return True
        self._refused.add("heard as sums")  # a user without the right: it hears all reports, as older programs do
        return False

    def _on_bound(self, task: asyncio.Task[None]) -> None:
        self._binding = None
        if not task.cancelled() and (error := task.exception()) is not None and self._ears is not None:
            self._ears[0].fail(error)  # set up another connection

    async def _take_back(self, connection: WireConnection) -> None:
        """Remove the exchange that we created and may not listen to: the broker deletes it when a listener leaves."""
        channel = await connection.open_channel(vital=False)
        with suppress(ChannelClosedByBroker):
            await channel.call("exchange_delete", exchange=self._exchange, if_unused=True)
            await channel.close()

    def _on_closed(self, connection: WireConnection, error: BaseException) -> None:
        gone = isinstance(error, ChannelClosedByBroker) and error.reply_code == _NOT_FOUND
        if gone and self._creates is not Creates.LASTING:
            self._join_later(connection)
        elif isinstance(error, ChannelClosedByBroker) and error.reply_code == _ACCESS_REFUSED:
            self._say_refused("sent", error)
        else:
            connection.fail(error)

    def _say_refused(self, what: str, error: ChannelClosedByBroker) -> None:
        if what not in self._refused:
            self._refused.add(what)
            _log.warning("no reports are %s: %s", what, error.reply_text)

    def _on_message(self, message: Message, *more: object) -> None:
        if self._on_report is not None:
            self._on_report(message.body)
        if self._answer is None or not isinstance(header := more[-1], bytes) or _ADDRESS not in header:
            return
        address = read_properties(header).get("reply_to")
        if isinstance(address, str) and (told := self._answer(message.body)) is not None:
            self._tell(address, told)

    def _on_told(self, message: Message, *_: object) -> None:
        if self._on_answer is not None:
            self._on_answer(message.body)

    def _tell(self, address: str, told: bytes) -> None:
        """Send an answer, or drop it: whoever gets none asks again."""
        connection, channel = self._connection, self._answering
        if connection is None or "answered" in self._refused or not address.encode().startswith(_ADDRESS):
            return
        if channel is not None and _is_free(connection, channel):
            channel.raw.basic_publish("", address, told)
        elif channel is None or not channel.is_open:
            self._untold.append((address, told))
            if self._opening is None:
                self._opening = asyncio.create_task(self._open_answering(connection), name="open channel for answers")

    async def _open_answering(self, connection: WireConnection) -> None:
        untold, self._untold = self._untold, deque(maxlen=_LISTENER_QUEUE_LENGTH)
        try:
            self._answering = channel = await connection.open_channel(vital=False)
        except (AMQPError, TransportError):
            return  # the connection is lost, and with it whoever asked
        finally:
            self._opening = None
        channel.closed.add_done_callback(lambda closed: self._on_answering_closed(closed.result()))
        for address, told in untold:
            self._tell(address, told)

    def _on_answering_closed(self, error: BaseException) -> None:
        if isinstance(error, ChannelClosedByBroker) and error.reply_code == _ACCESS_REFUSED:
            self._say_refused("answered", error)


def _is_free(connection: WireConnection, channel: WireChannel) -> bool:
    """Return whether what is sent leaves at once."""
    return channel.is_open and not connection.blocked and connection.write_buffer_bytes <= _STALE_BYTES
