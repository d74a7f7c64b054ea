"""Short random stories of a client, the proxy and a broker on a clock of the test's: nothing stays behind in the proxy.

A client opens channels, publishes with and without confirms, closes channels and the connection; the broker answers
late and closes channels by itself; pace and window change. At the end nothing waits any more, the messages of each
channel have arrived whole and in order, and the client's ``connection.close`` has reached the broker.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from pamqp import commands
from proxy_staging import FakeTime, publish

from backpressure.amqp.frames import FRAME_METHOD, Splitter
from backpressure.amqp.methods import decode_method, method_frame
from backpressure.core.signals import Decision
from backpressure.proxy.listener import ListenAddress, Listener, _BrokerSide, _ClientSide
from backpressure.proxy.paced_queue import PacedQueue
from backpressure.proxy.routing import Topology
from backpressure.proxy.view import HoldLimits, View
from backpressure.settings import BrokerSettings

QUEUES = ("a", "b", "elsewhere")


class Timer:
    """What `Loop.call_at` returns."""

    def __init__(self, at: float, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.at, self.call, self.args, self.cancelled = at, call, args, False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """The part of an event loop that sockets of the proxy use, with time that passes when it is told to."""

    def __init__(self) -> None:
        self.clock = FakeTime()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()

    def time(self) -> float:
        return self.clock.at

    def call_at(self, at: float, call: Callable[..., object], *args: Any) -> Timer:
        timer = Timer(at, call, args)
        heapq.heappush(self._timers, (at, next(self._numbers), timer))
        return timer

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> Timer:
        return self.call_at(self.clock.at + seconds, call, *args)

    def pass_time(self, seconds: float) -> None:
        end = self.clock.at + seconds
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self.clock.at = max(self.clock.at, at)
            if not timer.cancelled:
                timer.call(*timer.args)
        self.clock.at = end


class Wire:
    """A transport whose other end is the test."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.paused = self.closed = self.full = False

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, _name: str) -> None: ...

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


class Story:
    """One of them, told by a seed."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = random.Random(seed)
        self.loop = Loop()
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self.loop)
        limits = HoldLimits(messages=self.random.choice((1, 3, 10)))
        self.view = View("/", Topology(), limits=limits, ignored_exchange="pace.feedback")
        self.listener = Listener(ListenAddress("127.0.0.1", 0), BrokerSettings(), self.view)
        self.dry_run = self.random.random() < 0.2
        self.queues = [self._paced(name) for name in QUEUES[:2]]
        self.client, self.wire = _ClientSide(self.listener), Wire()
        self.client.connection_made(self.wire)  # type: ignore[arg-type]
        self.side, self.upstream = _BrokerSide(self.client), Wire()
        self.side.connection_made(self.upstream)  # type: ignore[arg-type]
        self.client.broker = self.side
        self.to_send: list[bytes] = []
        self.sent: dict[int, list[bytes]] = {}
        self.arrived: dict[int, list[bytes]] = {}
        self.closed_by_broker: set[int] = set()
        self.closing: set[int] = set()
        self.confirming: dict[int, int] = {}
        self.closed = False
        self._frames = Splitter()

    def _paced(self, name: str) -> PacedQueue:
        queue = PacedQueue(
            name, self.loop.clock, burst_s=0.01, dry_run=self.dry_run, engaged=True, wake=self.listener.wake
        )
        self.view.pace(queue)
        return queue

    def tell(self) -> None:
        self._open()
        self._script()
        while self.to_send:
            self._send_some()
            if self.random.random() < 0.2:
                self._change_pace()
            if self.random.random() < 0.03:
                self._close_some_channel()
            if self.random.random() < 0.1:
                self._fill_or_empty(self.side, self.upstream)
            if self.random.random() < 0.1:
                self._fill_or_empty(self.client, self.wire)
            self.loop.pass_time(self.random.choice((0.0, 0.001, 0.05, 0.3)))
            self._serve()
        for end, wire in ((self.side, self.upstream), (self.client, self.wire)):
            if wire.full:
                self._fill_or_empty(end, wire)
        for queue in self.queues:
            queue.apply(Decision(200.0, "the end", None))
        for _ in range(200):
            self.loop.pass_time(0.05)
            self._serve()

    def _fill_or_empty(self, end: Any, wire: Wire) -> None:
        """Tell one end of the proxy that its socket takes no more for now, or that it does again."""
        wire.full = not wire.full
        (end.pause_writing if wire.full else end.resume_writing)()

    # --- the client -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        start = commands.Connection.StartOk({"capabilities": {"connection.blocked": True}}, "PLAIN", "\0u\0p")
        methods = (start, commands.Connection.TuneOk(100, 131072, 0), commands.Connection.Open("/"))
        self.client.data_received(b"".join(method_frame(0, method) for method in methods))
        self.side.data_received(method_frame(0, commands.Connection.OpenOk()))
        self.upstream.take()
        self.wire.take()

    def _script(self) -> None:
        channels = range(1, self.random.randint(2, 4))
        for number in channels:
            self.to_send.append(method_frame(number, commands.Channel.Open()))
            if self.random.random() < 0.6:
                self.to_send.append(method_frame(number, commands.Confirm.Select()))
        open_ones = list(channels)
        for body in range(self.random.randint(1, 30)):
            if not open_ones:
                break
            number = self.random.choice(open_ones)
            kind = self.random.random()
            if kind < 0.8:
                text = b"" if kind < 0.05 else b"%d" % body * self.random.choice((1, 40))
                self.to_send.append(publish(self.random.choice(QUEUES), text, channel=number))
            elif kind < 0.9:
                self.to_send.append(method_frame(number, commands.Basic.Qos(0, 5, False)))
            elif kind < 0.95:
                self.to_send.append(method_frame(number, commands.Queue.Purge(0, "a")))
            else:
                self.to_send.append(method_frame(number, commands.Channel.Close(200, "", 0, 0)))
                open_ones.remove(number)
        self.to_send.append(method_frame(0, commands.Connection.Close(200, "", 0, 0)))

    def _send_some(self) -> None:
        data = b""
        for _ in range(self.random.choice((0, 1, 1, 2, 10))):
            if not self.to_send or self.wire.paused:
                break
            part = self.to_send.pop(0)
            number = int.from_bytes(part[1:3], "big")
            if number in self.closed_by_broker:
                continue
            self.sent.setdefault(number, []).append(part)
            if self.random.random() < 0.5:
                data += part
            else:
                middle = self.random.randrange(len(part))
                self.client.data_received(data + part[:middle])
                self._pass_a_moment()
                data = part[middle:]
        if data:
            self.client.data_received(data)

    def _pass_a_moment(self) -> None:
        if self.random.random() < 0.5:
            self.loop.pass_time(0.02)
            self._serve(answers=False)

    # --- the broker -------------------------------------------------------------------------------------------------

    def _change_pace(self) -> None:
        for queue in self.queues:
            rate = self.random.choice((0.0, 1.0, 20.0, 500.0))
            queue.apply(Decision(rate, "test", self.random.choice((None, 1, 3))))

    def _close_some_channel(self) -> None:
        there = [number for number in self.arrived if number and number not in self.closed_by_broker | self.closing]
        if there:
            number = self.random.choice(there)
            self.closed_by_broker.add(number)
            self.side.data_received(method_frame(number, commands.Channel.Close(404, "NOT_FOUND", 60, 40)))
            # Behind it comes what the client had sent before it learnt that: the broker ignores it.

    def _serve(self, *, answers: bool = True) -> None:
        if self.upstream.full:
            return
        data, frames = self._frames.feed(self.upstream.take())
        for kind, number, start, end in frames:
            assert not self.closed, "a frame behind connection.close"
            if number in self.closed_by_broker:
                continue
            self.arrived.setdefault(number, []).append(data[start:end])
            if kind == FRAME_METHOD:
                self._serve_method(number, decode_method(data[start + 7 : end - 1]))
        if answers:
            for number, tag in list(self.confirming.items()):
                if tag and self.random.random() < 0.7:
                    self.side.data_received(method_frame(number, commands.Basic.Ack(tag, True)))

    def _serve_method(self, number: int, method: Any) -> None:
        answer: Any = None
        if isinstance(method, commands.Channel.Open):
            answer = commands.Channel.OpenOk()
        elif isinstance(method, commands.Confirm.Select):
            answer, self.confirming[number] = commands.Confirm.SelectOk(), 0
        elif isinstance(method, commands.Basic.Publish):
            if number in self.confirming:
                self.confirming[number] += 1
        elif isinstance(method, commands.Channel.Close):
            answer = commands.Channel.CloseOk()
            self.closing.add(number)
            self.confirming.pop(number, None)
        elif isinstance(method, commands.Connection.Close):
            self.closed = True
            answer = commands.Connection.CloseOk()
        if answer is not None:
            self.side.data_received(method_frame(number, answer))


def messages(parts: list[bytes]) -> bytes:
    """Return publishes with their content, and methods that must not be overtaken."""
    data, frames = Splitter().feed(b"".join(parts))
    overtaking = commands.Basic.Qos.index.to_bytes(4, "big")
    return b"".join(
        data[start:end]
        for kind, _, start, end in frames
        if kind != FRAME_METHOD or data[start + 7 : start + 11] != overtaking
    )


@pytest.mark.parametrize("first", range(600, 900, 100))
def test_whatever_happens_nothing_stays_behind_in_the_proxy(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 100):
        story = Story(seed, monkeypatch)
        story.tell()
        told = f"seed {seed}"
        assert story.closed, f"{told}: connection.close did not arrive"
        assert not story.client.relay.holds, told
        assert not story.upstream.paused, f"{told}: the broker is not read any more"
        assert not story.wire.paused, f"{told}: the client is not read any more"
        assert [queue.outbox.in_flight.count for queue in story.queues] == [0, 0], told
        for number, parts in story.sent.items():
            if number not in story.closed_by_broker:
                assert messages(story.arrived.get(number, [])) == messages(parts), f"{told}, channel {number}"
