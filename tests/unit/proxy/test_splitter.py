"""The splitter: whole frames, in any pieces; what is not AMQP is forwarded as it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from proxy_staging import publish

from backpressure.amqp.frames import HEARTBEAT, Splitter, frame

STREAM = publish("orders", b"a" * 300) + HEARTBEAT + publish("orders", b"", channel=2)


def test_a_byte_at_a_time_gives_the_same_frames_as_one_piece() -> None:
    whole = Splitter().feed(STREAM)
    splitter, kinds, octets = Splitter(), [], b""
    for at in range(len(STREAM)):
        data, frames = splitter.feed(STREAM[at : at + 1])
        kinds += [(kind, channel, data[start:end]) for kind, channel, start, end in frames]
        octets += data
    assert octets == STREAM
    assert kinds == [(kind, channel, STREAM[start:end]) for kind, channel, start, end in whole[1]]


def test_an_incomplete_frame_is_kept() -> None:
    splitter = Splitter()
    assert splitter.feed(STREAM[:-1])[0] + splitter.feed(STREAM[-1:])[0] == STREAM
    splitter.feed(STREAM[:5])
    assert splitter.rest() == STREAM[:5]
    assert splitter.rest() == b""


def test_what_is_no_frame_ends_the_splitting_and_is_forwarded() -> None:
    for malformed in (b"\x09" + bytes(9), frame(1, 1, b"1234")[:-1] + b"\x00", b"\x03\x00\x01\xff\xff\xff\xffabc"):
        splitter = Splitter()
        data, frames = splitter.feed(HEARTBEAT + malformed)
        assert (data, len(frames), splitter.opaque) == (HEARTBEAT + malformed, 1, True)
        assert splitter.feed(b"more") == (b"more", [])


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_no_octet_is_lost_whatever_comes(pieces: list[bytes]) -> None:
    splitter = Splitter()
    octets = b"".join(splitter.feed(piece)[0] for piece in pieces)
    assert octets + splitter.rest() == b"".join(pieces)
