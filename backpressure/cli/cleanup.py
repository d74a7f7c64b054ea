"""``pace cleanup``: removes queues and unused exchanges that experiments have left behind, after asking."""

from __future__ import annotations

import asyncio

import click

from backpressure.cli import options
from backpressure.cli.local_brokers import discovered
from backpressure.cli.process import settings_from
from backpressure.errors import ConfigError
from backpressure.knobs import MOST_NAME_OCTETS
from backpressure.program import printable
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient

__all__ = ["cleanup", "ours_on_kafka"]

_BUILT_IN = "amq."
_RUNNING = "feedback-"  # every program that runs has a connection of this name, and publishes though nobody listens


@click.command()
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Every queue and unused exchange of the virtual host; on Kafka the topics and groups of ours.",
)
@click.option(
    "--exchanges",
    "exchanges_only",
    is_flag=True,
    help="Exchanges that nothing is bound to, and no running program of ours publishes to.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.connection
@options.management_url
@options.logs
@click.pass_context
def cleanup(
    context: click.Context,
    /,
    *,
    queues: tuple[str, ...],
    everything: bool,
    exchanges_only: bool,
    yes: bool,
    **_: object,
) -> None:
    """Delete the QUEUEs named, or what --all or --exchanges select; built-in exchanges (amq.…) always stay.

    With no name and no option: the queues of the settings in force.
    """
    settings = settings_from(context, discovered)
    for name in queues:
        _refuse_impossible(name)
    asyncio.run(_clean(settings, queues, everything=everything, exchanges_only=exchanges_only, yes=yes))


def _refuse_impossible(name: str) -> None:
    try:
        possible = 0 < len(name.encode()) <= MOST_NAME_OCTETS
    except UnicodeEncodeError:  # octets that are not UTF-8
        possible = False
    if not possible:
        raise ConfigError("QUEUE", name, f"a queue's name is UTF-8 of 1 to {MOST_NAME_OCTETS} octets", "command line")


async def _clean(
    settings: Settings, names: tuple[str, ...], *, everything: bool, exchanges_only: bool, yes: bool
) -> None:
    if everything or exchanges_only:
        queues, exchanges = await _found(settings, queues_too=everything)
        queues += names
    else:
        queue = settings.queue
        queues, exchanges = list(names) or [queue.work, queue.dead_letter, queue.audit], []
    if not queues and not exchanges:
        click.echo("nothing to delete")
        return
    named = [*(f"  queue {name}" for name in queues), *(f"  exchange {name}" for name in exchanges)]
    click.echo("\n".join(map(printable, named)))
    if not yes:
        click.confirm("Delete these, with all messages in them?", abort=True)
    admin = connect(settings).admin()
    await admin.start()
    try:
        for name in queues:
            await admin.delete(name)
        for name in exchanges:
            await admin.delete_exchange(name)
    finally:
        await admin.stop()
    click.echo(f"deleted: {len(queues)} queue(s), {len(exchanges)} exchange(s)")


async def _found(settings: Settings, *, queues_too: bool) -> tuple[list[str], list[str]]:
    """Return the queues (if they are wanted), and the exchanges that nothing else is bound to or publishes to."""
    if settings.broker.address().startswith("kafka"):
        return await ours_on_kafka(settings) if queues_too else [], []
    client = ManagementClient.of(settings.broker)
    if client is None:
        raise ConfigError("broker.management_url", "", "--all and --exchanges ask the management API: say where it is")
    async with client:
        queues = [queue.name for queue in await client.queues() if not queue.exclusive] if queues_too else []
        in_use = {
            binding.source
            for binding in await client.bindings()
            if not (binding.destination_type == "queue" and binding.destination in queues)
        }
        unbound = [
            exchange.name
            for exchange in await client.exchanges()
            if exchange.name and not exchange.name.startswith(_BUILT_IN) and exchange.name not in in_use
        ]
        if not any(connection.client_name.startswith(_RUNNING) for connection in await client.connections()):
            return queues, unbound
    kept = {settings.feedback.exchange, settings.queue.exchange}.intersection(unbound)
    for name in sorted(kept):
        click.echo(f"  kept: exchange {name}, to which running programs publish")
    return queues, [name for name in unbound if name not in kept]


async def ours_on_kafka(settings: Settings) -> list[str]:
    """Return the queues on Kafka that are ours by their names, or by those of their groups."""
    from backpressure.transports.kafka import KafkaTransport  # an optional library

    admin = KafkaTransport(settings).admin()
    await admin.start()
    try:
        return await admin.queues()
    finally:
        await admin.stop()
