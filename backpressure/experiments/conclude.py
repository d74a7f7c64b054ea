"""From a run directory to its ``summary.json`` and ``report.html``; at the end of a run, and again whenever asked."""

from __future__ import annotations

from backpressure.experiments.analysis import summarise
from backpressure.experiments.rundir import RunDirectory
from backpressure.experiments.summary import Summary

__all__ = ["conclude"]


def conclude(directory: RunDirectory) -> Summary:
    """Analyse the run, write both files, return the summary; raises `ConfigError` when there is no run to analyse."""
    recording = directory.recording()
    summary = summarise(recording)
    directory.write_summary(summary)
    return summary
