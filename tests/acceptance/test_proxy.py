"""`pace proxy` as a process, with real clients: nothing is lost, what is too fast waits, and all of it shows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx
import kombu
import pika
import pytest
from pika.exceptions import AMQPError
from proxied import CAPACITY_PER_S, PATIENCE_S, Broker, Running, proxying, send_with_pika, started, until


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Running]:
    with started(tmp_path, "--queue", "orders") as running:
        yield running


@pytest.fixture
def consume() -> Iterator[Callable[..., list[bytes]]]:
    """Start a plain consumer of pika that works 10 ms on each message; the list that it returns fills."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def _work(url: str, prefetch: int, done: list[bytes]) -> None:
        with suppress(AMQPError), pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.queue_declare("orders", durable=True)
            channel.basic_qos(prefetch_count=prefetch)
            for method, _, body in channel.consume("orders", inactivity_timeout=0.05):
                if stop.is_set():
                    return
                if method is not None:
                    time.sleep(1 / CAPACITY_PER_S)
                    channel.basic_ack(method.delivery_tag)
                    done.append(body)

    def _consume(url: str, prefetch: int = 10) -> list[bytes]:
        done: list[bytes] = []
        threads.append(threading.Thread(target=_work, args=(url, prefetch, done)))
        threads[-1].start()
        return done

    yield _consume
    stop.set()
    for thread in threads:
        thread.join(60)


def send_with_aio_pika(url: str, count: int) -> None:
    async def send() -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            messages = [aio_pika.Message(b"%d" % number) for number in range(count)]
            await asyncio.gather(*(channel.default_exchange.publish(message, "orders") for message in messages))

    asyncio.run(send())


def send_with_kombu(url: str, count: int) -> None:
    with kombu.Connection(
        url.replace("amqp://", "pyamqp://"), transport_options={"confirm_publish": True}
    ) as connection:
        producer = connection.Producer()
        for number in range(count):
            producer.publish(b"%d" % number, routing_key="orders")


@pytest.mark.parametrize("send", [send_with_pika, send_with_aio_pika, send_with_kombu])
def test_a_client_that_changes_only_the_port_is_paced_and_loses_nothing(
    proxy: Running, consume: Any, send: Callable[[str, int], None]
) -> None:
    done = consume(proxy.url)
    assert until(lambda: len(proxy.status()["consumers"]) == 1)
    send(proxy.url, 150)
    assert until(lambda: len(done) == 150)
    assert sorted(map(int, done)) == list(range(150))
    queue = proxy.paced()
    assert (queue["published"], queue["confirmed"], queue["nacked"]) == (150, 150, 0)
    assert queue["hold_ms"]["p99"] > 1
    [watched] = [one for one in proxy.status()["watched"] if one["name"] == "orders"]
    assert (watched["delivered"], watched["acknowledged"], watched["unacked"]) == (150, 150, 0)
    assert watched["wait_ms"]["p50"] > 0
    metrics = httpx.get(f"{proxy.api_url}/metrics", trust_env=False, timeout=PATIENCE_S).text
    assert 'pace_proxy_wait_seconds_count{queue="orders"} 150.0' in metrics


def test_only_the_port_of_the_consumer_changes_and_a_producer_of_ours_keeps_its_pace(
    proxy: Running, consume: Any
) -> None:
    done = consume(proxy.url, prefetch=0)
    assert until(lambda: len(proxy.status()["consumers"]) == 1)
    command = [sys.executable, "-m", "backpressure", "producer", "--url", proxy.broker_url, "--queue", "orders"]
    command += ["--predeclared", "--count", "300", "--no-api"]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=os.environ | {"PACE_CONFIG": ""}
    )
    assert "confirmed=300" in finished.stdout
    assert until(lambda: len(done) == 300)
    assert "silent" not in finished.stderr  # the proxy has reported for its consumer


def test_producers_behind_two_proxies_share_the_pace_of_a_consumer_behind_a_third(tmp_path: Path, consume: Any) -> None:
    broker = Broker(tmp_path)
    broker.start()
    ended = threading.Event()

    def send(url: str) -> None:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            while not ended.is_set():
                channel.basic_publish("", "orders", b"x", mandatory=True)

    try:
        with ExitStack() as stack:
            *before, after = [
                stack.enter_context(proxying(tmp_path / name, broker.url, "--queue", "orders", broker=broker))
                for name in ("first", "second", "third")
            ]
            done = consume(after.url)
            assert until(lambda: len(after.status()["consumers"]) == 1)
            senders = [threading.Thread(target=send, args=(one.url,)) for one in before]
            for sender in senders:
                sender.start()
            try:
                assert until(lambda: all(one.paced()["published"] for one in before))
                begun = [one.paced()["published"] for one in before]
                both_since = len(done)
                assert until(lambda: len(done) >= both_since + 300)
                paced = [one.paced() for one in before]
            finally:
                ended.set()
                for sender in senders:
                    sender.join(60)
            assert [queue["state"] for queue in paced] == ["pacing", "pacing"]
            assert all(queue["bottleneck_per_s"] for queue in paced)  # from the reports of the third
            shares = [queue["published"] - earlier for queue, earlier in zip(paced, begun, strict=True)]
            assert min(shares) >= 75  # neither displaces the other
            assert all(queue["hold_ms"]["p99"] > 1 for queue in paced)
            assert until(lambda: len(done) == sum(one.paced()["confirmed"] for one in before))
    finally:
        broker.stop()


def test_a_dry_run_holds_nothing_and_tells_what_would_wait(tmp_path: Path, consume: Any) -> None:
    with started(tmp_path, "--queue", "orders", "--dry-run") as running:
        done = consume(running.url)
        assert until(lambda: len(running.status()["consumers"]) == 1)
        send_with_aio_pika(running.url, 20)
        assert until(lambda: len(done) == 20 and running.paced()["allowed_per_s"] is not None)
        send_with_aio_pika(running.url, 200)
        assert running.paced()["published"] == 220
        assert running.paced()["would_have_waited"] > 0
        assert running.paced()["state"] == "dry run"
        assert until(lambda: len(done) == 220)


def test_a_queue_can_be_paused_and_its_law_changed(proxy: Running, consume: Any) -> None:
    done = consume(proxy.url)
    assert until(lambda: len(proxy.status()["consumers"]) == 1)

    def configure(**change: Any) -> httpx.Response:
        return httpx.post(f"{proxy.api_url}/admin/config", json=change, trust_env=False, timeout=PATIENCE_S)

    assert configure(queue="orders", paused=True).json()["queues"][0]["state"] == "paused"
    sending = threading.Thread(target=send_with_pika, args=(proxy.url, 5))
    sending.start()
    assert until(lambda: proxy.status()["held_messages"] == 1)
    assert done == []
    answer = configure(queue="orders", paused=False, strategy="aimd", target_wait_ms=50)
    assert (answer.json()["queues"][0]["strategy"], answer.json()["queues"][0]["target_wait_ms"]) == ("aimd", 50)
    sending.join(60)
    assert until(lambda: len(done) == 5)
    for refused in ({"queue": "other"}, {"strategy": "no such"}, {"target_wait_ms": 0}, {"unknown": 1}):
        assert configure(**refused).status_code == 422
    metrics = httpx.get(f"{proxy.api_url}/metrics", trust_env=False, timeout=PATIENCE_S).text
    assert 'pace_proxy_messages_published_total{queue="orders"} 5.0' in metrics
    assert 'pace_proxy_acknowledged_total{queue="orders"} 5.0' in metrics


def test_a_client_that_is_held_is_told_and_stopping_lets_go_what_waits(tmp_path: Path) -> None:
    with started(tmp_path, "--queue", "orders", "--drain-timeout", "0.1") as running:
        told: list[str] = []
        connection = pika.BlockingConnection(pika.URLParameters(running.url))
        connection.add_on_connection_blocked_callback(lambda *_: told.append("blocked"))
        channel = connection.channel()
        channel.queue_declare("orders", durable=True)
        httpx.post(f"{running.api_url}/admin/config", json={"paused": True}, trust_env=False, timeout=PATIENCE_S)
        for _ in range(20):
            channel.basic_publish("", "orders", b"x")
        connection.process_data_events(0)
        assert until(lambda: connection.process_data_events(0) or bool(told))  # type: ignore[func-returns-value]
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(AMQPError):
            connection.process_data_events(20)
        assert running.process.wait(60) == 0
        with pika.BlockingConnection(pika.URLParameters(running.broker_url)) as direct:
            declared = direct.channel().queue_declare("orders", passive=True)
            assert declared.method.message_count == 20


def test_what_is_not_confirmed_when_the_proxy_is_killed_is_known_to_the_client(proxy: Running) -> None:
    confirmed = 0
    with pika.BlockingConnection(pika.URLParameters(proxy.broker_url)) as direct:
        direct.channel().queue_declare("orders", durable=True)
    connection = pika.BlockingConnection(pika.URLParameters(proxy.url))
    channel = connection.channel()
    channel.confirm_delivery()
    threading.Timer(1.0, proxy.process.kill).start()
    with suppress(AMQPError):
        while True:
            channel.basic_publish("", "orders", b"x")
            confirmed += 1
    with pika.BlockingConnection(pika.URLParameters(proxy.broker_url)) as direct:
        found = direct.channel().queue_declare("orders", passive=True).method.message_count
    assert confirmed <= found <= confirmed + 1


def test_a_client_of_another_protocol_is_told_and_harms_nobody(proxy: Running) -> None:
    host, port = "127.0.0.1", urlsplit(proxy.url).port
    for first in (b"AMQP\x00\x01\x00\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection((host, port), timeout=60) as client:
            client.sendall(first)
            assert client.recv(100) == b"AMQP\x00\x00\x09\x01"
            assert client.recv(100) == b""
    send_with_pika(proxy.url, 1)
    text = proxy.log.read_text()
    assert all(f"speaks {name}" in text for name in ("AMQP 1.0", "TLS", "HTTP"))


def test_without_a_broker_clients_are_turned_away_until_there_is_one(proxy: Running) -> None:
    proxy.broker.stop()
    with pytest.raises(AMQPError):
        pika.BlockingConnection(pika.URLParameters(proxy.url))
    assert until(lambda: "no broker at" in proxy.log.read_text())
    assert proxy.process.poll() is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--upstream", "kafka://localhost:9092"], "expected amqp:// or amqps://"),
        (["--listen", "nonsense"], "expected host:port"),
        (["--route", "nonsense"], "expected EXCHANGE/KEY=QUEUE"),
        (["--tls-key", "key.pem"], "give --tls-cert too"),
        (["--tls-cert", "no-such.pem"], "cannot be used"),
        (["--strategy", "no-such"], "expected one of"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: list[str], expected: str) -> None:
    command = [sys.executable, "-m", "backpressure", "proxy", "--listen", "127.0.0.1:0", "--no-api", *options]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PACE_CONFIG": ""}
    )
    assert finished.returncode == 2
    assert re.fullmatch(rf"error: .*{re.escape(expected)}.*\n", finished.stderr)
