"""``pace laws``: which rate-control laws there are, and their parameters."""

from __future__ import annotations

import click

from backpressure.core.controllers import LAWS, describe

__all__ = ["laws"]


@click.command()
@click.argument("names", nargs=-1)
def laws(names: tuple[str, ...]) -> None:
    """List the rate-control laws, or describe the ones NAMED with their parameters."""
    for name in names or LAWS:
        description = describe(name)
        click.echo(f"{click.style(name, bold=True):<24} {description.summary}")
        for parameter in description.parameters if names else ():
            unit = f" {parameter.unit}" if parameter.unit else ""
            click.echo(f"    {parameter.name} = {parameter.default:g}{unit}  {parameter.meaning}")
