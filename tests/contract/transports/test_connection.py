"""Brokers that are reached over a network: connecting, losing the connection, reconnecting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from backpressure.errors import AccessRefusedError, BrokerUnavailableError, NotConnectedError
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient

Play = Callable[..., None]

pytestmark = pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])


def settings_at(url: str, **broker: Any) -> Settings:
    pauses = {"reconnect_min_s": 0.05, "reconnect_max_s": 0.1}
    return Settings.model_validate({"broker": pauses | {"url": url} | broker})


def test_without_waiting_a_broker_that_is_away_is_an_error_at_once(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.proxy.leave()
        probe = connect(settings_at(bench.proxy.url, wait=False)).probe()
        with pytest.raises(BrokerUnavailableError, match=r"^no broker at amqp://127\.0\.0\.1:\d+: connection refused$"):
            await probe.start()
        await bench.proxy.listen()

    play(story)


def test_waiting_for_a_broker_takes_one_line_and_ends_when_it_appears(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        await bench.proxy.leave()
        await bench.admin.stop()
        caplog.clear()
        transport = connect(settings_at(bench.proxy.url))
        products = [transport.probe(), transport.admin(), transport.feedback()]
        starting = [asyncio.create_task(bench.started(product)) for product in products]
        await bench.until(lambda: "waiting for one" in caplog.text)
        await asyncio.sleep(0.3)  # some more attempts
        assert not any(task.done() for task in starting)
        await bench.proxy.listen()
        await asyncio.gather(*starting)
        waiting, connected = (record.getMessage() for record in caplog.records)
        assert waiting == (f"no broker at {transport.address} (connection refused): waiting for one")
        assert connected.startswith(f"connected to the broker at {transport.address} after")

    with caplog.at_level(logging.INFO, logger="backpressure"):
        play(story)


@pytest.mark.parametrize("wait", [True, False])
def test_wrong_credentials_are_refused_at_once_without_showing_them(play: Play, wait: bool) -> None:
    async def story(bench: Any) -> None:
        url = bench.proxy.url.replace("guest:guest", "guest:s3cret")
        with pytest.raises(AccessRefusedError, match="ACCESS_REFUSED") as caught:
            await connect(settings_at(url, wait=wait)).probe().start()
        assert "s3cret" not in str(caught.value)

    play(story)


def test_a_wrong_virtual_host_is_refused_at_once(play: Play) -> None:
    async def story(bench: Any) -> None:
        with pytest.raises(AccessRefusedError, match="nowhere"):
            await connect(settings_at(f"{bench.proxy.url}nowhere")).probe().start()

    play(story)


def test_an_outage_takes_two_lines_however_many_connections_notice_it(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Any) -> None:
        probe = await bench.started(bench.transport.probe())
        _publisher, publisher_log = await bench.publisher()
        _subscriber, subscriber_log = await bench.subscriber()
        await bench.proxy.leave()
        await bench.until(lambda: publisher_log.count("lost") == 1 and len(subscriber_log.losses) == 1)
        with pytest.raises(NotConnectedError):
            await probe.read(bench.queue.work)
        await bench.proxy.listen()
        await bench.until(lambda: publisher_log.count("ready") == 2 and subscriber_log.ready == 2)
        lost, back = (record.getMessage() for record in caplog.records)
        assert lost == f"lost the broker at {bench.transport.address} (connection lost): connecting again"
        assert back.startswith(f"connected to the broker at {bench.transport.address} after")

    with caplog.at_level(logging.INFO, logger="backpressure"):
        play(story)


def test_a_connection_closed_by_the_broker_is_lost_with_the_brokers_reason(play: Play) -> None:
    async def story(bench: Any) -> None:
        publisher, log = await bench.publisher()
        bench.send(publisher, b"1")
        await bench.until(lambda: log.confirmed == {1})
        async with ManagementClient(bench.broker.management_url) as management:
            while not log.count("lost"):  # statistics lag: they may still name connections of before, and not yet ours
                for one in await management.connections():
                    if one.client_name.startswith("producer-"):
                        await management.close_connection(one.name, "for the test")
                await asyncio.sleep(0.1)
        await bench.until(lambda: log.count("ready") == 2)
        (lost,) = (event[1] for event in log.events if event[0] == "lost")
        assert "CONNECTION_FORCED" in str(lost)

    play(story)


def test_stopping_while_waiting_for_a_broker_gives_up_quietly(play: Play) -> None:
    async def story(bench: Any) -> None:
        await bench.proxy.leave()
        publisher = connect(settings_at(bench.proxy.url)).publisher()
        starting = asyncio.create_task(publisher.start(None))
        await asyncio.sleep(0.1)
        starting.cancel()
        await publisher.stop()
        await bench.proxy.listen()

    play(story)


def test_a_broker_that_never_answers_the_handshake_is_not_a_broker(play: Play) -> None:
    async def story(bench: Any) -> None:
        visitors: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _reader, writer: visitors.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        probe = connect(settings_at(f"amqp://127.0.0.1:{port}", wait=False, connect_timeout_s=0.2)).probe()
        with pytest.raises(BrokerUnavailableError, match="no answer in time"):
            await probe.start()
        silent.close()
        visitors[0].close()
        await visitors[0].wait_closed()

    play(story)


def test_giving_up_while_the_broker_has_not_answered_yet_is_quiet(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def story(bench: Any) -> None:
        arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

        async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.put_nowait(writer)

        async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            given_up = connect(settings_at(f"amqp://127.0.0.1:{port}")).probe()
            starting = asyncio.create_task(given_up.start())
            writer = await arrived.get()
            await given_up.stop()
            with pytest.raises(asyncio.CancelledError):
                await starting
            writer.transport.abort()
        probe = await bench.started(bench.transport.probe())
        await probe.read(bench.queue.work)

    play(story)
    assert caplog.messages == []
