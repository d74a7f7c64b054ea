"""Numbers as people read them."""

from __future__ import annotations

import pytest

from backpressure.presentation.numbers import amount, binary_bytes, duration, figure, percent, rate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (0.4, "0.4"), (1, "1"), (9.94, "9.9"), (9.96, "10"), (950, "950"), (999.4, "999"),
        (999.6, "1K"), (1500, "1.5K"), (10_000, "10K"), (99_940, "99.9K"), (999_400, "999K"), (999_500, "1M"),
        (1_500_000, "1.5M"), (2_340_000_000, "2.3G"), (-1500, "-1.5K"), (float("inf"), "∞"),
    ],
)  # fmt: skip
def test_counts_take_few_characters(value: float | None, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (0.00025, "250 µs"), (0.00099951, "1.0 ms"), (0.0125, "12.5 ms"), (0.12, "120 ms"),
        (0.9999, "1.0 s"), (3.21, "3.2 s"), (45, "45 s"), (240, "4 min"), (9000, "2.5 h"),
    ],
)  # fmt: skip
def test_durations_choose_their_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_an_unknown_rate_is_a_dash_and_a_known_one_has_its_unit() -> None:
    assert rate(None) == "–"
    assert rate(1500) == "1.5K/s"
    assert percent(None) == "–"
    assert percent(0.124) == "12 %"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (512, "512 B"), (1536, "1.5 KiB"), (48 << 20, "48 MiB"), (2252 << 20, "2.2 GiB")],
)
def test_memory_is_counted_in_binary_units(value: int | None, text: str) -> None:
    assert binary_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (7.0, "7"), (0.123, "0.123"), (0.000_12, "0.00012"), (12.34, "12.3"), (99.96, "100"),
        (1234.5, "1\u2009234"), (-1_234_567, "-1\u2009234\u2009567"),
    ],
)  # fmt: skip
def test_a_result_has_three_digits_or_is_whole(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_a_result_has_a_unit_and_can_be_written_without_groups() -> None:
    assert figure(2.5, "ms") == "2.5\u202fms"
    assert figure(None, "ms") == "–"
    assert figure(1234.5, group="") == "1234"
