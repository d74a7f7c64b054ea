"""Frames: three distinct outcomes, however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.amqp.frames import DecodeError, FrameReader, content_frames, frame

payloads = st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65535), st.binary(max_size=60)), max_size=8)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(payloads, st.lists(st.integers(0, 10_000), max_size=20))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    reader, seen = FrameReader(4096), []
    for piece in split(b"".join(frame(*f) for f in sent), cuts):
        reader.feed(piece)
        seen += reader.frames()
    assert seen == sent


@given(payloads)
def test_a_reader_that_is_left_early_goes_on_where_it_was(sent: list[tuple[int, int, bytes]]) -> None:
    reader, seen = FrameReader(4096), []
    reader.feed(b"".join(frame(*f) for f in sent))
    for _ in sent:
        for found in reader.frames():
            seen.append(found)
            break
    assert seen == sent
    assert list(reader.frames()) == []


def test_an_incomplete_frame_is_not_an_error() -> None:
    reader = FrameReader(4096)
    reader.feed(frame(1, 1, b"hello")[:-1])
    assert list(reader.frames()) == []
    reader.feed(b"\xce")
    assert list(reader.frames()) == [(1, 1, b"hello")]


@pytest.mark.parametrize(
    "data",
    [b"\x07\x00\x00\x00\x00\x00\x00\xce", b"\x01\x00\x00\x00\x00\x00\x01x\x00", b"\x01\x00\x00\x00\x00\x10\x01" + b"x"],
    ids=["unknown type", "wrong end octet", "beyond frame_max"],
)
def test_what_is_not_a_frame_is_a_frame_error(data: bytes) -> None:
    reader = FrameReader(4096)
    reader.feed(data)
    with pytest.raises(DecodeError) as caught:
        list(reader.frames())
    assert caught.value.code == 501


def test_frames_before_a_bad_one_are_still_delivered() -> None:
    reader, seen = FrameReader(4096), []
    reader.feed(frame(1, 1, b"good") + b"\xff" * 8)
    with pytest.raises(DecodeError):
        seen.extend(reader.frames())
    assert seen == [(1, 1, b"good")]


@given(st.binary(max_size=300), st.integers(16, 100))
def test_content_is_cut_to_frame_max_and_adds_up(content: bytes, frame_max: int) -> None:
    reader = FrameReader(4096)
    reader.feed(content_frames(5, b"header", content, frame_max))
    head, *rest = reader.frames()
    assert head == (2, 5, b"header")
    assert all(kind == 3 and len(piece) + 8 <= frame_max for kind, _, piece in rest)
    assert b"".join(piece for _, _, piece in rest) == content


@pytest.mark.parametrize("data", [b"A", b"AMQP\x00\x00\x09"])
def test_an_incomplete_protocol_header_is_waited_for(data: bytes) -> None:
    reader = FrameReader(4096)
    reader.feed(data)
    assert reader.protocol_header() is None
    reader.feed(b"AMQP\x00\x00\x09\x01"[len(data) :] + b"rest")
    assert reader.protocol_header() == b"AMQP\x00\x00\x09\x01"
