"""URLs of brokers, which may name several servers."""

from __future__ import annotations

import pytest

from backpressure.core.addresses import BrokerAddress, server_list


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


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("one", (("one", None),)),
        ("one,two:5673", (("one", None), ("two", 5673))),
        ("::1,[::1]:5674,[fe80::1]", (("::1", None), ("::1", 5674), ("fe80::1", None))),
    ],
)
def test_hosts_in_a_setting_may_have_ports(text: str, servers: tuple[tuple[str, int | None], ...]) -> None:
    assert server_list(text) == servers


@pytest.mark.parametrize("text", ["one,", ",one", "one two", "one:x,two", "one/,two", ""])
def test_an_impossible_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        server_list(text)


def test_what_a_url_leaves_out_comes_from_the_defaults() -> None:
    assert BrokerAddress.parse("amqp://one,two:1/").hosts("other", 5672) == [("one", 5672), ("two", 1)]
    assert BrokerAddress.parse("amqp:///v").hosts("one:7,two", 5672) == [("one", 7), ("two", 5672)]
    assert BrokerAddress.parse("amqp://:9/v").hosts("one:7,two", 5672) == [("one", 7), ("two", 9)]


def test_a_list_becomes_a_url_for_each_server() -> None:
    address = BrokerAddress.parse("amqps://u%40x:p%2Fw@one,[::1]:5673/a%2Fb?x=1")
    assert address.single() == ["amqps://u%40x:p%2Fw@one/a%2Fb?x=1", "amqps://u%40x:p%2Fw@[::1]:5673/a%2Fb?x=1"]
    assert BrokerAddress.parse("amqp://one").single() == ["amqp://one"]
