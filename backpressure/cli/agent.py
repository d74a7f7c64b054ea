"""``pace agent``: give this machine to runs that are started elsewhere."""

from __future__ import annotations

import click

from backpressure import program
from backpressure.cli import options
from backpressure.cli.local_brokers import discovered
from backpressure.cli.options import setting
from backpressure.cli.process import run_engine, settings_from
from backpressure.errors import ConfigError
from backpressure.experiments.agents.agent import Agent
from backpressure.settings import Settings


@click.command()
@setting(
    "--join",
    key="broker.url",
    help="URL of the broker on which runs look for agents: amqp://user:pass@host:port/vhost or amqps://…",
)
@options.login
@setting("--group", key="agent.group")
@setting("--name", key="agent.name")
@options.no_wait
@options.logs
@click.pass_context
def agent(context: click.Context, /, **_: object) -> None:
    """Take part in runs that are started elsewhere, until Ctrl-C.

    A run of `pace run` whose scenario has on = "agents" finds this agent on its broker, and starts consumers and
    producers of this installation here, nothing else. It connects to the broker only and listens nowhere. Both sides
    need the same secret: PACE_AGENT__TOKEN. Ctrl-C in a run stops the processes, and sends what they have recorded.
    """
    program.require_posix("pace agent", "POSIX signals and process groups")
    program.run(_serve(settings_from(context, discovered)))


async def _serve(settings: Settings) -> None:
    if not settings.broker.parts().scheme.startswith("amqp"):
        raise ConfigError("broker.url", settings.broker.address(), "agents join brokers that speak AMQP: amqp://…")
    engine = Agent(settings)

    def on_started() -> None:
        address = settings.broker.address()
        click.echo(f"agent {engine.name}: waiting for runs of the group {settings.agent.group} at {address}")

    await run_engine(engine, on_started=on_started)
