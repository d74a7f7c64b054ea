"""How a run ends on the terminal, whoever conducted it: the verdict, and where its report is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from backpressure.dashboards.palette import PALETTE
from backpressure.dashboards.run_verdict import verdict
from backpressure.experiments.summary import Summary

__all__ = ["from_here", "print_outcome"]


def print_outcome(summary: Summary, report: Path, *, quiet: bool) -> None:
    """Print the verdict, with all figures unless ``quiet``, and the path of the report."""
    console = Console(highlight=False, theme=PALETTE)
    if quiet:
        console.print(f"{summary.verdict}: {summary.scenario}", soft_wrap=True)
    else:
        console.print(verdict(summary.model_dump()))
    console.print(f"report: {from_here(report)}", soft_wrap=True, markup=False)


def from_here(path: Path) -> Path:
    """Return ``path`` as one would type it in this folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
