"""``pace init``: writes a ``config.py`` for those who installed the package."""

from __future__ import annotations

from pathlib import Path

import click

from backpressure.catalogue import render
from backpressure.errors import ConfigError

__all__ = ["init"]


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
