"""``pace broker``: the embedded broker, or a private RabbitMQ node or Kafka broker, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from backpressure import program
from backpressure.cli import options
from backpressure.cli.commands import PaceGroup
from backpressure.cli.local_brokers import LocalBroker, listed
from backpressure.core.addresses import is_loopback
from backpressure.errors import TransportError
from backpressure.program import INTERRUPTED, on_stop_signals
from backpressure.transports.private_process import MOST_NODES, PrivateNodes, PrivateProcess
from backpressure.transports.rabbitmq_cluster import private_cluster

Command = TypeVar("Command", bound=Callable[..., Any])
Private = PrivateProcess | PrivateNodes[Any]

_unlisted = click.option(
    "--unlisted", is_flag=True, help="Do not announce it to other programs on this machine: they need its --url."
)


def _port(flag: str, what: str, default: int = 0) -> Callable[[Command], Command]:
    return click.option(
        flag, type=click.IntRange(0, 65535), default=default, show_default=True, help=f"{what}; 0: a free one."
    )


_nodes = click.option(
    "--nodes",
    type=click.IntRange(1, MOST_NODES),
    default=1,
    show_default=True,
    help="How many nodes; more than one form a cluster, on the ports that follow the given ones.",
)


@click.group(cls=PaceGroup, invoke_without_command=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; beyond loopback only for users of your own (--user).",
)
@_port("--port", "AMQP port", 5672)
@_port("--management-port", "HTTP port", 15672)
@click.option(
    "--memory-limit-mb",
    type=options.FiniteRange(0, 1e9),
    default=0.0,
    help="Threshold of the memory alarm; 0: 40 % of memory.",
)
@click.option(
    "--announce",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write its addresses to this file when it is ready.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Maximum number of AMQP connections.",
)
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
@click.option(
    "--definitions",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Declare the queues, exchanges, bindings and policies in this file, as exported by RabbitMQ.",
)
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Listen with TLS too, with this certificate in PEM form.",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Its key; without this option it is in the certificate's file.",
)
@_port("--tls-port", "AMQP with TLS", 5671)
@_port("--management-tls-port", "HTTPS", 15671)
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="NAME:PASSWORD",
    help="Another user than guest, beyond loopback instead of guest, for AMQP and the management API (repeatable).",
)
@click.option(
    "--deny",
    "denied",
    multiple=True,
    metavar="FEATURE",
    help="Do not permit what RabbitMQ 4.3 denies: global_qos, transient_nonexcl_queues (repeatable).",
)
@click.option(
    "--own-name",
    is_flag=True,
    help="Tell clients its own name and version instead of those of RabbitMQ 4.0, whose behaviour it has.",
)
@_unlisted
@click.pass_context
def broker(
    context: click.Context,
    /,
    *,
    memory_limit_mb: float,
    announce: Path | None,
    faults: tuple[str, ...],
    users: tuple[str, ...],
    own_name: bool,
    denied: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_port: int,
    management_tls_port: int,
    unlisted: bool,
    **listening: Any,
) -> None:
    """Run the embedded AMQP 0-9-1 broker until Ctrl-C, for experiments on this machine.

    `pace broker rabbitmq` and `pace broker kafka` run a private RabbitMQ or Kafka instead, if it is installed. Other
    programs on this machine find any of the three by themselves, unless another broker is configured.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_of_embedded(context, context.invoked_subcommand)
        return
    from backpressure.broker.declarations import parse_denied
    from backpressure.broker.faults import FaultSettings, parse_fault
    from backpressure.broker.handshake import SessionConfig, users_for
    from backpressure.broker.server import Announcement, BrokerConfig, TlsConfig, serve

    config = BrokerConfig(
        memory_limit_bytes=int(memory_limit_mb * 1_000_000),
        faults=FaultSettings().updated(dict(map(parse_fault, faults))),
        session=SessionConfig(users=users_for(str(listening["host"]), users), own_name=own_name),
        denied=frozenset(map(parse_denied, denied)),
        tls=TlsConfig(tls_cert, tls_key, tls_port, management_tls_port) if tls_cert else None,
        **listening,
    )
    with ExitStack() as stack:

        def on_ready(ready: Announcement) -> None:
            if not unlisted and is_loopback(ready.host):  # others would not know the password
                management_url = ready.management_url
                _list(stack, LocalBroker.of_this_process("embedded broker", ready.url, management_url))

        program.run(serve(config, announce=announce, on_ready=on_ready))


@broker.command()
@_port("--port", "AMQP port")
@_port("--management-port", "HTTP port")
@_nodes
@_unlisted
def rabbitmq(*, port: int, management_port: int, nodes: int, unlisted: bool) -> None:
    """Run a private RabbitMQ node or cluster until Ctrl-C, with a user guest and the management plugin.

    Its data lives in temporary directories that are removed at the end. It needs an installed rabbitmq-server.
    """
    from backpressure.transports.rabbitmq_node import private_node

    private: Private = private_node(port, management_port)
    if nodes > 1:
        click.echo(f"starting {nodes} nodes …")
        private = private_cluster(nodes, port, management_port)
    program.run(_run_until_stopped(private, "RabbitMQ", unlisted=unlisted))


@broker.command()
@_port("--port", "Kafka port")
@_nodes
@_unlisted
def kafka(*, port: int, nodes: int, unlisted: bool) -> None:
    """Run a private Kafka broker or cluster until Ctrl-C.

    Its data lives in a temporary directory that is removed at the end. It needs Java 17, and the jars that
    `make kafka` fetches or an installation in KAFKA_HOME.
    """
    from backpressure.transports.kafka_node import private_kafka, private_kafka_cluster

    private: Private = private_kafka(port) if nodes == 1 else private_kafka_cluster(nodes, port)
    program.run(_run_until_stopped(private, "Kafka", unlisted=unlisted))


def _refuse_options_of_embedded(context: click.Context, command: str) -> None:
    for parameter in context.command.params:
        if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
            flag = parameter.opts[0]
            raise click.UsageError(
                f"{flag} before {command} belongs to the embedded broker: see pace broker {command} --help",
                context,
            )


async def _run_until_stopped(private: Private, product: str, *, unlisted: bool) -> None:
    """Start it, print where it is, and remove it after a signal, even one that arrives during the start."""
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set():
            os._exit(INTERRUPTED)  # a second signal; the node never outlives this process
        stopped.set()

    on_stop_signals(asyncio.get_running_loop(), on_signal)
    running = asyncio.create_task(_run(private, product, unlisted=unlisted))
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not running.done():
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(private: Private, product: str, *, unlisted: bool) -> None:
    with ExitStack() as stack:
        async with private as node:
            management = f", management on {node.management_url}" if node.management_url else ""
            click.echo(f"{product} is ready on {node.url}{management}; Ctrl-C stops it and removes its data")
            if node.control_command:
                click.echo(f"to administer it: {node.control_command} COMMAND")
            if not unlisted:
                _list(stack, LocalBroker.of_this_process(product, node.url, node.management_url))
            await node.until_ended()
            raise TransportError(f"{product} has ended unexpectedly; its last output: {node.tail() or 'none'}")


def _list(stack: ExitStack, broker: LocalBroker) -> None:
    """Announce it to other programs until the end, and print that."""
    click.echo(stack.enter_context(listed(broker)))
