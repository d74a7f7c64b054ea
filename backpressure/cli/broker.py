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
from backpressure.broker.command_line import OPTIONS, configuration
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


_PORT = click.IntRange(0, 65535)


def _port(flag: str, what: str) -> Callable[[Command], Command]:
    return click.option(flag, type=_PORT, default=0, show_default=True, help=f"{what}; 0: a free one.")


_nodes = click.option(
    "--nodes",
    type=click.IntRange(1, MOST_NODES),
    default=1,
    show_default=True,
    help="How many nodes; more than one form a cluster, on the ports that follow the given ones.",
)


def _of_embedded(command: Command) -> Command:
    """Add the options of the embedded broker."""
    kinds: dict[str, Any] = {
        "text": str,
        "port": _PORT,
        "count": click.IntRange(1),
        "megabytes": options.FiniteRange(0, 1e9),
        "file": click.Path(dir_okay=False, path_type=Path),
        "folder": click.Path(file_okay=False, path_type=Path),
    }
    for option in reversed(OPTIONS):
        how: dict[str, Any] = {"is_flag": True}
        if option.kind != "switch":
            how = {"type": kinds[option.kind], "metavar": option.metavar, "multiple": option.repeatable}
            if not option.repeatable:
                how |= {"default": option.default, "show_default": bool(option.default)}
        command = click.option(option.flag, option.value_name, help=option.help, **how)(command)
    return command


@click.group(cls=PaceGroup, invoke_without_command=True)
@_of_embedded
@_unlisted
@click.pass_context
def broker(context: click.Context, /, *, unlisted: bool, announce: Path | None, **given: Any) -> None:
    """Run the embedded AMQP 0-9-1 broker until Ctrl-C, for experiments on this machine.

    `pace broker rabbitmq` and `pace broker kafka` run a private RabbitMQ or Kafka instead, if it is installed. Other
    programs on this machine find any of the three by themselves, unless another broker is configured.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_of_embedded(context, context.invoked_subcommand)
        return
    from backpressure.broker.server import Announcement, serve

    config = configuration(**given)
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
            url = node.url.rstrip("/")  # for clients to which "/" alone names a virtual host without a name, as Java's
            click.echo(f"{product} is ready on {url}{management}; Ctrl-C stops it and removes its data")
            if node.control_command:
                click.echo(f"to administer it: {node.control_command} COMMAND")
            if not unlisted:
                _list(stack, LocalBroker.of_this_process(product, node.url, node.management_url))
            await node.until_ended()
            raise TransportError(f"{product} has ended unexpectedly; its last output: {node.tail() or 'none'}")


def _list(stack: ExitStack, broker: LocalBroker) -> None:
    """Announce it to other programs until the end, and print that."""
    click.echo(stack.enter_context(listed(broker)))
