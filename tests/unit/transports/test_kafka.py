"""Addresses, names and messages for Kafka, without a broker."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError

from backpressure.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    ConfigError,
    MissingExtraError,
    NotConnectedError,
    QueueNotFoundError,
    TransportError,
)
from backpressure.settings import BrokerSettings, QueueSettings, Settings
from backpressure.transports.base import Cause
from backpressure.transports.factory import connect
from backpressure.transports.kafka import probe
from backpressure.transports.kafka.admin import topics_of
from backpressure.transports.kafka.client import client_configuration
from backpressure.transports.kafka.failures import dial_error, kafka_error, reason_of, refusal_of
from backpressure.transports.kafka.probe import LagReader, PartitionLag, Progress
from backpressure.transports.kafka.publisher import Routes
from backpressure.transports.kafka.records import group_id, topic_name
from backpressure.transports.kafka.release import api_versions_request, release_of
from backpressure.transports.kafka.settled import Mark
from backpressure.transports.kafka_node import (
    InnerPorts,
    KafkaMissingError,
    KafkaVoter,
    PrivateKafka,
    find_kafka,
    private_kafka,
)

ADDRESS = "kafka://broker.example:9092"


def configuration(url: str, **broker: Any) -> dict[str, Any]:
    return client_configuration(BrokerSettings(url=url, **broker), "me")


def test_the_transport_is_chosen_by_its_scheme_and_shows_no_password() -> None:
    transport = connect(Settings.model_validate({"broker": {"url": "kafka+ssl://user:s3cret@broker.example"}}))
    assert type(transport).__module__ == "backpressure.transports.kafka"
    assert transport.address == "kafka+ssl://broker.example:9092"


def test_without_the_client_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("backpressure.transports.kafka")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pace-matching\[kafka\]'"):
        connect(Settings.model_validate({"broker": {"url": "kafka://broker.example"}}))


def test_all_brokers_of_a_url_are_dialled() -> None:
    assert configuration("kafka://one,two:9093,[::1]:9094")["bootstrap.servers"] == "one:9092,two:9093,[::1]:9094"


def test_no_client_makes_a_topic_by_asking_for_it() -> None:
    assert configuration("kafka://broker")["allow.auto.create.topics"] is False


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("kafka://broker", "PLAINTEXT"),
        ("kafka+ssl://broker", "SSL"),
        ("kafka://user:pw@broker", "SASL_PLAINTEXT"),
        ("kafka+ssl://user:pw@broker", "SASL_SSL"),
    ],
)
def test_scheme_and_user_decide_about_the_security_protocol(url: str, protocol: str) -> None:
    assert configuration(url)["security.protocol"] == protocol


def test_login_and_certificates_come_from_url_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backpressure.transports.kafka.client.tls_context", lambda _broker: None)
    given = configuration("kafka+ssl://us%40er:p%3Aw@broker/?sasl=SCRAM-SHA-512", ca_file="ca.pem")
    assert {key: value for key, value in given.items() if key.startswith(("sasl", "ssl"))} == {
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "us@er",
        "sasl.password": "p:w",
        "ssl.ca.location": "ca.pem",
    }


def test_a_password_may_stay_out_of_the_url() -> None:
    assert configuration("kafka://user@broker", password="s3cret")["sasl.password"] == "s3cret"


def test_an_unknown_login_mechanism_is_refused_with_those_there_are_and_without_the_password() -> None:
    with pytest.raises(ConfigError, match=r"expected PLAIN or SCRAM-SHA-256 or SCRAM-SHA-512") as caught:
        configuration("kafka://user:s3cret@broker?sasl=GSSAPI")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("setting", ["ca_file", "cert_file"])
def test_an_unusable_tls_file_is_a_configuration_error_that_names_it(setting: str, tmp_path: Path) -> None:
    file = tmp_path / "empty.pem"
    file.touch()
    with pytest.raises(ConfigError, match=rf"broker\.{setting}"):
        configuration("kafka+ssl://broker", **{setting: str(file)})


@pytest.mark.parametrize(
    ("queue", "topic"), [("work.queue", "work.queue"), ("a b/ü", "a_b__"), ("..", "__"), ("x" * 300, "x" * 249)]
)
def test_a_topic_is_named_after_the_queue_as_far_as_kafka_allows(queue: str, topic: str) -> None:
    assert topic_name(queue) == topic
    assert group_id(queue) == f"pace.{topic}"


def test_a_message_goes_where_its_exchange_and_key_are_bound() -> None:
    routes = Routes(QueueSettings())
    assert routes.topics("direct.exchange", "work") == ("work.queue",)
    assert routes.topics("direct.exchange", "other") == ()
    assert routes.topics("", "work.queue.dlq") == ("work.queue.dlq",)
    assert Routes(QueueSettings(auditing=True)).topics("direct.exchange", "work") == ("work.queue", "audit.queue")


def test_topics_keep_records_forever_unless_a_lifetime_is_set() -> None:
    dead, work = topics_of(QueueSettings(partitions=4))
    assert (dead.name, dead.partitions, work.name, work.partitions) == ("work.queue.dlq", 1, "work.queue", 4)
    assert work.configuration["retention.ms"] == "-1"
    _, mortal, audit = topics_of(QueueSettings(message_ttl_ms=500, auditing=True))
    assert mortal.configuration["retention.ms"] == "500"
    assert audit.configuration["retention.ms"] == "-1"


def test_what_librdkafka_has_to_say_about_an_outage_is_heard_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[KafkaError] = []

    def consumer(configuration: dict[str, Any]) -> Consumer:
        return Consumer(configuration | {"error_cb": heard.append})

    async def story(url: str) -> None:
        reader = LagReader(BrokerSettings(url=url, connect_timeout_s=0.5), "me", "work")
        with pytest.raises(NotConnectedError):
            await reader.read()
        assert heard
        reader.close()

    monkeypatch.setattr(probe, "Consumer", consumer)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        asyncio.run(story(f"kafka://127.0.0.1:{closed.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, QueueNotFoundError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessRefusedError),
        (KafkaError._TRANSPORT, NotConnectedError),
        (KafkaError.NETWORK_EXCEPTION, NotConnectedError),
        (KafkaError.OFFSET_NOT_AVAILABLE, NotConnectedError),  # of a new leader
        (-137, NotConnectedError),  # librdkafka gave up the broker
        (KafkaError.POLICY_VIOLATION, TransportError),
    ],
)
def test_an_error_says_whether_waiting_helps(code: int, kind: type[TransportError]) -> None:
    assert type(kafka_error(KafkaError(code), ADDRESS, "work")) is kind


@pytest.mark.parametrize(
    ("code", "cause", "final"),
    [
        (KafkaError._QUEUE_FULL, Cause.FULL, False),
        (KafkaError.MSG_SIZE_TOO_LARGE, Cause.TOO_LARGE, True),
        (KafkaError.INVALID_RECORD, Cause.INVALID, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Cause.FORBIDDEN, True),
        (KafkaError.NOT_ENOUGH_REPLICAS, Cause.FAILED, False),
    ],
)
def test_a_refused_message_is_distinguished_from_a_full_queue(code: int, cause: Cause, final: bool) -> None:
    refusal = refusal_of(KafkaError(code))
    assert (refusal.cause, refusal.final) == (cause, final)
    assert "the queue is full" not in refusal.reason


def test_a_message_that_was_refused_with_others_may_be_in_order() -> None:
    assert not refusal_of(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), alone=False).final
    assert refusal_of(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), alone=False).final


def test_a_refused_login_is_not_retried() -> None:
    assert type(dial_error(KafkaError(KafkaError._AUTHENTICATION, "no"), ADDRESS)) is AccessRefusedError
    assert "part of the URL: kafka://user:password@" in str(dial_error(KafkaError(KafkaError._AUTHENTICATION), ADDRESS))
    untrusted = KafkaError(KafkaError._SSL, "SSL handshake failed: certificate verify failed: broker …")
    assert type(dial_error(untrusted, ADDRESS)) is AccessRefusedError


def test_a_broker_that_hangs_up_without_a_word_may_want_tls_or_a_login() -> None:
    error = dial_error(None, ADDRESS)
    assert type(error) is BrokerUnavailableError
    assert "TLS (kafka+ssl://…) or a login" in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "h:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused (after 0ms in state CONNECT)",
            "connection refused",
        ),
        ("sasl_ssl://h:9093/1: Disconnected (after 5ms in state UP)", "disconnected"),
        ("Broker: Topic authorization failed", "topic authorization failed"),
        (
            "sasl_plaintext://h:9/bootstrap: SASL authentication error: No (after 1ms in state AUTH_REQ)",
            "SASL authentication error: No",
        ),
        (
            "ssl://h:9/1: Receive failed: SSL routines::ssl/tls alert bad certificate",
            "it asks for a client certificate: broker.cert_file, broker.key_file",
        ),
    ],
)
def test_a_reason_is_a_short_sentence(text: str, reason: str) -> None:
    assert reason_of(KafkaError(KafkaError._TRANSPORT, text)) == reason


def test_lag_is_what_is_not_settled_and_unacked_what_a_consumer_holds_of_it() -> None:
    held = PartitionLag(0, start=100, end=120, mark=Mark(held=True, delivered=110, ranges=((103, 104),)))
    assert (held.lag, held.unacked, held.settled) == (18, 8, 102)
    returned = PartitionLag(0, start=100, end=120, mark=Mark(held=False, delivered=110, ranges=((103, 104),)))
    assert (returned.lag, returned.unacked) == (18, 0)
    assert PartitionLag(0, start=0, end=7, mark=None).lag == 7


def api_versions_response(features: dict[bytes, int]) -> bytes:
    requests = b"\x02" + struct.pack(">hhh", 18, 0, 4) + b"\x00"
    listed = bytes([len(features) + 1]) + b"".join(
        bytes([len(name) + 1]) + name + struct.pack(">hh", 1, newest) + b"\x00" for name, newest in features.items()
    )
    return struct.pack(">ih", 1, 0) + requests + struct.pack(">i", 0) + b"\x01\x00" + bytes([len(listed)]) + listed


@pytest.mark.parametrize(("level", "release"), [(1, "3.0"), (7, "3.3"), (21, "3.9"), (26, "4.1"), (27, "4.1")])
def test_the_release_is_known_by_the_level_of_its_metadata(level: int, release: str) -> None:
    assert release_of(api_versions_response({b"group.version": 1, b"metadata.version": level})) == release


@pytest.mark.parametrize("response", [b"", b"\x00" * 3, api_versions_response({}), api_versions_response({b"a": 1})])
def test_a_broker_that_reports_no_level_is_of_unknown_release(response: bytes) -> None:
    assert release_of(response) == "unknown"


def test_a_response_cut_short_anywhere_is_of_unknown_release() -> None:
    whole = api_versions_response({b"metadata.version": 27})
    assert {release_of(whole[:size]) for size in range(len(whole) - 1)} == {"unknown"}


def test_the_request_names_its_own_size() -> None:
    request = api_versions_request()
    assert struct.unpack(">i", request[:4]) == (len(request) - 4,)


@pytest.mark.parametrize("missing", ["java", "jars"])
def test_without_java_or_the_jars_the_error_says_how_to_get_them(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.touch(mode=0o755)
    libraries = tmp_path / "libs"
    libraries.mkdir()
    (libraries / "kafka_2.13-4.1.1.jar").touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    assert find_kafka() == libraries
    (java if missing == "java" else libraries / "kafka_2.13-4.1.1.jar").unlink()
    assert find_kafka() is None
    with pytest.raises(KafkaMissingError, match="make kafka fetches them"), private_kafka():
        pass


def test_progress_is_a_rate_over_the_last_half_second() -> None:
    progress = Progress()
    assert progress.rate_per_s(1000, now=0.0) == 0
    rates = [progress.rate_per_s(1000 + 10 * tick, now=tick / 10) for tick in range(1, 11)]
    assert rates == [pytest.approx(100)] * 10
    stopped = [progress.rate_per_s(1100, now=1 + tick / 10) for tick in range(1, 7)]
    assert stopped == sorted(stopped, reverse=True)
    assert stopped[-1] == 0


def test_a_topic_that_begins_again_has_made_no_progress() -> None:
    progress = Progress()
    progress.rate_per_s(1000, now=0.0)
    assert progress.rate_per_s(5, now=0.1) == 0
    assert progress.rate_per_s(15, now=0.2) == pytest.approx(100)


def test_a_broker_behind_a_proxy_tells_the_others_no_way_around_it() -> None:
    voter = KafkaVoter(2, "id", InnerPorts(1, 2), [InnerPorts(11, 12), InnerPorts(13, 14)])
    broker = PrivateKafka(0, None, voter)
    lines = broker._configuration().splitlines()
    broker._remove()
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    assert told["advertised.listeners"].endswith(",INTERNAL://127.0.0.1:13,CONTROLLER://127.0.0.1:14")
    assert told["listeners"].endswith(",INTERNAL://127.0.0.1:1,CONTROLLER://127.0.0.1:2")
    assert told["controller.quorum.voters"] == "1@127.0.0.1:12,2@127.0.0.1:14"
