"""Finding scenarios: the ones that ship, by name, and the user's own, by path; and writing one down again."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backpressure.errors import ConfigError
from backpressure.experiments.scenario import Scenario, build, merge, parse, parse_assignment

__all__ = ["DEFAULT_SCENARIO", "load", "read", "shipped", "to_toml"]

DEFAULT_SCENARIO = "recovery"

_FOLDER = Path(__file__).parent.parent / "scenarios"


def shipped() -> dict[str, Path]:
    """Return the scenarios that come with the package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def load(target: str, assignments: Sequence[str] = (), strategy: str = "") -> Scenario:
    """Return the scenario ``target``, a shipped name or a path, with ``key=value`` overrides; raises `ConfigError`."""
    path = _path(target)
    source = path.name
    document = parse(read(target), source)
    overrides = [parse_assignment(text) for text in assignments]
    if strategy:
        overrides.append(("producer.strategy", strategy))
    if overrides:
        source = f"{source} with overrides"
    return build(merge(document, overrides, path.name), source)


def read(target: str) -> str:
    """Return the text of a scenario; raises `ConfigError`."""
    try:
        return _path(target).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("scenario", target, f"cannot be read: {error}") from None


def to_toml(document: Mapping[str, Any]) -> str:
    """Return ``document`` as TOML that `parse` reads back to the same value."""
    return "\n".join(_lines(document, "")) + "\n"


def _path(target: str) -> Path:
    known = shipped()
    if target in known:
        return known[target]
    path = Path(target)
    if path.is_file():
        return path
    near = difflib.get_close_matches(target, known, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError("scenario", target, f"no such file or scenario; {hint}there are {', '.join(known)}")


def _lines(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    arrays = {key: value for key, value in table.items() if isinstance(value, list)}
    for key, value in table.items():
        if key not in tables and key not in arrays:
            yield f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in tables.items():
        yield f"\n[{prefix}{_key(key)}]"
        yield from _lines(value, f"{prefix}{_key(key)}.")
    for key, items in arrays.items():
        for item in items:
            yield f"\n[[{prefix}{_key(key)}]]"
            yield from _lines(item, f"{prefix}{_key(key)}.")


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)
