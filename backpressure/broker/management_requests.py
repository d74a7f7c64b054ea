"""What the parts of the management API share: errors as answers, JSON bodies, and the shape of lists.

Must not know: routes, the virtual host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from backpressure.amqp.field_tables import encode_table
from backpressure.broker.policy import is_name
from backpressure.broker.web import Answer

Handler = Callable[..., Any]

_PAGE_SIZE, _LARGEST_PAGE = 100, 500

Route = tuple[str, str, "Handler"]
"""Verb, pattern of the path below ``/api/``, and what answers; it is given the pattern's names, and the request."""


class HttpError(Exception):
    """An answer other than success."""

    def __init__(self, status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> None:
        """``reason`` goes into the JSON body."""
        super().__init__(reason)
        self.answer = Answer.refusal(status, reason, *headers)


def not_found() -> HttpError:
    """404 for an object that does not exist."""
    return HttpError(HTTPStatus.NOT_FOUND, "Not Found")


def bad_request(reason: str) -> HttpError:
    """400 for a request that makes no sense."""
    return HttpError(HTTPStatus.BAD_REQUEST, reason)


def json_object(body: bytes, *, required: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON object that was sent; 400 for anything else, a missing key, half a surrogate pair, or NaN."""
    try:
        document = json.loads(body)
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise bad_request("the body must be a JSON object")
    missing = [f"{{key_missing,{key}}}" for key in required if key not in document]
    if missing:
        raise bad_request(f"[{','.join(missing)}]")
    return document


def flag_of(document: Mapping[str, Any], key: str) -> bool:
    """The boolean under ``key``, which may be text; False when it is absent."""
    value = document.get(key, False)
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise bad_request(f"{key}: not_boolean, {value!r}")
    return value


def text_of(document: Mapping[str, Any], key: str, default: str = "") -> str:
    """The text under ``key``."""
    value = document.get(key, default)
    if not isinstance(value, str):
        raise bad_request(f"{key}: must be text")
    return value


def name_of(name: str) -> str:
    """A name or routing key as a short string can hold it."""
    if not is_name(name):
        raise bad_request("a name has at most 255 octets")
    return name


def arguments_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The ``arguments`` of a declaration as AMQP can carry them; an empty list is an empty object."""
    arguments = document.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise bad_request("arguments: must be an object")
    try:
        encode_table(arguments)
    except (TypeError, ValueError) as cause:
        raise bad_request(f"arguments: {cause}") from cause
    return arguments


def shaped(items: list[Any], query: Mapping[str, str]) -> Any:
    """A list as ``page``, ``page_size``, ``name``, ``use_regex``, ``sort``, ``sort_reverse`` and ``columns`` ask."""
    if "page" not in query:
        return _columns(_sorted(items, query), query)
    page, size = _page(query)
    matches = _matcher(query)
    kept = _sorted([item for item in items if matches(str(item.get("name", "")))], query)
    pages = -(-len(kept) // size)
    page = max(1, min(page, pages))
    shown = kept[(page - 1) * size : page * size]
    return {
        "total_count": len(items),
        "filtered_count": len(kept),
        "item_count": len(shown),
        "page": page,
        "page_size": size,
        "page_count": pages,
        "items": _columns(shown, query),
    }


def _page(query: Mapping[str, str]) -> tuple[int, int]:
    try:
        page, size = int(query["page"]), int(query.get("page_size", _PAGE_SIZE))
    except ValueError:
        raise bad_request("Pagination parameters are invalid") from None
    if page < 1 or not 0 < size <= _LARGEST_PAGE:
        raise bad_request(f"Invalid pagination parameters: page number {page}, page size {size}")
    return page, size


def _matcher(query: Mapping[str, str]) -> Callable[[str], bool]:
    wanted = query.get("name", "")
    if query.get("use_regex") != "true":
        return lambda name: wanted.lower() in name.lower()
    try:
        pattern = re.compile(wanted)
    except re.error:
        raise bad_request("Pagination parameters are invalid") from None
    return lambda name: pattern.search(name) is not None


def _sorted(items: list[Any], query: Mapping[str, str]) -> list[Any]:
    if "sort" not in query:
        return items

    def key(item: Any) -> tuple[bool, float, str]:
        value = _at(item, query["sort"])
        is_number = isinstance(value, (int, float))
        return not is_number, float(value) if is_number else 0.0, str(value)

    return sorted(items, key=key, reverse=query.get("sort_reverse") == "true")


def _columns(items: list[Any], query: Mapping[str, str]) -> list[Any]:
    if "columns" not in query:
        return items
    wanted = dict.fromkeys(column.split(".")[0] for column in query["columns"].split(","))
    return [{key: item[key] for key in wanted if key in item} for item in items]


def _at(item: Any, path: str) -> Any:
    for part in path.split("."):
        item = item.get(part) if isinstance(item, dict) else None
    return item
