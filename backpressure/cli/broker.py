"""``pace broker``: the embedded broker, or a private RabbitMQ node, in the foreground."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from backpressure.cli.commands import PaceGroup
from backpressure.program import on_stop_signals
from backpressure.transports.private_process import PrivateProcess

__all__ = ["broker"]


@click.group(cls=PaceGroup, invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; loopback only by design.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5672, show_default=True, help="AMQP port; 0: a free one."
)
@click.option(
    "--management-port",
    type=click.IntRange(0, 65535),
    default=15672,
    show_default=True,
    help="HTTP port; 0: a free one.",
)
@click.option("--memory-limit-mb", type=float, default=0.0, help="Raise the memory alarm here; 0: 40 % of memory.")
@click.option(
    "--announce", type=click.Path(dir_okay=False, path_type=Path), help="Write where it listens to this file."
)
@click.option("--max-connections", type=click.IntRange(1), default=1000, show_default=True, help="Refuse further ones.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep durable queues and persistent messages here; without it nothing survives a restart.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME=VALUE",
    help="Start with a fault, e.g. nack_share=0.1 or memory_alarm=true (repeatable); see docs/embedded-broker.md.",
)
@click.pass_context
def broker(
    context: click.Context,
    /,
    *,
    memory_limit_mb: float,
    announce: Path | None,
    faults: tuple[str, ...],
    **listening: Any,
) -> None:
    """Run the embedded AMQP 0-9-1 broker until Ctrl-C, for experiments on this machine.

    `pace broker rabbitmq` and `pace broker kafka` run private ones of these instead, where they are installed.
    """
    if context.invoked_subcommand is not None:
        return
    from backpressure.broker.faults import FaultSettings, parse_fault
    from backpressure.broker.server import BrokerConfig, serve

    config = BrokerConfig(
        memory_limit_bytes=int(memory_limit_mb * 1_000_000),
        faults=FaultSettings().updated(dict(map(parse_fault, faults))),
        **listening,
    )
    asyncio.run(serve(config, announce=announce))


@broker.command()
def rabbitmq() -> None:
    """Run a private RabbitMQ node on free ports, in a directory of its own that is removed at the end."""
    from backpressure.transports.rabbitmq_node import private_node

    asyncio.run(_run_until_stopped(private_node(), "RabbitMQ"))


@broker.command()
def kafka() -> None:
    """Run a private Kafka broker on a free port, in a directory of its own that is removed at the end.

    It needs Java 17, and the jars that `make kafka` fetches or an installation in KAFKA_HOME.
    """
    from backpressure.transports.kafka_node import private_kafka

    asyncio.run(_run_until_stopped(private_kafka(), "Kafka"))


async def _run_until_stopped(private: PrivateProcess, product: str) -> None:
    stopped = asyncio.Event()
    on_stop_signals(asyncio.get_running_loop(), stopped.set)
    async with private as node:
        click.echo(f"{product} is ready: {node.url}  (Ctrl-C stops and removes it)")
        if node.management_url:
            click.echo(f"management API: {node.management_url}")
        await stopped.wait()
