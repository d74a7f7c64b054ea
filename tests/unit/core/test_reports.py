"""Feedback reports: encoded and decoded, and nothing in a foreign report does harm."""

from __future__ import annotations

import json
import struct
from dataclasses import MISSING, fields, replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.core.histogram import MAX_BUCKET, Histogram
from backpressure.core.reports import (
    ConsumerReport,
    Fullness,
    ProducerReport,
    Report,
    completed,
    decode,
    encode,
    encode_compact,
    sender_of,
)
from backpressure.errors import FeedbackError

HISTOGRAMS = st.builds(
    Histogram,
    st.dictionaries(st.integers(0, MAX_BUCKET), st.integers(1, 10**9), max_size=5),
    st.floats(0, 1e9),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(0, 1 << 62),
    "float": st.floats(0, 1e12),
    "float | None": st.none() | st.floats(0, 1e12),
    "int | None": st.none() | st.integers(0, 3),
    "str": st.text(max_size=10),
    "bool": st.booleans(),
    "Histogram": HISTOGRAMS,
}


def reports_of(
    kind: type[ProducerReport | ConsumerReport], **values: st.SearchStrategy[Any]
) -> st.SearchStrategy[Report]:
    chosen = VALUES | values
    return st.builds(kind, **{spec.name: chosen[str(spec.type)] for spec in fields(kind) if spec.name != "brief"})


SMALL = {"int": st.integers(0, (1 << 32) - 1)}
SMALL_REPORTS = reports_of(ProducerReport, **SMALL) | reports_of(ConsumerReport, **SMALL)
REPORTS = reports_of(ProducerReport) | reports_of(ConsumerReport)
SAMPLE = ConsumerReport(
    **{
        spec.name: {"int": 1, "float": 1.5, "float | None": None, "int | None": None, "str": "x", "bool": False}[
            str(spec.type)
        ]
        for spec in fields(ConsumerReport)
        if spec.type != "Histogram"
    }
)


def plain(report: Report) -> dict[str, Any]:
    """Return the fields, histograms as their content: two histograms are not equal by themselves."""
    values = {spec.name: getattr(report, spec.name) for spec in fields(report) if spec.name != "brief"}
    return {name: (v.counts, v.sum_s, v.total) if isinstance(v, Histogram) else v for name, v in values.items()}


@given(REPORTS, st.integers(0, 1 << 62), st.integers(1, 1 << 20))
def test_reports_of_one_process_begin_alike_and_those_of_two_do_not(report: Report, at_ns: int, pid: int) -> None:
    later = replace(report, at_ns=at_ns, queue="other")
    assert sender_of(encode(later)) == sender_of(encode(report))
    assert sender_of(encode(replace(report, pid=report.pid + pid))) != sender_of(encode(report))


@given(REPORTS)
def test_a_report_is_decoded_as_it_was_encoded(report: Report) -> None:
    decoded = decode(encode(report))
    assert type(decoded) is type(report)
    assert plain(decoded) == plain(report)


@given(reports_of(ProducerReport))
def test_a_rate_may_be_infinite_a_total_may_not(report: Report) -> None:
    content = json.loads(encode(report))
    decoded = decode(json.dumps(content | {"pacing_rate_per_s": inf}).encode())
    assert isinstance(decoded, ProducerReport)
    assert decoded.pacing_rate_per_s == inf
    with pytest.raises(FeedbackError, match="cpu_s"):
        decode(json.dumps(content | {"cpu_s": inf}).encode())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("id", "half a pair: \ud800"),
        ("host", "x" * 1001),
        ("queue", "x" * 256),
        ("queue", "é" * 128),
    ],
)
def test_a_text_that_cannot_be_shown_or_asked_for_is_refused(name: str, text: str) -> None:
    content = json.loads(encode(SAMPLE))
    with pytest.raises(FeedbackError, match=name):
        decode(json.dumps(content | {name: text}).encode())
    assert decode(json.dumps(content | {name: "é" * 100}).encode())
    assert decode(json.dumps(content | {"api_url": text * 1000}).encode()).api_url == ""


@pytest.mark.parametrize(("reason", "told"), [("é" * 1000, "é" * 500), ("half a pair: \ud800", "half a pair: ?")])
def test_a_report_that_is_too_long_is_sent_shortened(reason: str, told: str) -> None:
    assert decode(encode(replace(SAMPLE, id=reason))).id == told


@given(REPORTS, st.data())
def test_a_missing_field_has_its_default_or_is_named(report: Report, data: st.DataObject) -> None:
    content = json.loads(encode(report))
    spec = data.draw(st.sampled_from(fields(report)))
    missing = {name: value for name, value in content.items() if name != spec.name}
    for told in (missing, missing | {spec.name: None}):  # null is what Go and Java make of a value that is not set
        if spec.default is not MISSING:
            assert getattr(decode(json.dumps(told).encode()), spec.name) == spec.default
        elif spec.default_factory is not MISSING:
            assert getattr(decode(json.dumps(told).encode()), spec.name).total == 0
        else:
            with pytest.raises(FeedbackError, match=spec.name):
                decode(json.dumps(told).encode())


MINIMAL = {
    "v": 2, "role": "consumer", "id": "orders-1", "queue": "orders", "at_ns": 1_790_000_000_000_000_000,
    "processed": 120, "held": 2, "prefetch": 10, "busy_s": 1,
}  # fmt: skip


def test_nine_fields_are_a_report() -> None:
    report = decode(json.dumps(MINIMAL).encode())
    assert isinstance(report, ConsumerReport)
    assert (report.id, report.queue, report.processed, report.held, report.prefetch) == (
        "orders-1",
        "orders",
        120,
        2,
        10,
    )
    assert (report.host, report.pid, report.capacity_per_s, report.paused) == ("", 0, None, False)


@pytest.mark.parametrize("name", MINIMAL)
def test_each_of_the_nine_is_needed(name: str) -> None:
    with pytest.raises(FeedbackError, match=name):
        decode(json.dumps({key: value for key, value in MINIMAL.items() if key != name}).encode())


def test_a_report_of_another_version_is_refused_with_both_versions() -> None:
    with pytest.raises(FeedbackError, match="version 3: this program reads version 2"):
        decode(json.dumps(MINIMAL | {"v": 3, "at_ns": "is a text now"}).encode())
    with pytest.raises(FeedbackError, match="version 1: this program reads version 2"):
        decode(json.dumps(MINIMAL | {"v": 1}).encode())


@pytest.mark.parametrize("version", [True, "2", None, [], 2.5, 10**4000])
def test_what_is_not_a_version_is_refused_in_few_words(version: object) -> None:
    with pytest.raises(FeedbackError) as refused:
        decode(json.dumps(MINIMAL | {"v": version}).encode())
    assert len(str(refused.value)) < 100


def test_reports_that_begin_with_the_time_are_senders_of_their_own() -> None:
    """Go sorts the keys of a map: the time may stand before the id, and then nothing before it tells who reports."""
    first = {key: MINIMAL[key] for key in ("v", "role", "at_ns", "id", "queue")}
    one, other = (json.dumps(first | {"id": name}, separators=(",", ":")).encode() for name in ("one", "other"))
    assert sender_of(one) != sender_of(other)


@given(REPORTS)
def test_a_field_that_a_later_version_adds_is_ignored(report: Report) -> None:
    content = json.loads(encode(report))
    assert plain(decode(json.dumps(content | {"mood": "good"}).encode())) == plain(report)


@pytest.mark.parametrize("value", [-1, 1 << 70, "7", True, 1.5, float("nan"), [7]])
def test_what_is_not_a_count_is_refused(value: object) -> None:
    content = json.loads(encode(SAMPLE))
    with pytest.raises(FeedbackError, match="pid"):
        decode(json.dumps(content | {"pid": value}).encode())


@pytest.mark.parametrize(
    "histogram",
    [
        5,
        [],
        "",
        "0",
        "0 x",
        "a 0 1",
        "0 0 x",
        "0 0 1.5",
        "0 0 -1",
        f"0 0 {1 << 70}",
        "-1 0 1",
        f"{MAX_BUCKET} 0 1 1",
        "1 inf 1",
        "1 nan 1",
        "1 -1 1",
        f"0 0 {'9' * 5000}",
    ],
    ids=str,
)
def test_what_is_not_a_histogram_is_refused(histogram: object) -> None:
    content = json.loads(encode(SAMPLE))
    with pytest.raises(FeedbackError, match="not a histogram"):
        decode(json.dumps(content | {"queue_wait": histogram}).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"{", b"[]", b"5", b"{}", b'{"v":1,"role":"producer"}', b'{"v":2,"role":"spy"}', b"[" * 99999],
)
def test_what_is_not_a_report_is_refused(data: bytes) -> None:
    with pytest.raises(FeedbackError):
        decode(data)


@given(REPORTS, st.data(), JSON)
def test_a_report_that_was_tampered_with_is_refused_or_sound(report: Report, data: st.DataObject, value: Any) -> None:
    content = json.loads(encode(report))
    name = data.draw(st.sampled_from(sorted(content)))
    try:
        decoded = decode(json.dumps(content | {name: value}).encode())
    except FeedbackError:
        return
    for spec in fields(decoded):
        field = getattr(decoded, spec.name)
        if isinstance(field, Histogram):
            assert (field.quantile_s(0.99) is None) == (field.total == 0)
        elif isinstance(field, (int, float)):
            assert field >= 0


USUAL = {
    "int": 120_705,
    "float": 12.5,
    "float | None": 99.5,
    "int | None": 2,
    "str": "orders-7f3a-consumer",
    "bool": True,
}
LEFT_OUT: dict[type[Report], dict[str, object]] = {
    ConsumerReport: dict.fromkeys(("queue_wait", "message_age", "service", "api_url")),
    ProducerReport: dict.fromkeys(
        (
            *("confirm_latency", "limiter_delay", "tick_lateness"),
            *("api_url", "strategy", "reason", "signal_quality", "unpaced_per_s"),
        )
    ),
}


def of_usual_size(kind: type[Report]) -> Report:
    histogram = Histogram({700: 3}, 1.5)
    values = {
        spec.name: histogram if spec.type == "Histogram" else USUAL[str(spec.type)]
        for spec in fields(kind)
        if spec.name != "brief"
    }
    return kind(**values)  # type: ignore[arg-type]  # each of its type


SINGLE = {
    "interval_s",
    "recent_s",
    "recent",
    "recent_busy_s",
    "capacity_per_s",
    "target_rate_per_s",
    "pacing_rate_per_s",
    "usable_rate_per_s",
    "weight",
}
SINGLE |= {"bottleneck_per_s", "signal_age_s", "tick_lateness_s"}  # with the precision that 4 octets have


def rounded(report: Report) -> dict[str, object]:
    singles = {name: getattr(report, name) for name in SINGLE if getattr(report, name, None) is not None}
    return plain(report) | {name: struct.unpack("f", struct.pack("f", value))[0] for name, value in singles.items()}


@given(REPORTS | SMALL_REPORTS)
def test_a_report_as_octets_is_decoded_as_it_was_encoded(report: Report) -> None:
    data = encode_compact(report)
    decoded = decode(data)
    assert type(decoded) is type(report)
    fits = data[:1] != b"{"  # values beyond the octets travel as JSON
    assert (rounded if fits else plain)(decoded) == (rounded if fits else plain)(report)


@pytest.mark.parametrize("kind", [ConsumerReport, ProducerReport])
def test_a_brief_report_has_at_most_200_octets_with_names_of_usual_length(kind: type[Report]) -> None:
    report = of_usual_size(kind)
    data = encode_compact(report, brief=True)
    assert len(data) <= 200
    decoded = decode(data)
    assert decoded.brief
    assert {**rounded(decoded), **LEFT_OUT[kind]} == {**rounded(report), **LEFT_OUT[kind]}


@pytest.mark.parametrize("kind", [ConsumerReport, ProducerReport])
def test_a_brief_report_is_completed_by_the_full_one_before_it(kind: type[Report]) -> None:
    full = replace(of_usual_size(kind), api_url="http://127.0.0.1:5000")
    brief = decode(encode_compact(replace(full, at_ns=full.at_ns + 1), brief=True))
    whole = completed(brief, decode(encode_compact(full)))
    assert plain(whole) == plain(replace(decode(encode_compact(full)), at_ns=full.at_ns + 1))
    assert completed(brief, None) is brief


def test_who_only_paces_skips_the_distributions_and_texts() -> None:
    data = encode_compact(of_usual_size(ConsumerReport))
    assert plain(decode(data[:-3] + b"???", histograms=False)) == plain(
        decode(encode_compact(of_usual_size(ConsumerReport), brief=True))
    )
    with pytest.raises(FeedbackError, match="not a compact feedback report"):
        decode(data[:-3] + b"???")


@given(SMALL_REPORTS, st.data())
def test_octets_that_are_cut_off_or_changed_are_refused_or_read_but_never_crash(report: Report, data: Any) -> None:
    octets = bytearray(encode_compact(report))
    for _ in range(data.draw(st.integers(0, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(octets[: data.draw(st.integers(0, len(octets)))]))
    except FeedbackError:
        return
    numbers = [v for v in plain(decoded).values() if isinstance(v, float)]
    assert all(number >= 0 for number in numbers)


@pytest.mark.parametrize("number", [float("nan"), -1.0, 1e30])
def test_octets_with_an_impossible_number_are_refused(number: float) -> None:
    data = encode_compact(replace(of_usual_size(ConsumerReport), busy_s=number), brief=True)
    with pytest.raises(FeedbackError, match="busy_s is out of range"):
        decode(data)


def test_octets_of_a_later_version_say_which_it_is() -> None:
    data = b"\x04" + encode_compact(of_usual_size(ConsumerReport))[1:]
    with pytest.raises(FeedbackError, match="compact feedback report of version 4: this program reads 3"):
        decode(data)


def test_a_name_that_is_too_long_for_octets_travels_as_json() -> None:
    report = replace(of_usual_size(ConsumerReport), id="x" * 300)
    assert decode(encode_compact(report, brief=True)).id == "x" * 300


def test_brief_and_full_reports_of_one_process_begin_differently_and_alike_among_themselves() -> None:
    report = of_usual_size(ConsumerReport)
    later = replace(report, at_ns=report.at_ns + 5, processed=9)
    assert sender_of(encode_compact(report, brief=True)) == sender_of(encode_compact(later, brief=True))
    assert sender_of(encode_compact(report)) == sender_of(encode_compact(later))
    assert sender_of(encode_compact(report)) != sender_of(encode_compact(report, brief=True))


def test_one_report_a_second_is_full() -> None:
    fullness = Fullness()
    assert [fullness.brief(now / 10) for now in range(12)] == [False, *[True] * 9, False, True]
