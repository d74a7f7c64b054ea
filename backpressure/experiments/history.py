"""The runs of a folder: their summaries, in order of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from backpressure.errors import ConfigError
from backpressure.experiments.summary import Summary

__all__ = ["baseline", "read_summary", "summaries_below"]

_SUMMARY = "summary.json"


def read_summary(path: Path, option: str) -> Summary:
    """Return the summary in a file, or of the run in a folder; raises `ConfigError` that names ``option``."""
    file = path / _SUMMARY if path.is_dir() else path
    try:
        return Summary.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(option, str(path), f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise ConfigError(option, str(path), f"not the summary.json of a run: {problem}") from None


def summaries_below(folder: Path) -> Iterator[tuple[Path, Summary]]:
    """Yield the runs right below ``folder`` that have a readable summary, in order of their folders' names."""
    for file in sorted(folder.glob(f"*/{_SUMMARY}")):
        try:
            yield file.parent, Summary.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            continue  # half written, or of another version: the others are what is asked for


def baseline(paths: Sequence[Path], scenario: str, option: str) -> list[Summary]:
    """Return the finished runs of ``scenario`` to compare with; raises `ConfigError` that names ``option``.

    Each path is a summary.json, the folder of a run, or a folder of runs: of these, those of other scenarios are left
    out.
    """
    found: list[Summary] = []
    for path in paths:
        if path.is_dir() and not (path / _SUMMARY).exists():
            runs = [run for _, run in summaries_below(path) if run.scenario == scenario]
            if not runs:
                raise ConfigError(option, str(path), f"holds no run of {scenario}")
        else:
            runs = [read_summary(path, option)]
            if runs[0].scenario != scenario:
                allowed = f"is of the scenario {runs[0].scenario}, and this is {scenario}"
                raise ConfigError(option, str(path), allowed)
        found += runs
    finished = [run for run in found if run.verdict in {"passed", "failed"}]
    if found and not finished:
        raise ConfigError(option, str(paths[0]), "did not finish: its figures are no baseline")
    return finished
