"""Throw hostile input at sessions: ``python tests/unit/broker/fuzz.py --inputs 1000000 --seed 1``.

Each input is a conversation that starts well and goes wrong: methods with random arguments, flipped octets, frames
out of order, garbage. Whatever is sent, no exception may escape a session, its output must stay frames, memory must be
given back, and a bystander on the same broker must be served as ever.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from pamqp import commands
from pamqp import frame as pamqp_frame

from backpressure.amqp.frames import FrameReader, frame
from backpressure.broker.handshake import SessionConfig
from backpressure.broker.session import Session
from backpressure.broker.store import Store
from backpressure.broker.vhost import VirtualHost

if TYPE_CHECKING:
    from pamqp.base import Frame

LOGIN = b"AMQP\x00\x00\x09\x01" + b"".join(
    pamqp_frame.marshal(method, channel)
    for channel, method in (
        (0, commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest")),
        (0, commands.Connection.TuneOk(2047, 131072, 0)),
        (0, commands.Connection.Open("/")),
        (1, commands.Channel.Open()),
    )
)
INDICES = [*commands.INDEX_MAPPING, 0, 0xFFFFFFFF, 0x003C00C8]
NAMES = ["", "q", "e", "amq.topic", "amq.direct", "x" * 127]
ARGUMENTS = [{}, {"x-max-length": 2}, {"x-message-ttl": 0}, {"x-dead-letter-exchange": ""}, {"x-match": ["a"]}]


def plausible(random: Random) -> Frame:
    """A method a client could send, with arguments from a small stock so that they meet."""
    name, other, arguments = random.choice(NAMES), random.choice(NAMES), random.choice(ARGUMENTS)
    tag, flag = random.randrange(6), random.random() < 0.5
    return random.choice(
        [
            commands.Queue.Declare(queue=name, auto_delete=flag, arguments=arguments),
            commands.Queue.Bind(queue=name, exchange=other, routing_key=random.choice(NAMES), arguments=arguments),
            commands.Queue.Unbind(queue=name, exchange=other, routing_key=name, arguments=arguments),
            commands.Queue.Purge(queue=name),
            commands.Queue.Delete(queue=name, if_unused=flag),
            commands.Exchange.Declare(
                exchange=name, exchange_type=random.choice(["topic", "headers"]), auto_delete=flag
            ),
            commands.Exchange.Bind(destination=name, source=other, routing_key="#"),
            commands.Exchange.Delete(exchange=name, if_unused=flag),
            commands.Basic.Consume(queue=name, consumer_tag=other, no_ack=flag, arguments=arguments),
            commands.Basic.Cancel(other),
            commands.Basic.Qos(prefetch_count=tag, global_=flag),
            commands.Basic.Get(queue=name, no_ack=flag),
            commands.Basic.Ack(tag, multiple=flag),
            commands.Basic.Nack(tag, multiple=flag, requeue=random.random() < 0.7),
            commands.Basic.Recover(requeue=True),
            commands.Confirm.Select(),
            commands.Channel.Close(200, "", 0, 0),
            commands.Channel.CloseOk(),
            commands.Channel.Open(),
        ]
    )


def message(random: Random) -> bytes:
    """A publish, sometimes with properties that are none."""
    publish = commands.Basic.Publish(exchange=random.choice(NAMES), routing_key=random.choice(NAMES), mandatory=True)
    flags, rest = random.choice(
        [(b"\x00\x00", b""), (b"\xff\xfc", random.randbytes(60)), (b"\x20\x00", _table(random))]
    )
    size = random.randrange(4)
    header = b"\x00\x3c\x00\x00" + size.to_bytes(8, "big") + flags + rest
    return pamqp_frame.marshal(publish, 1) + frame(2, 1, header) + (frame(3, 1, b"x" * size) if size else b"")


FIELDS = [b"x-death", b"a", b"CC", b"x-first-death-reason", b"\xe9", b"x-max-length", b"x-dead-letter-exchange"]
VALUES = [b"V", b"t\x01", b"A\0\0\0\x02F\0", b"T" + b"\xff" * 8, b"S\0\0\0\x01\xff", b"d\x7f\xf8" + bytes(6)]


def _table(random: Random) -> bytes:
    fields = b"".join(_short(name) + random.choice(VALUES) for name in random.sample(FIELDS, 2))
    return len(fields).to_bytes(4, "big") + fields


def odd(random: Random) -> bytes:
    """A declaration or a binding whose names and arguments are any octets."""
    name, key = random.choice([b"q", b"e", b"caf\xe9", b""]), random.choice([b"", b"k", b"\xff"])
    table = _table(random)
    index, arguments = random.choice(
        [
            (0x0032000A, bytes(2) + _short(name) + random.choice([b"\x02", b"\x04"]) + table),
            (0x00320014, bytes(2) + _short(name) + _short(b"amq.topic") + _short(key) + b"\0" + table),
            (0x0028000A, bytes(2) + _short(name) + _short(b"topic") + b"\x02" + table),
            (0x003C0014, bytes(2) + _short(name) + _short(key) + b"\0" + table),
            (0x003C0028, bytes(2) + _short(b"amq.fanout") + _short(key) + b"\0"),
        ]
    )
    return frame(1, 1, index.to_bytes(4, "big") + arguments)


def _short(octets: bytes) -> bytes:
    return bytes((len(octets),)) + octets


def hostile(random: Random) -> bytes:
    """One conversation."""
    said = b""
    for _ in range(random.randrange(1, 8)):
        kind = random.random()
        if kind < 0.4:
            said += pamqp_frame.marshal(plausible(random), 1)
        elif kind < 0.5:
            said += odd(random)
        elif kind < 0.75:
            said += message(random)
        elif kind < 0.9:
            index = random.choice(INDICES).to_bytes(4, "big")
            said += frame(1, random.choice([0, 1, 1, 2]), index + random.randbytes(random.randrange(30)))
        else:
            said += frame(random.choice([1, 2, 3, 8]), random.choice([0, 1]), random.randbytes(random.randrange(40)))
    if random.random() < 0.3:
        place = random.randrange(len(said))
        said = said[:place] + random.randbytes(random.randrange(1, 4)) + said[place + 1 :]
    return said if random.random() < 0.1 else LOGIN + said


def run(inputs: int, seed: int, data_dir: Path | None = None) -> None:
    """Feed ``inputs`` conversations; AssertionError or any other exception is a finding.

    With ``data_dir``, everything that is to be kept is also written there.
    """
    random = Random(seed)
    vhost = VirtualHost(memory_limit_bytes=100_000_000)
    store = Store(data_dir) if data_dir else None
    vhost.journal = store
    for number in range(inputs):
        session = Session(vhost, SessionConfig(), lambda _session: None)
        reader = FrameReader(131_072)
        said = hostile(random)
        try:
            session.receive(said, vhost.now)
            reader.feed(session.take_output().removeprefix(b"AMQP\x00\x00\x09\x01"))
            for _ in reader.frames():
                pass
            session.go_on(vhost.now)
            vhost.advance(vhost.now + random.random())
            session.lost()
        except Exception:
            sys.stderr.write(f"input {number} of seed {seed}: {said!r}\n")
            raise
        if store is not None and number % 10 == 0:
            store.commit(vhost)
        if number % 1000 == 0:
            _bystander(vhost)
            for queue in list(vhost.queues.values()):
                vhost.delete_queue(queue)
            assert vhost.memory.used_bytes == 0, number
            assert not vhost.sessions
    if store is not None:
        store.commit(vhost)
        store.close()
        again = Store(data_dir)
        again.load(VirtualHost())
        again.close()


def _bystander(vhost: VirtualHost) -> None:
    session = Session(vhost, SessionConfig(), lambda _session: None)
    session.receive(LOGIN + pamqp_frame.marshal(commands.Queue.Declare(exclusive=True), 1), vhost.now)
    assert session.take_output().endswith(b"\x00\x00\x00\x00\x00\x00\x00\x00\xce")
    session.lost()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    run(options.inputs, options.seed, options.data_dir)
    sys.stdout.write(f"{options.inputs} inputs, no finding\n")
