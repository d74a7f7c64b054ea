"""URLs of brokers, which may name several servers."""

from __future__ import annotations

import pytest

from backpressure.core.addresses import BrokerAddress


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://one,two:9093,[::1]:9094", (("one", None), ("two", 9093), ("::1", 9094))),
        ("amqp://[::1],[fe80::1%eth0]:5673/", (("::1", None), ("fe80::1%eth0", 5673))),
        ("amqp://Broker.Example:5672/x,y", (("broker.example", 5672),)),
        ("amqp://user:p,w@one,two/", (("one", None), ("two", None))),
        ("amqp:///", (("", None),)),
        ("memory://here", (("here", None),)),
    ],
)
def test_every_server_of_a_list_is_found(url: str, servers: tuple[tuple[str, int | None], ...]) -> None:
    assert BrokerAddress.parse(url).servers == servers


def test_the_login_is_decoded_and_the_path_is_left_as_it_is() -> None:
    address = BrokerAddress.parse("kafka+ssl://us%40er:p%3Aw@one/a%2Fb?sasl=PLAIN&x=1#part")
    assert (address.scheme, address.username, address.password) == ("kafka+ssl", "us@er", "p:w")
    assert (address.path, address.query) == ("/a%2Fb", "sasl=PLAIN&x=1")


@pytest.mark.parametrize(
    "url", ["amqp://one,,two", "amqp://one,", "amqp://[::1", "amqp://::1:5", "amqp://one:99999", "amqp://[one]"]
)
def test_an_impossible_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        BrokerAddress.parse(url)
