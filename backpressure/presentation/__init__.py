"""How things look, the same on terminal, page and report; here: the files that pages load, and those of packages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from backpressure.errors import MissingExtraError
from backpressure.extras import require

require("bench", "output in colours")

SHARED: Mapping[str, Path] = {
    path.name: path for path in Path(__file__).parent.iterdir() if path.suffix in {".css", ".js"}
}
"""What every page may load, by name: the theme, the charts, the flow picture, numbers and words (``numbers`` in JS)."""

_IMPORT = re.compile(r"^import (\{[^}]*\}) from \"(?:[^\"]*/)?([^\"/]+)\";$", re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:const|function|class) (\w+))", re.MULTILINE)


def installed_file(package: str, name: str) -> Path:
    """Return the file ``name`` within ``package``, which is not imported; raises `MissingExtraError`."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError("bench", Path(name).name)
    return Path(spec.origin).parent / name


def inlined(*modules: Path) -> str:
    """Return JavaScript modules as one script, for a page that is a single file; each comes after those it imports."""
    return "\n".join(['"use strict";', "const modules = {};", *map(_inlined, modules)])


def _inlined(module: Path) -> str:
    source = module.read_text(encoding="utf-8")
    exported = ", ".join(match[2] for match in _EXPORT.finditer(source))
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r'const \1 = modules["\2"];', source))
    return f'modules["{module.name}"] = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();'
