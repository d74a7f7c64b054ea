"""With a data directory, what the embedded broker confirmed survives a sudden kill."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pika.adapters.blocking_connection import BlockingChannel


@dataclass
class Broker:
    process: subprocess.Popen[bytes]
    url: str
    management_url: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def start(directory: Path) -> Iterator[Broker]:
    announce = directory / "broker.json"
    announce.unlink(missing_ok=True)
    options = ["--port", "0", "--management-port", "0", "--announce", str(announce), "--data-dir", str(directory)]
    process = subprocess.Popen([sys.executable, "-m", "backpressure.broker", *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not announce.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        about = json.loads(announce.read_text())
        yield Broker(process, about["url"], f"http://127.0.0.1:{about['management_port']}/api")
    finally:
        process.kill()
        process.wait()


@contextmanager
def channel_of(broker: Broker) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    with suppress(AMQPError, OSError):
        connection.close()


def publish(channel: BlockingChannel, queue: str, body: str, **properties: Any) -> None:
    channel.basic_publish("", queue, body.encode(), pika.BasicProperties(**{"delivery_mode": 2, **properties}))


def drain(channel: BlockingChannel, queue: str) -> list[str]:
    found = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append(got[2].decode())
    return found


def test_what_was_confirmed_survives_a_kill_and_what_was_acknowledged_stays_gone(tmp_path: Path) -> None:
    with start(tmp_path) as broker, channel_of(broker) as channel:
        channel.queue_declare("kept", durable=True)
        for number in range(50):
            publish(channel, "kept", str(number))
        for _ in range(20):
            channel.basic_ack(channel.basic_get("kept")[0].delivery_tag)
        channel.basic_get("kept")  # unacknowledged at the end
        broker.kill()
    with start(tmp_path) as broker, channel_of(broker) as channel:
        assert channel.queue_declare("kept", passive=True).method.message_count == 30
        assert channel.basic_get("kept")[0].redelivered is True
        channel.basic_recover(requeue=True)
        assert drain(channel, "kept") == [str(number) for number in range(20, 50)]


def test_a_kill_in_full_flight_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    confirmed: list[str] = []
    with start(tmp_path) as broker, channel_of(broker) as channel:
        channel.queue_declare("kept", durable=True)
        killer = threading.Thread(target=broker.kill)
        with suppress(AMQPError, OSError):
            for number in range(1_000_000):
                publish(channel, "kept", str(number))
                confirmed.append(str(number))
                if number == 100:
                    killer.start()  # while more are published
        killer.join()
    assert len(confirmed) > 100
    with start(tmp_path) as broker, channel_of(broker) as channel:
        found = drain(channel, "kept")
    assert found[: len(confirmed)] == confirmed
    assert len(found) <= len(confirmed) + 1  # the one whose confirm was on its way


def test_the_topology_survives_and_what_is_not_durable_does_not(tmp_path: Path) -> None:
    policy = {"pattern": "^kept$", "definition": {"max-length": 2}, "apply-to": "queues"}
    with start(tmp_path) as broker, channel_of(broker) as channel:
        channel.exchange_declare("lasting", "topic", durable=True)
        channel.exchange_declare("fleeting", "topic")
        channel.queue_declare("kept", durable=True, arguments={"x-message-ttl": 600_000})
        channel.queue_declare("transient")
        channel.queue_bind("kept", "lasting", "a.#")
        publish(channel, "transient", "gone")
        publish(channel, "kept", "gone too", delivery_mode=1)
        publish(channel, "kept", "stays")
        assert httpx.put(
            f"{broker.management_url}/policies/%2F/p", json=policy, auth=("guest", "guest"), trust_env=False, timeout=60
        )
        publish(channel, "kept", "stays as well")
        broker.kill()
    with start(tmp_path) as broker, channel_of(broker) as channel:
        channel.exchange_declare("lasting", "topic", durable=True)
        channel.queue_declare("kept", durable=True, arguments={"x-message-ttl": 600_000})
        channel.basic_publish("lasting", "a.b", b"bound", pika.BasicProperties(delivery_mode=2), mandatory=True)
        assert drain(channel, "kept") == ["stays as well", "bound"]  # the policy keeps two
        for missing in (
            lambda: channel.connection.channel().queue_declare("transient", passive=True),
            lambda: channel.connection.channel().exchange_declare("fleeting", passive=True),
        ):
            with pytest.raises(ChannelClosedByBroker, match="404"):
                missing()


def test_a_deleted_queue_stays_deleted_and_its_name_starts_again(tmp_path: Path) -> None:
    with start(tmp_path) as broker, channel_of(broker) as channel:
        for text in ("old", "new"):
            channel.queue_delete("kept")
            channel.queue_declare("kept", durable=True)
            publish(channel, "kept", text)
        broker.kill()
    with start(tmp_path) as broker, channel_of(broker) as channel:
        assert drain(channel, "kept") == ["new"]


def test_a_ttl_runs_on_while_the_broker_is_away(tmp_path: Path) -> None:
    with start(tmp_path) as broker, channel_of(broker) as channel:
        channel.queue_declare("kept", durable=True)
        publish(channel, "kept", "short", expiration="1")
        publish(channel, "kept", "long", expiration="600000")
        broker.kill()
    with start(tmp_path) as broker, channel_of(broker) as channel:
        assert drain(channel, "kept") == ["long"]


def test_two_brokers_do_not_share_a_directory(tmp_path: Path) -> None:
    with start(tmp_path):
        command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
        second = subprocess.run(
            [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
        )
    assert second.returncode == 2
    assert "--data-dir" in second.stderr


def test_a_damaged_directory_ends_the_start_with_exit_code_2_and_what_to_do(tmp_path: Path) -> None:
    with start(tmp_path) as broker, channel_of(broker) as channel:
        channel.queue_declare("kept", durable=True)
        for number in range(20):
            publish(channel, "kept", str(number))
        broker.kill()
    log = tmp_path / "broker.sqlite3-wal"
    octets = bytearray(log.read_bytes())
    octets[len(octets) // 2] ^= 0xFF
    log.write_bytes(octets)
    command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
    refused = subprocess.run(
        [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 2
    assert "truncate -s" in refused.stderr
    assert "Traceback" not in refused.stderr
