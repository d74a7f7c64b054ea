"""A scenario as a plain document, before its meaning is checked: read from TOML, overridden, written as TOML."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from backpressure.errors import ConfigError


def parse(text: str, source: str) -> dict[str, Any]:
    """Return the document in ``text``; raises `ConfigError` naming ``source`` and the line when it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        yaml = source.lower().endswith((".yaml", ".yml"))
        hint = "; scenarios are written in TOML, not YAML: `pace scenarios show normal` prints one" if yaml else ""
        raise ConfigError("scenario", source, f"not valid TOML: {error}{hint}") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``: a TOML value where it is one, else the text itself."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set", text, "expected key=value, for example producer.rate=500")
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def merge(document: Mapping[str, Any], assignments: Iterable[tuple[str, Any]], source: str) -> dict[str, Any]:
    """Return ``document`` with dotted keys set: ``seed``, ``section.key``, ``phase.NAME.key``, ``expect.METRIC``."""
    result: dict[str, Any] = _copied(document)
    for key, value in assignments:
        head, _, rest = key.partition(".")
        if head == "expect":
            _expect(result, rest, value)
        elif head == "phase":
            name, _, inner = rest.partition(".")
            _assign(_phase_table(result, name, key, value, source), inner, key, value)
        else:
            _assign(result, key, key, value)
    return result


def dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield metric and text; ``wait_ms.p99 = "…"`` without quotes arrives as nested tables."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_toml(document: Mapping[str, Any]) -> str:
    """Return ``document`` as TOML that `parse` reads back to the same value."""
    return "\n".join(_lines(document, "")) + "\n"


def _expect(document: dict[str, Any], metric: str, value: object) -> None:
    """Set one expectation, however the file writes it: quoted, as nested tables, with or without "totals"."""
    stated = document.get("expect", {})
    if isinstance(stated, dict):  # anything else is reported when the meaning is checked
        others = {name: text for name, text in dotted(stated) if _figure(name) != _figure(metric)}
        document["expect"] = others | {metric: value}


def _figure(metric: str) -> str:
    return metric.removeprefix("totals.")


def _phase_table(document: Mapping[str, Any], name: str, key: str, value: object, source: str) -> dict[str, Any]:
    phases = document.get("phase")
    tables = [table for table in phases if isinstance(table, dict)] if isinstance(phases, list) else []
    for table in tables:
        if table.get("name") == name:
            return table
    names = ", ".join(str(table.get("name")) for table in tables)
    raise ConfigError(key, value, f"{source} has no phase {name!r}; there are {names}", "--set")


_WORD = re.compile(r'"([^"]*)"|([^."]+)')  # as in TOML, a key that contains dots is quoted


def _assign(table: dict[str, Any], path: str, key: str, value: object) -> None:
    *parents, last = [quoted or plain for quoted, plain in _WORD.findall(path)]
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(key, value, f"{parent} is not a table", "--set")
    table[last] = value


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _lines(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    arrays = {key: value for key, value in table.items() if isinstance(value, list)}
    for key, value in table.items():
        if key not in tables and key not in arrays:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in tables.items():
        yield f"\n[{prefix}{_key(key)}]"
        yield from _lines(value, f"{prefix}{_key(key)}.")
    for key, items in arrays.items():
        for item in items:
            yield f"\n[[{prefix}{_key(key)}]]"
            yield from _lines(item, f"{prefix}{_key(key)}.")


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)


def _value(value: object) -> str:
    """Return JSON. It is TOML too for numbers, booleans and strings, except for one character that TOML forbids."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
