"""A Kafka broker that requires a login, TLS or a certificate: who gets in, who may do what, and what the others see."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from backpressure.errors import AccessRefusedError, BrokerUnavailableError
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.kafka_node import PrivateKafka, find_kafka

Play = Callable[..., None]

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.parametrize("kind", ["kafka"])]

NUMBERS = [b"%d" % number for number in range(10)]
SECRET, GUESS = "s3cret", "gu3ss"
PROTOCOLS = {"LOGIN": "SASL_PLAINTEXT", "TLS": "SSL", "BOTH": "SASL_SSL", "MUTUAL": "SSL"}

# The listeners of every private broker stay; those that look whether it is ready need no login.
_SECURITY = """\
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocols}
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.login.plain.sasl.jaas.config={plain}
listener.name.both.plain.sasl.jaas.config={plain}
listener.name.login.scram-sha-512.sasl.jaas.config={scram}
listener.name.both.scram-sha-512.sasl.jaas.config={scram}
listener.name.mutual.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:alice;User:CN=client
ssl.keystore.type=PEM
ssl.keystore.location={certificates}/server-with-key.pem
ssl.truststore.type=PEM
ssl.truststore.location={certificates}/authority.pem
"""
_MODULES = "org.apache.kafka.common.security"


class SecuredKafka(PrivateKafka):
    """One broker that listens in every way there is; ``servers`` tells where, by the names of ``PROTOCOLS``."""

    def __init__(self, certificates: Path) -> None:
        super().__init__(port=0, advertised_port=None)
        self.certificates = certificates
        self.servers: dict[str, str] = {}

    def _configuration(self) -> str:
        ports = self._ports.reserve([(0, "")] * len(PROTOCOLS))
        self.servers = {name: f"127.0.0.1:{port}" for name, port in zip(PROTOCOLS, ports, strict=True)}
        more = "".join(f",{name}://{server}" for name, server in self.servers.items())
        common = re.sub(r"^(advertised\.)?listeners=.*$", rf"\g<0>{more}", super()._configuration(), flags=re.MULTILINE)
        return common + _SECURITY.format(
            protocols=",".join(f"{name}:{protocol}" for name, protocol in PROTOCOLS.items()),
            plain=f'{_MODULES}.plain.PlainLoginModule required user_alice="{SECRET}" user_carol="{SECRET}";',
            scram=f"{_MODULES}.scram.ScramLoginModule required;",
            certificates=self.certificates,
        )

    async def permit(self, principal: str, kind: ResourceType, name: str, operation: AclOperation) -> None:
        """Run one action as one user."""
        client = AdminClient({"bootstrap.servers": self.url.removeprefix("kafka://")})
        pattern, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
        for future in client.create_acls([AclBinding(kind, name, pattern, principal, "*", operation, allow)]).values():
            await asyncio.wrap_future(future)

    def add_scram_user(self) -> None:
        """Let alice in by SCRAM; unlike those for PLAIN, such passwords are the cluster's."""
        client = AdminClient({"bootstrap.servers": self.url.removeprefix("kafka://")})
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, iterations=4096)
        (added,) = client.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("alice", info, SECRET.encode())]
        ).values()
        added.result()


@dataclass(frozen=True)
class Way:
    """A way in: a listener, what stands in the URL around its address, and files by setting."""

    listener: str
    scheme: str = "kafka"
    login: str = ""
    query: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def settings(self, bench: Any, **broker: Any) -> Settings:
        node = bench.broker
        files = {setting: str(node.certificates / name) for setting, name in self.files.items()}
        url = f"{self.scheme}://{self.login}{node.servers[self.listener]}{self.query}"
        changed = bench.settings.broker.model_copy(update={"url": url} | files | broker)
        settings: Settings = bench.settings.model_copy(update={"broker": changed})
        return settings


TRUST = {"ca_file": "authority.pem"}
SHOW = {"cert_file": "client.pem", "key_file": "client.key"}
ALICE, MALLORY, CAROL = f"alice:{SECRET}@", f"alice:{GUESS}@", f"carol:{SECRET}@"
SCRAM = "?sasl=SCRAM-SHA-512"

WELCOME = {
    "PLAIN": Way("LOGIN", login=ALICE),
    "SCRAM": Way("LOGIN", login=ALICE, query=SCRAM),
    "TLS": Way("TLS", "kafka+ssl", files=TRUST),
    "PLAIN over TLS": Way("BOTH", "kafka+ssl", login=ALICE, files=TRUST),
    "SCRAM over TLS": Way("BOTH", "kafka+ssl", login=ALICE, query=SCRAM, files=TRUST),
    "a certificate": Way("MUTUAL", "kafka+ssl", files=TRUST | SHOW),
}
REFUSED = {
    "wrong password": (Way("LOGIN", login=MALLORY), "SASL authentication error: .*Invalid username or password"),
    "wrong SCRAM": (Way("LOGIN", login=MALLORY, query=SCRAM), "SASL authentication error: .*invalid credentials"),
    "wrong over TLS": (Way("BOTH", "kafka+ssl", login=MALLORY, files=TRUST), "Invalid username or password"),
    "a mechanism it lacks": (Way("LOGIN", login=ALICE, query="?sasl=SCRAM-SHA-256"), "Unsupported SASL mechanism"),
    "an unknown authority": (Way("TLS", "kafka+ssl"), "certificate not trusted"),
    "another authority": (Way("TLS", "kafka+ssl", files={"ca_file": "stranger.pem"}), "certificate not trusted"),
    "no certificate": (Way("MUTUAL", "kafka+ssl", files=TRUST), r"it asks for a client certificate: broker\.cert_file"),
}


def _make_certificates(directory: Path) -> None:
    """Write two authorities, and what the first has signed for the broker and for a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    for name in ("authority", "stranger"):
        made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        openssl("req", "-x509", *made, "-subj", f"/CN={name}")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    for name in ("server", "client"):
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        signed = [
            "-CA",
            "authority.pem",
            "-CAkey",
            "authority.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "names",
        ]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    parts = [(directory / name).read_text(encoding="utf-8") for name in ("server.key", "server.pem")]
    (directory / "server-with-key.pem").write_text("".join(parts), encoding="utf-8")


@pytest.fixture(scope="module")
def secured(
    go_without: Callable[[str, str], NoReturn], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredKafka]:
    if find_kafka() is None:
        go_without("kafka", "Java 17 or the jars that `make kafka` fetches are missing")
    directory = tmp_path_factory.mktemp("certificates")
    _make_certificates(directory)
    with SecuredKafka(directory) as node:
        node.add_scram_user()
        yield node


@pytest.fixture
def broker(secured: SecuredKafka) -> SecuredKafka:
    """The broker that stories are played on: queues are declared and removed by way of the listener in the clear."""
    return secured


@pytest.mark.parametrize("way", WELCOME)
def test_a_client_with_all_rights_can_do_everything(play: Play, way: str) -> None:
    async def story(bench: Any) -> None:
        bench.transport = connect(WELCOME[way].settings(bench))
        admin = await bench.started(bench.transport.admin())
        assert re.fullmatch(r"\d+\.\d+", (await admin.identity()).version)
        heard: list[bytes] = []
        feedback = await bench.started(bench.transport.feedback(), heard.append)
        assert feedback.send(b"report")
        await bench.publish(*NUMBERS)
        subscriber, log = await bench.subscriber()
        await bench.until(lambda: log.bodies == NUMBERS)
        assert subscriber.nack(log.deliveries[0], requeue=False)
        assert subscriber.ack(log.deliveries[8], multiple=True)
        probe = await bench.started(bench.transport.probe())
        await bench.quiet(probe, ready=0)
        assert (await probe.read(bench.queue.work)).consumers == 1
        await bench.until(lambda: heard == [b"report"])
        await subscriber.stop()
        assert await bench.contents() == NUMBERS[9:]
        assert await bench.contents(bench.queue.dead_letter) == NUMBERS[:1]

    play(story)


@pytest.mark.parametrize("way", REFUSED)
def test_a_client_that_lacks_something_is_told_once_and_does_not_wait(
    play: Play, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        entrance, reason = REFUSED[way]
        bench.transport = connect(entrance.settings(bench, wait=True))
        caplog.clear()
        for start in (
            bench.started(bench.transport.admin()),
            bench.started(bench.transport.probe()),
            bench.started(bench.transport.feedback()),
            bench.publisher(),
            bench.subscriber(),
        ):
            with pytest.raises(AccessRefusedError, match=rf"^access to kafka.*:\d+ refused: .*{reason}") as caught:
                await start
            assert SECRET not in str(caught.value)
            assert GUESS not in str(caught.value)
        assert caplog.text == ""

    with caplog.at_level(logging.DEBUG):
        play(story)


def test_a_consumer_without_the_right_to_its_group_does_not_wait_for_it(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.broker.permit("User:carol", ResourceType.TOPIC, bench.queue.work, AclOperation.READ)
        bench.transport = connect(Way("LOGIN", login=CAROL).settings(bench, wait=True))
        with pytest.raises(AccessRefusedError, match=r"^access to kafka.*:\d+ refused: .*Group authorization failed"):
            await bench.subscriber()

    play(story)


def test_a_user_without_the_right_to_create_works_with_the_topics_that_exist(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.started(bench.transport.feedback())
        reports = bench.settings.feedback.exchange
        for topic in (bench.queue.work, bench.queue.dead_letter, reports):
            await bench.broker.permit("User:carol", ResourceType.TOPIC, topic, AclOperation.DESCRIBE)
        for operation in (AclOperation.READ, AclOperation.WRITE):
            await bench.broker.permit("User:carol", ResourceType.TOPIC, reports, operation)
        transport = connect(Way("LOGIN", login=CAROL).settings(bench, wait=False))
        admin = await bench.started(transport.admin())
        await admin.declare(bench.queue)
        heard: list[bytes] = []
        bus = await bench.started(transport.feedback(), heard.append)
        assert bus.send(b"report")
        await bench.until(lambda: heard == [b"report"])

    play(story)


def test_a_consumer_that_may_not_read_its_topic_says_so_once(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def story(bench: Any) -> None:
        await bench.publish(*NUMBERS)
        await bench.broker.permit("User:carol", ResourceType.TOPIC, bench.queue.work, AclOperation.DESCRIBE)
        await bench.broker.permit("User:carol", ResourceType.GROUP, f"pace.{bench.queue.work}", AclOperation.READ)
        bench.transport = connect(Way("LOGIN", login=CAROL).settings(bench, wait=True))
        _, log = await bench.subscriber()
        await bench.until(lambda: "opic authorization failed" in caplog.text)
        await asyncio.sleep(1)  # each retry reports it again
        assert not log.deliveries
        assert caplog.text.count("opic authorization failed") == 1

    play(story)


def test_a_client_without_login_or_tls_is_told_that_this_may_be_the_cause(play: Play) -> None:
    async def story(bench: Any) -> None:
        for listener in ("LOGIN", "TLS"):
            settings = Way(listener).settings(bench, wait=False, connect_timeout_s=1.0)
            with pytest.raises(BrokerUnavailableError, match=r"does it want TLS \(kafka\+ssl://…\) or a login"):
                await connect(settings).admin().start()

    play(story)
