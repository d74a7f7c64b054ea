"""From an OpenAPI document to a page of HTML; whatever stands in the document is text there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

__all__ = ["page_of"]

Json = Mapping[str, Any]

_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{title}</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/docs/reference.css">
  <script src="/docs/reference.js" type="module"></script>
</head>
<body>
  <h1>{title}</h1>
  <p>{summary} Version {version}; for programs: <a href="/openapi.json">/openapi.json</a>.</p>
{operations}
</body>
</html>
"""
_OPERATION = """  <details>
    <summary><b>{method}</b> <code>{path}</code> <span>{about}</span></summary>
    <form data-method="{method}" data-path="{path}">
{inputs}      <button>Send</button>
      <pre class="answer" role="status" hidden></pre>
    </form>
    <table>
{rows}    </table>
  </details>"""


def page_of(document: Json) -> str:
    """Return the page."""
    info = document["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        summary=escape(info.get("summary", "")),
        version=escape(info["version"]),
        operations="\n".join(_operations(document)),
    )


def _operations(document: Json) -> Iterator[str]:
    for path, item in document.get("paths", {}).items():
        for method, operation in item.items():
            yield _OPERATION.format(
                method=method.upper(),
                path=escape(path),
                about=escape(operation.get("description") or operation.get("summary", "")),
                inputs="".join(_inputs(document, operation)),
                rows="".join(_rows(document, operation)),
            )


def _inputs(document: Json, operation: Json) -> Iterator[str]:
    for parameter in operation.get("parameters", ()):
        name, place = escape(parameter["name"]), escape(parameter["in"])
        [example, *_] = parameter.get("schema", {}).get("examples") or [parameter.get("example", "")]
        value, needed = escape(str(example)), " required" if parameter.get("required") else ""
        yield f'      <label>{name} <input name="{name}" data-in="{place}" value="{value}"{needed}></label>\n'
    body = _body(document, operation)
    if body is not None:
        example = json.dumps((body.get("examples") or [{}])[0], indent=2, ensure_ascii=False)
        yield f'      <textarea aria-label="Body" rows="{example.count(chr(10)) + 2}">{escape(example)}</textarea>\n'


def _rows(document: Json, operation: Json) -> Iterator[str]:
    body = _body(document, operation) or {}
    for name, schema in body.get("properties", {}).items():
        needed = ", needed" if name in body.get("required", ()) else ""
        yield _row(name, _kind(schema) + needed, schema.get("description", ""))
    for parameter in operation.get("parameters", ()):
        yield _row(parameter["name"], f"in the {parameter['in']}", parameter.get("description", ""))
    for code, response in operation.get("responses", {}).items():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        yield _row(f"→ {code}", _kind(schema), response.get("description", ""))


def _row(*cells: str) -> str:
    return f"      <tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>\n"


def _body(document: Json, operation: Json) -> Json | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return None if content is None else _found(document, content["schema"])


def _found(document: Json, schema: Json) -> Json:
    """Follow a reference; of what may be absent, take what may be there."""
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return _found(document, options[0])
    if "$ref" not in schema:
        return schema
    found: Json = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _kind(schema: Json) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return _either(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return _either(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {})) or 'anything'}"
    return str(schema.get("type", ""))


def _either(kinds: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind))
