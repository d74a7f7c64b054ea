"""``pace laws``: which rate-control laws there are, and their parameters."""

from __future__ import annotations

import click

from backpressure.core.controllers import describe, law_names
from backpressure.program import check_output

__all__ = ["laws"]


@click.command()
@click.argument("names", nargs=-1)
def laws(names: tuple[str, ...]) -> None:
    """List the rate-control laws, those of installed packages too, or describe the ones NAMED with their parameters."""
    for name in names or law_names():
        description = describe(name)
        click.echo(f"{click.style(name, bold=True):<24} {description.summary}")
        for parameter in description.parameters if names else ():
            unit = f" {parameter.unit}" if parameter.unit else ""
            click.echo(f"    {parameter.name} = {parameter.default:g}{unit}  {parameter.meaning}")
    check_output()
