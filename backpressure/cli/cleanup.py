"""``pace cleanup``: deletes queues and unused exchanges that experiments have left behind, after a question."""

from __future__ import annotations

import click

from backpressure import program
from backpressure.cli import options
from backpressure.cli.local_brokers import discovered
from backpressure.cli.process import settings_from
from backpressure.errors import ConfigError
from backpressure.knobs import MOST_NAME_OCTETS
from backpressure.program import printable
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.management_client import ManagementClient

_BUILT_IN = "amq."
_RUNNING = (
    "feedback-"  # start of a connection name of every running program; it publishes feedback even if nothing is bound
)


@click.command()
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All queues and unused exchanges of the virtual host; on Kafka, our topics and groups.",
)
@click.option(
    "--exchanges",
    "exchanges_only",
    is_flag=True,
    help="Exchanges that nothing is bound to and that no running program of ours publishes to.",
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
    """Delete the named QUEUEs, or what --all or --exchanges selects. Built-in exchanges (amq.…) are always kept.

    Without a name or an option: the configured queues.
    """
    settings = settings_from(context, discovered)
    if settings.queue.predeclared and not (queues or everything or exchanges_only):
        raise ConfigError(
            "queue.predeclared", True, "the configured queues are not ours: name those to delete on the command line"
        )
    for name in queues:
        _refuse_impossible(name)
    program.run(_clean(settings, queues, everything=everything, exchanges_only=exchanges_only, yes=yes))


def _refuse_impossible(name: str) -> None:
    try:
        possible = 0 < len(name.encode()) <= MOST_NAME_OCTETS
    except UnicodeEncodeError:  # octets that are not UTF-8
        possible = False
    if not possible:
        raise ConfigError(
            "QUEUE", name, f"expected the name of a queue: 1 to {MOST_NAME_OCTETS} octets of UTF-8", "command line"
        )


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
    """Return the queues (if ``queues_too``), and the exchanges that nothing else is bound to or publishes to."""
    if settings.broker.address().startswith("kafka"):
        return await ours_on_kafka(settings) if queues_too else [], []
    client = ManagementClient.of(settings.broker)
    if client is None:
        raise ConfigError("broker.management_url", "", "--all and --exchanges need the management API: give its URL")
    async with client:
        await client.check_owner(connect(settings))
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
        click.echo(printable(f"  kept: exchange {name}, running programs publish to it"))
    return queues, [name for name in unbound if name not in kept]


async def ours_on_kafka(settings: Settings) -> list[str]:
    """Return our queues on Kafka, recognised by the names of their topics or groups."""
    from backpressure.transports.kafka import KafkaTransport  # an optional library

    admin = KafkaTransport(settings).admin()
    await admin.start()
    try:
        return await admin.queues()
    finally:
        await admin.stop()
