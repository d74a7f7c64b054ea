"""Where settings come from: ``config.py``, the environment and flags, put together and checked once.

Rising strength: the defaults in `settings`, the config file, ``RABBITMQ_HOST/PORT/USER/PASS`` and ``LOG_LEVEL``,
``PACE_SECTION__KEY``, command-line flags. A ``.env`` file counts as environment that the real one overrides. Every
value remembers its source, so that an error can say what to change where.
"""

from __future__ import annotations

import difflib
import json
import os
import runpy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from backpressure.derived import bound_of_strategy
from backpressure.environment import NESTED, PREFIX, dotenv, without_injected
from backpressure.errors import ConfigError
from backpressure.knobs import Section
from backpressure.settings import Settings

__all__ = ["allowed", "as_environment", "find_field", "load", "render", "replaced"]

_COMMON_NAMES = {
    "RABBITMQ_HOST": "broker.host",
    "RABBITMQ_PORT": "broker.port",
    "RABBITMQ_USER": "broker.username",
    "RABBITMQ_PASS": "broker.password",
    "LOG_LEVEL": "log.level",
}
_NOT_SETTINGS = {"PACE_CONFIG", "PACE_REQUIRE_BROKERS", "PACE_REQUIRE_TOOLS"}
_FILE = 0  # the weakest layer of `load`
_BOUND = ("queue.max_length", "queue.overflow")
_HIDDEN = {"process"}  # set by `pace run`, of no use in a config file


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    discover: Callable[[Settings, bool], Mapping[str, Any]] | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        flags: dotted keys with their values, e.g. ``{"producer.rate": 500}``; the strongest source.
        config_file: the file to read; None: ``PACE_CONFIG``, else ``config.py`` in this folder if there is one.
        environ: the environment; None: this process's.
        discover: called with the settings so far and whether a source names the broker; returns what else to set, by
            dotted key.

    Raises:
        ConfigError: naming key, value, source and what is allowed.
    """
    flags = flags or {}
    variables, _ = without_injected(dotenv(Path(".env")) | dict(os.environ if environ is None else environ))
    layers = (
        _from_file(_config_path(config_file, variables)),
        _from_common_names(variables),
        _from_environment(variables, flags),
        ((key, value, "command line") for key, value in flags.items()),
    )
    values: dict[str, tuple[Any, str]] = {}
    strength: dict[str, int] = {}
    for rank, layer in enumerate(layers):
        found = {key: (value, source) for key, value, source in layer}
        if found.keys() & {"broker.host", "broker.port"}:
            values.pop("broker.url", None)  # within one source the URL wins, but not over a stronger source's host
        if _names_a_host(found.get("broker.url", ("", ""))[0]):
            values = {key: given for key, given in values.items() if key not in {"broker.host", "broker.port"}}
        values |= found
        strength |= dict.fromkeys(found, rank)
    settings = _validated(values)
    for key in _BOUND if strength.get("producer.strategy") == _FILE else ():
        if strength.get(key) == _FILE and _value(settings, key) == find_field(key).default:
            del strength[key]  # `pace init` writes every default into the file: only what differs was chosen there
    settings = _with_bound_of_strategy(settings, strength)
    if discover is not None and (changes := discover(settings, _names_broker(settings, strength))):
        settings = replaced(settings, changes, "brokers of this machine")
    return settings


def _with_bound_of_strategy(settings: Settings, strength: Mapping[str, int]) -> Settings:
    """Return the settings with the bound that goes with the strategy, where nothing as strong states another."""
    strategy = settings.producer.strategy
    bound = {
        key: value
        for key, value in bound_of_strategy(strategy, settings.queue).items()
        if value != _value(settings, key) and strength.get(key, -1) < strength.get("producer.strategy", -1)
    }
    return replaced(settings, bound, f"the strategy {strategy}") if bound else settings


def replaced(settings: Settings, changes: Mapping[str, Any], source: str = "request") -> Settings:
    """Return ``settings`` with the dotted keys of ``changes`` replaced, all or none; raises `ConfigError`."""
    values = {key: (value, "settings") for key, value in _flat(settings)}
    return _validated(values | {key: (value, source) for key, value in changes.items()})


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the ``PACE_…`` variables that give another process exactly these settings.

    All of them, the defaults too: the other process has an environment and a ``.env`` of its own to be overruled.
    """
    return {"PACE_CONFIG": ""} | {_variable(key): _as_text(value) for key, value in _flat(settings)}


def find_field(key: str, value: object = "", source: str = "") -> FieldInfo:
    """Return the declaration of the setting with the dotted ``key``; raises `ConfigError` with the nearest names.

    ``value`` and ``source`` only complete that error.
    """
    section, _, name = key.partition(".")
    models = _sections()
    if section not in models:
        namesakes = [f"{other}.{section}" for other, model in models.items() if section in model.model_fields]
        raise ConfigError(key, value, _unknown(section, models, namesakes), source)
    fields = models[section].model_fields
    if name not in fields:
        raise ConfigError(key, value, _unknown(name, fields), source)
    return fields[name]


def allowed(field: FieldInfo) -> str:
    """Return in words what a setting may be, e.g. "a number > 0 and ≤ 1000 (msg/s)"."""
    unit, word = _extra(field, "unit"), _extra(field, "word")
    return (
        _described(field.annotation, field.metadata) + (f", or {word}" if word else "") + (f" ({unit})" if unit else "")
    )


def render() -> str:
    """Return the text of a ``config.py`` with every setting at its default: what `pace init` writes."""
    lines = [
        '"""Every knob of the experiment: value, unit, reason.',
        "",
        "A flag (--rate 500) is stronger than an environment variable (PACE_PRODUCER__RATE=500), which is stronger than",
        "this file. Leave out what you do not change: the defaults fill the gaps. A wrong value is named when you start.",
        '"""',
    ]
    for name, model in _sections().items():
        if name in _HIDDEN:
            continue
        lines += ["", "", f"class {name}:", f'    """{(model.__doc__ or "").strip()}"""', ""]
        for key, field in model.model_fields.items():
            unit = _extra(field, "unit")
            reason = f"{unit} · {field.description}" if unit else field.description
            lines.append(f"    {f'{key} = {_literal(field.default)}':<38} # {reason}")
    return "\n".join(lines) + "\n"


def _names_broker(settings: Settings, strength: Mapping[str, int]) -> bool:
    """Return whether a source says where the broker is; a default in a file, as `pace init` writes it, does not."""
    for key in ("broker.host", "broker.port"):
        if strength.get(key, _FILE) > _FILE or _value(settings, key) != find_field(key).default:
            return True
    return bool(settings.broker.url)


def _config_path(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    if config_file is None and "PACE_CONFIG" in environ:
        if not environ["PACE_CONFIG"]:
            return None  # explicitly none: children of `pace run` take their settings from the environment alone
        config_file = Path(environ["PACE_CONFIG"])
    if config_file is None:
        here = Path("config.py")
        return here if here.is_file() else None
    if not config_file.is_file():
        raise ConfigError("config", str(config_file), "no such file")
    return config_file


def _from_file(path: Path | None) -> Iterator[tuple[str, Any, str]]:
    if path is None:
        return
    try:
        content = runpy.run_path(str(path))
    except Exception as error:  # a user's file may raise anything; it must become one clear line
        raise ConfigError("config", str(path), f"cannot be read: {type(error).__name__}: {error}") from error
    for name, section in content.items():
        if not isinstance(section, type) or section.__module__ != "<run_path>":
            continue
        if name not in _sections():
            raise ConfigError(name, "class", _unknown(name, _sections()), path.name)
        for key, value in vars(section).items():
            if not key.startswith("_"):
                yield f"{name}.{key}", value, path.name


def _from_common_names(variables: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    for name, key in _COMMON_NAMES.items():
        if variables.get(name):
            yield key, variables[name], f"environment, {name}"


def _names_a_host(url: object) -> bool:
    """Return whether a weaker source's host and port, right or wrong, no longer matter beside ``url``."""
    try:
        return isinstance(url, str) and bool(urlsplit(url).hostname)
    except ValueError:  # half of an IPv6 address: it is refused where it is checked
        return False


def _from_environment(variables: Mapping[str, str], overridden: Collection[str]) -> Iterator[tuple[str, Any, str]]:
    for name, text in variables.items():
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            key = name[len(PREFIX) :].lower().replace(NESTED, ".", 1)
            source = f"environment, {name}"
            field = find_field(key, text, source)
            if key in overridden:
                continue  # whatever it is
            try:
                yield key, _from_text(field, text), source
            except json.JSONDecodeError as error:
                raise ConfigError(key, text, f"expected {allowed(field)} as JSON: {error}", source) from None


def _validated(values: Mapping[str, tuple[Any, str]]) -> Settings:
    nested: dict[str, dict[str, Any]] = {}
    for key, (value, source) in values.items():
        find_field(key, value, source)
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        raise _as_config_error(error, values) from None


def _as_config_error(error: ValidationError, values: Mapping[str, tuple[Any, str]]) -> ConfigError:
    given = list(values)

    def order(problem: ErrorDetails) -> int:
        key = ".".join(str(part) for part in problem["loc"][:2])
        return given.index(key) if key in given else len(given)

    first = min(error.errors(include_url=False), key=order)  # one flag may set several: what it is called after first
    problem = first["msg"].removeprefix("Value error, ")
    section, *rest = (str(part) for part in first["loc"])
    if not rest:  # settings that contradict each other: name those that were given
        involved = {key: given for key, given in values.items() if key.startswith(f"{section}.")}
        involved = {key: given for key, given in involved.items() if key.partition(".")[2] in problem}
        sources = dict.fromkeys(source for _, source in involved.values())
        return ConfigError(section, {key: value for key, (value, _) in involved.items()}, problem, "; ".join(sources))
    key = f"{section}.{rest[0]}"
    value, source = values[key]
    within = ".".join(rest[1:]) if isinstance(value, dict) else ""  # a table, but what it holds is wrong
    if within:
        problem = f"{within}: {problem[0].lower()}{problem[1:]}"
    elif first["type"] != "value_error":
        problem = f"expected {allowed(find_field(key))}"
    return ConfigError(key, value, problem, source)


def _sections() -> dict[str, type[Section]]:
    return {name: field.annotation for name, field in Settings.model_fields.items()}  # type: ignore[misc]  # all are sections


def _flat(settings: Settings) -> Iterator[tuple[str, Any]]:
    for section in _sections():
        for name in _sections()[section].model_fields:
            key = f"{section}.{name}"
            yield key, _value(settings, key)


def _value(settings: Settings, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", NESTED).upper()


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return json.dumps(value)
    return "none" if value is None else str(value)


def _from_text(field: FieldInfo, text: str) -> Any:
    if text.lower() == "none" and NoneType in get_args(field.annotation):
        return None
    return json.loads(text) if get_origin(field.annotation) is dict else text


def _unknown(name: str, known: Iterable[str], namesakes: Sequence[str] = ()) -> str:
    near = namesakes or difflib.get_close_matches(name, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"unknown setting; {hint}"


def _described(annotation: Any, rules: Sequence[Any]) -> str:
    if get_origin(annotation) is Annotated:
        base, declared = get_args(annotation)
        return _described(base, declared.metadata)
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    if get_origin(annotation) in {Union, UnionType}:
        return " or ".join(_described(part, rules) for part in get_args(annotation))
    kinds = {int: "a whole number", float: "a number", bool: "true or false", NoneType: "none", dict: "a table"}
    kind = kinds.get(get_origin(annotation) or annotation, "text")
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"} if annotation in {int, float} else {}
    limits = [
        f"{sign} {getattr(rule, name):.12g}" for rule in rules for name, sign in signs.items() if hasattr(rule, name)
    ]
    return " ".join([kind, " and ".join(limits)]).rstrip()


def _extra(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    return str(extra.get(name, "")) if isinstance(extra, dict) else ""


def _literal(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:_}"
    return repr(value)
