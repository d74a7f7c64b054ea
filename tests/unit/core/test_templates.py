"""Payload templates: what each field gives, that it is repeatable, and which mistakes are named."""

from __future__ import annotations

import json
import re
from collections import Counter
from statistics import fmean, median

import pytest

from backpressure.core.templates import Draw, Template, chosen_by_share

MANY = 4000


def filled(text: str, number: int = 0, *, seed: int = 1, lines: tuple[str, ...] = ("one", "two")) -> str:
    draw = Draw(number, intended_ns=1_767_323_045_678_000_000, message_id="m-1", producer="p-1")
    return Template(text).bind(seed, lambda _path: lines)(draw)


def each(text: str) -> list[str]:
    fill = Template(text).bind(1, lambda _path: ("one", "two"))
    return [fill(Draw(number)) for number in range(MANY)]


def test_json_needs_no_escapes_and_text_without_fields_stays_as_it_is() -> None:
    order = json.loads(filled('{"order": {"id": "{uuid}", "n": {counter:100}}, "empty": {}}', 7))
    assert order["order"]["n"] == 107
    assert order["empty"] == {}
    assert filled('{"a": {"b": 1}}') == '{"a": {"b": 1}}'
    assert filled("{{uuid}} and {{int:1..6}}") == "{uuid} and {int:1..6}"


def test_values_depend_on_seed_field_and_number_only() -> None:
    text = "{uuid} {int:1..1000000} {text:5..50} {choice:a|b|c} {float:0..1} {sample:x}"
    assert filled(text, 3) == filled(text, 3)
    assert filled(text, 3) != filled(text, 4)
    assert filled(text, 3) != filled(text, 3, seed=2)


def test_the_same_field_has_the_same_value_in_one_message_and_a_label_makes_another() -> None:
    first, again, other = filled("{uuid} {uuid} {uuid#2}").split()
    assert first == again != other


def test_ids_are_uuids_of_version_4_and_all_different() -> None:
    ids = each("{uuid}")
    assert len(set(ids)) == MANY
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one) for one in ids)


def test_choices_come_as_often_as_their_shares_say() -> None:
    counts = Counter(each("{choice:new*7|paid*2|cancelled}"))
    assert [round(counts[name] / MANY, 1) for name in ("new", "paid", "cancelled")] == [0.7, 0.2, 0.1]
    choose = chosen_by_share({"a": 0.25, "b": 0.75}, b"key")
    assert Counter(map(choose, range(MANY)))["a"] / MANY == pytest.approx(0.25, abs=0.03)


def test_numbers_fill_their_range() -> None:
    assert set(map(int, each("{int:-1..2}"))) == {-1, 0, 1, 2}
    floats = [float(text) for text in each("{float:2..4}")]
    assert 2 <= min(floats) < 2.1
    assert 3.9 < max(floats) <= 4
    assert fmean(floats) == pytest.approx(3, abs=0.05)


def test_the_lengths_of_texts_follow_their_distribution() -> None:
    assert {len(text) for text in each("{text:12}")} == {12}
    assert {len(text) for text in each("{text:3..5}")} == {3, 4, 5}
    assert fmean(map(len, each("{text:exp(200)}"))) == pytest.approx(200, rel=0.06)
    assert median(map(len, each("{text:lognormal(200,0.5)}"))) == pytest.approx(200, rel=0.05)
    assert fmean(map(len, each("{text:normal(100,10)}"))) == pytest.approx(100, abs=1)
    assert all(text.isascii() and '"' not in text and "\\" not in text for text in each("{text:20}"))


def test_times_and_names_are_those_of_the_message() -> None:
    assert filled("{time} {time:ms} {time:iso} {id} {producer}") == (
        "1767323045 1767323045678 2026-01-02T03:04:05.678+00:00 m-1 p-1"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{guid}", r"there is no field \{guid\}; there are choice, counter"),
        ("{int:6}", "expected a range"),
        ("{int:6..1}", "above the second"),
        ("{int:a..b}", "not a whole number"),
        ("{choice:a*x}", "not a number"),
        ("{choice:a*0}", "expected options"),
        ("{choice:a*-1|b}", "cannot be negative"),
        ("{text:9..3}", "the smaller one first"),
        ("{text:99999999}", "expected lengths"),
        ("{text:exp(1,2)}", "expected exp"),
        ("{text:normal(1)}", "expected exp"),
        ("{text:exp(nan)}", "not a usable number"),
        ("{uuid:7}", "takes no argument"),
        ("{time:minutes}", "expected s, ms"),
        ("{sample}", "name of a file"),
    ],
)
def test_a_mistake_in_a_template_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Template(text)


def test_a_template_evaluates_nothing() -> None:
    for text in ("{__import__('os')}", "{0.__class__}", "{counter.__class__}", "${7*7}", "{{7*7}}", "%s", "{!r}"):
        assert filled(text) == text
    with pytest.raises(ValueError, match="there is no field"):
        Template("{__class__}")
