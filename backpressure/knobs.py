"""How a setting is declared: `knob` and `Section`, and the types that several sections share.

A type here checks a value wherever it comes from, and its error says what is allowed, with an example.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from backpressure.core.addresses import BrokerAddress, plain_host, server_list


def knob(default: Any, unit: str, reason: str, *, word: str = "", **limits: Any) -> Any:
    """Declare a setting: its default, its unit ("" for none), a description in one line, and pydantic's limits.

    ``word`` is a text that is allowed instead of a number.
    """
    extra: dict[str, Any] = {"unit": unit, "word": word} if word else {"unit": unit}
    return Field(default, description=reason, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """Base of every section: unknown keys are errors, and changed values are validated again."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_unicode(cls, value: object) -> object:
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("is not text: it contains bytes that are not UTF-8, or half of a surrogate pair")
        return value


# -- numbers and names -------------------------------------------------------------------------------------------------

Port = Annotated[int, Field(ge=0, le=65535)]


def octets(most: int) -> AfterValidator:
    """Limit a text whose length AMQP counts in octets of UTF-8, not in characters."""

    def check(text: str) -> str:
        if len(text.encode()) > most:
            raise ValueError(f"expected at most {most} octets in UTF-8, not {len(text.encode())}")
        return text

    return AfterValidator(check)


MOST_NAME_OCTETS = 255
"""Longest name of a queue, an exchange or a virtual host in AMQP."""

Name = Annotated[str, Field(min_length=1), octets(200)]  # leaves room for suffixes
Host = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(plain_host)]


def _hosts(text: str) -> str:
    try:
        if "," in text:
            server_list(text)
            return text
        return plain_host(text)
    except ValueError as error:
        several = "; several have commas between them, and may have ports: one,two:5673"
        raise ValueError(f"{error}{several}") from None


Hosts = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_hosts)]
"""One host, or several with commas between them, each with a port or without."""


def _auto_or_number(value: object) -> object:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if value != "auto" and not (type(value) is int and 1 <= value <= 65535):
        raise ValueError("expected a whole number ≥ 1 and ≤ 65535, or auto")
    return value


Prefetch = Annotated[Annotated[int, Field(ge=1, le=65535)] | Literal["auto"], BeforeValidator(_auto_or_number)]


def _zero_for_max(value: object) -> object:
    return 0.0 if isinstance(value, str) and value.strip().lower() == "max" else value


Rate = Annotated[float, BeforeValidator(_zero_for_max)]
"""Messages per second; 0 or "max": as fast as possible."""


# -- URLs --------------------------------------------------------------------------------------------------------------


def _refuse_cut_login(url: str) -> None:
    """Refuse a login with one of these characters: the rest of it would be taken for the address, and be shown."""
    if "@" in "".join(re.split("[/?#]", url.partition("://")[2], maxsplit=1)[1:]):
        raise ValueError("in user and password, / is written as %2F, ? as %3F, # as %23 and @ as %40")


_ADDRESS_EXPECTED = (
    "expected host:port, with an IPv6 address in brackets, for example [::1]:5672; several have commas between them"
)


def _broker_url(url: str) -> str:
    _refuse_cut_login(url)
    if url and _scheme(url) not in {"amqp", "amqps", "kafka", "kafka+ssl", "memory"}:
        raise ValueError("expected amqp://, amqps:// or kafka://, for example amqp://guest:guest@localhost:5672/")
    if _scheme(url).startswith("kafka"):
        _refuse_bad_servers(url)
    elif url:
        address = _address(url, _ADDRESS_EXPECTED)
        if any(port == 0 for _, port in address.servers):
            raise ValueError(_ADDRESS_EXPECTED)
        if len(unquote_to_bytes(address.path[1:])) > MOST_NAME_OCTETS:
            raise ValueError(f"expected a virtual host of at most {MOST_NAME_OCTETS} octets in UTF-8")
    return url


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _refuse_bad_servers(url: str) -> None:
    servers = _address(url, _SERVERS_EXPECTED).servers
    if any(not host or port == 0 for host, port in servers):
        raise ValueError(_SERVERS_EXPECTED)


def _address(url: str, expected: str) -> BrokerAddress:
    try:
        return BrokerAddress.parse(url)
    except ValueError:
        raise ValueError(expected) from None


_SERVERS_EXPECTED = "expected servers as host:port, with commas between them, for example kafka://one:9092,two"


def _kafka_url(url: str) -> str:
    if url and _scheme(url) not in {"kafka", "kafka+ssl"}:
        raise ValueError("expected kafka://, for example kafka://localhost:9092")
    return _broker_url(url)


def http_url(example: str, *, optional: bool = False, several: bool = False) -> AfterValidator:
    """Return the check of an HTTP URL, whose error gives the ``example``.

    ``optional``: it may be empty; ``several``: it may name several servers, with commas between them.
    """

    def check(url: str) -> str:
        if optional and not url:
            return url
        _refuse_cut_login(url)
        address = _address(url, _ADDRESS_EXPECTED)
        if address.scheme not in {"http", "https"} or any(port == 0 for _, port in address.servers):
            raise ValueError(f"expected http:// or https://, for example {example}")
        if len(address.servers) > 1 and not several:
            raise ValueError("expected one host")
        return url

    return AfterValidator(check)


BrokerUrl = Annotated[str, AfterValidator(_broker_url)]
KafkaUrl = Annotated[str, AfterValidator(_kafka_url)]
