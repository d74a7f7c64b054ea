"""``pace scenarios``, ``pace laws`` and ``pace init``: what there is to choose from and to start from."""

from __future__ import annotations

from pathlib import Path

import click

from backpressure.catalogue import render
from backpressure.errors import ConfigError
from backpressure.laws import describe, law_names
from backpressure.program import check_output


class _Scenarios(click.Group):
    """Says how to print a scenario when its name is given where a command belongs."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` name; raises `click.UsageError`."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(
                f"No such command {args[0]!r}: `pace scenarios show {args[0]}` prints a scenario.", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Scenarios, invoke_without_command=True)
@click.pass_context
def scenarios(context: click.Context) -> None:
    """List the scenarios that ship; `pace scenarios show NAME` prints one, to start your own from."""
    if context.invoked_subcommand is None:
        from backpressure.experiments import library  # an extra

        for name in library.shipped():
            plan = library.load(name)
            default = " (default)" if name == library.DEFAULT_SCENARIO else ""
            click.echo(f"{name:<16} {plan.duration_s:>4.0f} s  {plan.summary}{default}")
        check_output()


@scenarios.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the scenario NAME."""
    from backpressure.experiments import library

    click.echo(library.read(name), nl=False)
    check_output()


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


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--force", is_flag=True, help="Replace a config.py that is there already.")
def init(folder: Path, *, force: bool) -> None:
    """Write a config.py with every setting at its default into FOLDER (this one by default)."""
    path = folder / "config.py"
    if path.exists() and not force:
        raise ConfigError("config", str(path), "exists already; --force replaces it")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(render(), encoding="utf-8")
    click.echo(f"wrote {path}: change what you like, then start the programs from {folder.resolve()}")
