"""Where to connect, depending on the settings."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from backpressure.errors import ConfigError, NotConnectedError
from backpressure.settings import BrokerSettings
from backpressure.transports.connecting import Outage
from backpressure.transports.rabbitmq.link import RabbitMQLink, connection_parameters


def parameters_of(broker: BrokerSettings, name: str = "test") -> Any:
    return connection_parameters(broker, name, broker.servers()[-1])


def dialled(**settings: Any) -> tuple[Any, ...]:
    parameters = parameters_of(BrokerSettings.model_validate(settings))
    credentials = parameters.credentials
    return parameters.host, parameters.port, parameters.virtual_host, credentials.username, credentials.password


def test_host_port_and_user_make_the_url() -> None:
    assert dialled(host="h", port=1, username="u", password="p@/:", virtual_host="a/b") == ("h", 1, "a/b", "u", "p@/:")


def test_a_url_wins_and_its_escapes_are_undone() -> None:
    url = "amqp://some%40one:p%2Fw@broker.example:1234/team%2Fa"
    assert dialled(url=url, host="other") == ("broker.example", 1234, "team/a", "some@one", "p/w")


@pytest.mark.parametrize("path", ["", "/", "/%2F", "/%2f"])
def test_an_empty_path_is_the_default_virtual_host(path: str) -> None:
    assert dialled(url=f"amqp://broker.example{path}") == ("broker.example", 5672, "/", "guest", "guest")


def test_a_url_without_credentials_takes_them_from_the_settings() -> None:
    assert dialled(url="amqp://broker.example", username="u", password="p")[-2:] == ("u", "p")


def test_patience_and_the_shown_name_come_from_the_settings() -> None:
    broker = BrokerSettings(heartbeat_s=7, connect_timeout_s=2.5, blocked_timeout_s=40)
    parameters = parameters_of(broker, "producer-me-1")
    assert (parameters.heartbeat, parameters.socket_timeout, parameters.stack_timeout) == (7, 2.5, 2.5)
    assert parameters.blocked_connection_timeout == 40
    assert parameters.client_properties["connection_name"] == "producer-me-1"


def test_amqps_verifies_host_and_certificate() -> None:
    parameters = parameters_of(BrokerSettings(url="amqps://broker.example"))
    assert parameters.port == 5671
    assert parameters.ssl_options.server_hostname == "broker.example"
    assert parameters.ssl_options.context.check_hostname
    assert parameters.ssl_options.context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("setting", ["ca_file", "cert_file"])
def test_an_unusable_tls_file_is_a_configuration_error_that_names_it(setting: str, tmp_path: Path) -> None:
    for file in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        (tmp_path / "empty.pem").touch()
        broker = BrokerSettings.model_validate({"url": "amqps://broker.example", setting: str(file)})
        with pytest.raises(ConfigError) as caught:
            parameters_of(broker)
        assert (caught.value.key, caught.value.value) == (f"broker.{setting}", str(file))


def test_no_password_is_ever_shown() -> None:
    broker = BrokerSettings(url="amqp://user:s3cret@broker.example")
    assert "s3cret" not in repr(parameters_of(broker))
    assert "s3cret" not in broker.address()


def test_each_server_of_a_cluster_is_dialled_with_the_same_login() -> None:
    assert dialled(url="amqp://u:p@one,[::1]:5673/v") == ("::1", 5673, "v", "u", "p")
    assert dialled(host="one,two:5674", port=1, username="u", password="p") == ("two", 5674, "/", "u", "p")
    assert dialled(host="one:5674,::1", port=1)[:2] == ("::1", 1)
    assert dialled(url="amqp:///v", host="one,two")[:3] == ("two", 5672, "v")


def test_a_silent_host_is_left_soon_only_when_there_is_another() -> None:
    assert parameters_of(BrokerSettings(host="one")).tcp_options is None
    assert parameters_of(BrokerSettings(host="one,two")).tcp_options["TCP_USER_TIMEOUT"] == 1500


class Answering:
    """A connection to a server that answers, or else only accepts."""

    def __init__(self, server: Any, *, answers: bool) -> None:
        self.server = server
        self.answers = answers
        self.lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def shut(self, _patience_s: float) -> None:
        if not self.lost.done():
            self.lost.set_result(NotConnectedError("shut"))


def test_a_server_that_accepts_and_answers_nothing_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a node of a cluster does when another one has just died."""
    broker = BrokerSettings.model_validate(
        {"url": "amqp://one,two", "connect_timeout_s": 0.01, "reconnect_min_s": 0.001, "reconnect_max_s": 0.001}
    )

    async def play() -> list[tuple[str, bool]]:
        dialled: list[Answering] = []
        is_up = asyncio.Event()

        async def dial(server: Any) -> Any:
            dialled.append(Answering(server, answers=len(dialled) != 1))
            return dialled[-1]

        async def set_up(connection: Any) -> None:
            if not connection.answers:
                await asyncio.Event().wait()
            is_up.set()

        link = RabbitMQLink(broker, "test", Outage("amqp://one,two"), set_up=set_up)
        monkeypatch.setattr(link, "_dial", dial)
        await link.start()
        is_up.clear()
        dialled[0].lost.set_result(NotConnectedError("killed"))
        await asyncio.wait_for(is_up.wait(), 10)
        await link.stop()
        return [(connection.server[0], connection.answers) for connection in dialled]

    first, silent, last = asyncio.run(play())
    assert (first[1], silent[1], last[1]) == (True, False, True)
    assert silent[0] != last[0]
