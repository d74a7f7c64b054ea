"""Addresses of several servers, IPv6 ones among them, and logins: as the clients get them."""

from __future__ import annotations

from typing import Any

import pytest

from backpressure import Paced
from backpressure.errors import ConfigError
from backpressure.integrations.aiokafka_client import _configuration
from backpressure.integrations.clients import BLOCKING_CLIENTS, CLIENTS, client_class
from backpressure.integrations.watcher import _transport

SEVERAL = "kafka://one,two:9093,[::1]:9094"


def test_aiokafka_gets_every_server_of_a_list() -> None:
    configuration = _configuration(SEVERAL)
    assert configuration["bootstrap_servers"] == ["one:9092", "two:9093", "[::1]:9094"]
    assert configuration["security_protocol"] == "PLAINTEXT"


def test_aiokafka_logs_in_as_the_url_says() -> None:
    configuration = _configuration("kafka+ssl://us%40er:p%2Fw@one/?sasl=SCRAM-SHA-512")
    told = {name: configuration[name] for name in configuration if name.startswith(("sasl", "security"))}
    assert told == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "us@er",
        "sasl_plain_password": "p/w",
    }


def test_an_address_that_is_none_is_said_to_be_none() -> None:
    with pytest.raises(ConfigError, match="expected a host"):
        _configuration("kafka://a b:9092")


def test_what_watches_keeps_the_login_in_the_query_of_kafkas_url_and_drops_that_of_amqp() -> None:
    assert _transport(f"{SEVERAL}/?sasl=SCRAM-SHA-512", "pace.feedback", "").address == (
        "kafka://one:9092,two:9093,[::1]:9094"
    )
    assert _transport("amqp://localhost/?heartbeat=5", "pace.feedback", "").address == "amqp://localhost:5672"


@pytest.mark.parametrize(("url", "module"), [(SEVERAL, "aiokafka_client"), ("AMQPS://[::1]/", "aio_pika_client")])
def test_the_scheme_chooses_the_library(url: str, module: str) -> None:
    kind: Any = client_class(url, CLIENTS)
    assert kind.__module__ == f"backpressure.integrations.{module}"
    assert client_class(url, BLOCKING_CLIENTS) is not kind


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ConfigError, match="redis://localhost"):
        Paced("redis://localhost", "orders")
