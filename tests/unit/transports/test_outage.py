"""Pauses between attempts, and the two log lines of an outage."""

from __future__ import annotations

import logging
from itertools import islice

import pytest

from backpressure.errors import BrokerUnavailableError, NotConnectedError
from backpressure.transports.connecting import Outage, pauses

ADDRESS = "amqp://broker.example:5672"


def test_pauses_double_up_to_the_longest_one() -> None:
    longest = pauses(0.2, 3.0, uniform=lambda _low, high: high)
    assert list(islice(longest, 6)) == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0]


def test_a_pause_is_at_least_half_of_its_longest() -> None:
    shortest = pauses(0.2, 3.0, uniform=lambda low, _high: low)
    assert list(islice(shortest, 6)) == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5]


def test_clients_do_not_come_back_in_step() -> None:
    assert list(islice(pauses(0.2, 3.0), 5)) != list(islice(pauses(0.2, 3.0), 5))


def test_only_the_first_failure_and_the_first_success_of_an_outage_are_worth_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage(ADDRESS)
    with caplog.at_level(logging.INFO, logger="backpressure"):
        outage.end()
        for _ in range(3):
            outage.begin(BrokerUnavailableError(ADDRESS, "connection refused"))
        for _ in range(3):
            outage.end()
        outage.begin(NotConnectedError(f"lost the broker at {ADDRESS} (connection lost)"))
        assert outage.reason == f"lost the broker at {ADDRESS} (connection lost)"
        outage.end()
        assert outage.reason == ""
    away, back, lost, _ = caplog.messages
    assert away == f"no broker at {ADDRESS} (connection refused): waiting for one"
    assert back.startswith(f"connected to the broker at {ADDRESS} after 0.")
    assert lost == f"lost the broker at {ADDRESS} (connection lost): connecting again"
