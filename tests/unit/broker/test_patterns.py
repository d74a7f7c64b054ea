"""Policies' patterns mean what Python's mean, and no name keeps the broker busy."""

from __future__ import annotations

import re
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backpressure.broker.patterns import Pattern, PatternError, _Program
from backpressure.broker.policy import Policy, matching

LETTERS = [
    "a",
    "b",
    "A",
    ".",
    "-",
    "\\.",
    "[ab]",
    "[^a]",
    "[a-c]",
    "\\d",
    "\\W",
    "\\w",
    "[\\s-]",
    "^",
    "$",
    "\\b",
    "\\A",
    "\\Z",
]
expressions = st.recursive(
    st.sampled_from(LETTERS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "+?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda ways: f"({'|'.join(ways)})"),
        inner.map(lambda body: f"(?={body})"),
        inner.map(lambda body: f"(?!{body})"),
        inner.map(lambda body: f"(?i:{body})"),
    ),
    max_leaves=8,
)


@given(expressions, st.text("abcAB.-1\n", max_size=9))
def test_every_pattern_means_what_pythons_matcher_says(text: str, name: str) -> None:
    expected = re.search(text, name) is not None
    assert _Program(parser.parse(text)).search(name) is expected
    assert Pattern(text).found_in(name) is expected


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("(?<=a)b", "ab", True),
        ("(?<!a)b", "ab", False),
        ("(?s)a.b", "a\nb", True),
        ("(?m)^b$", "a\nb", True),
        ("(?x) a  b", "ab", True),
        ("(?P<name>a)", "a", True),
        ("É(?i:é)", "ÉÉ", True),
    ],
)
def test_rarer_syntax_is_understood_too(text: str, name: str, found: bool) -> None:
    assert _Program(parser.parse(text)).search(name) is found
    assert Pattern(text).found_in(name) is found


@pytest.mark.parametrize(
    "text",
    [
        "^(a+)+$",
        "^(a|a)*$",
        "^(a|aa)+$",
        "(a*)*b",
        "^(?:a?){60}a{60}$",
        "^" + "a?" * 60 + "a" * 61 + "$",
        ".*.*.*.*.*.*.*b",
        "^(?=(a+)+$)(a+)+!",
        "^(([a-z])+.)+[A-Z]([a-z])+$",
        "(?i)^(A+)+$",
    ],
)
def test_no_pattern_keeps_the_broker_busy_whatever_the_name(text: str) -> None:
    assert Pattern(text).found_in("a" * 254 + "!") is False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(", "is not a regular expression"),
        ("a{1,99999999999}", "is not a regular expression"),
        ("[[:alpha:]]", "is not a regular expression: Possible nested set"),
        (r"(a+)+\1", "groupref, which cannot be matched in bounded time"),
        ("((a{1,200}){1,200}b)+", "is too large"),
        ("(?>a+)+b", "atomic_group"),
        ("(a++)+b", "possessive_repeat"),
    ],
)
def test_what_cannot_be_matched_in_bounded_time_is_refused(text: str, reason: str) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)):
        Pattern(text)


def test_the_usual_patterns_are_left_to_pythons_matcher() -> None:
    for text in ("^work\\.queue$", ".*", "^(?!amq\\.).*", "^(orders|audit)\\..*\\.dlq$", "q"):
        assert not isinstance(getattr(Pattern(text)._search, "__self__", None), _Program), text


def test_the_highest_priority_rules_whatever_number_it_is() -> None:
    def policy(name: str, priority: Any) -> Policy:
        return Policy.parse(name, {"pattern": "", "definition": {"max-length": 1}, "priority": priority})

    found = matching([policy("low", -1), policy("high", 1.5), policy("huge", 10**400)], "q", "queues")
    assert found is not None
    assert found.name == "huge"
