"""``pace lab``: queues to try out in a browser. Also ``pace lab-worker``, its task workers."""

from __future__ import annotations

import asyncio
import os
import sys

import click

from backpressure import program
from backpressure.cli import options
from backpressure.cli.local_brokers import discovered_for_lab
from backpressure.cli.options import setting
from backpressure.cli.process import run_engine, settings_from
from backpressure.config import PREFIX, as_environment, replaced
from backpressure.engines.clock import Clock
from backpressure.errors import ConfigError
from backpressure.lab.pubsub import PubSub
from backpressure.lab.queues import queue_named
from backpressure.lab.service import Board, Lab
from backpressure.lab.tasks import Tasks, TaskWorker, WorkerPool
from backpressure.settings import Settings
from backpressure.telemetry.own_process import announce
from backpressure.transports.base import Transport
from backpressure.transports.factory import connect
from backpressure.transports.rabbitmq import RabbitMQTransport


@click.command()
@options.connection
@setting("--kafka-url", key="lab.kafka_url")
@setting("--api-port", key="api.lab_port", help="Port of the lab service; 0: any free one")
@options.logs
@click.pass_context
def lab(context: click.Context, /, **_: object) -> None:
    """Serve the lab: a page and an HTTP API to try out queues.

    Send and consume on RabbitMQ and Kafka, distribute tasks among workers, publish to subscribers. While a broker is
    not available the answers say so; the lab works as soon as it is.
    """
    program.require_posix("pace lab", "an event loop that starts processes beside AMQP")
    program.run(_serve(settings_from(context, discovered_for_lab)))


@click.command(hidden=True)
@click.argument("name")
@options.logs
@click.pass_context
def worker(context: click.Context, /, name: str, **_: object) -> None:
    """Work on the lab's tasks until standard input ends. Started by `pace lab`."""
    program.run(_work(settings_from(context), name))


async def _serve(settings: Settings) -> None:
    from backpressure.api.serving import ApiServer
    from backpressure.lab.app import lab_app

    engine = _engine(settings)
    api = settings.api
    app = lab_app(engine)
    async with ApiServer(
        app, host=api.host, port=api.lab_port, token=api.token, key="api.host", flag="--api-port"
    ) as server:

        def on_started() -> None:
            announce(settings.process.announce_file, role="lab", id=f"lab-{os.getpid()}", api_url=server.url)
            kafka = engine.kafka.address if engine.kafka else "not available"
            click.echo(f"lab: {server.url}/ (RabbitMQ: {engine.rabbitmq.address}, Kafka: {kafka})")

        await run_engine(engine, on_started=on_started)


async def _work(settings: Settings, name: str) -> None:
    engine = TaskWorker(connect(settings), settings.lab, name, Clock())

    def on_started() -> None:
        asyncio.get_running_loop().add_reader(sys.stdin, read)
        click.echo(f"{name} is ready")

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            engine.stop()

    await run_engine(engine, on_started=on_started)


def _engine(settings: Settings) -> Lab:
    if settings.broker.parts().scheme not in {"amqp", "amqps"}:
        allowed = "the lab needs an AMQP broker here (amqp://…); the URL of Kafka belongs in lab.kafka_url"
        raise ConfigError("broker.url", settings.broker.url, allowed)
    settings = replaced(settings, {"broker.wait": False})  # requests fail at once if the broker is not available
    transport = RabbitMQTransport(settings)
    messages = queue_named(settings.lab, "messages")
    kept = settings.lab.kept_messages
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, "-m", "backpressure", "lab-worker"]
    pool = WorkerPool(command, inherited | as_environment(settings), settings.lab.max_workers)
    kafka, missing = _kafka(settings)
    return Lab(
        rabbitmq=Board(transport, messages, kept),
        tasks=Tasks(transport, settings.lab, pool),
        pubsub=PubSub(transport, settings.lab),
        kafka=Board(kafka, messages, kept) if kafka else None,
        kafka_missing=missing,
    )


def _kafka(settings: Settings) -> tuple[Transport | None, str]:
    """Return the Kafka transport, or None and the reason."""
    url = settings.lab.kafka_url
    if not url:
        return None, "Kafka is not configured: pace lab --kafka-url kafka://localhost:9092 (lab.kafka_url)"
    messages = queue_named(settings.lab, "messages")
    changes = {"broker.url": url, "queue.work": messages.work, "queue.dead_letter": messages.dead_letter}
    changes |= {"queue.exchange": messages.exchange, "queue.routing_key": messages.routing_key}
    try:
        return connect(replaced(settings, changes)), ""
    except ConfigError as error:
        return None, str(error)
