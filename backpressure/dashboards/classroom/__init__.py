"""The classroom: a page that simulates the loop in the browser, without a broker, a server or a network.

`plant.js`, `laws.js` and `estimators.js` are the model, `lessons.js` what it is used for, `classroom.js` the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from backpressure.presentation import SHARED, inlined

_HERE = Path(__file__).parent
_MODULES = (
    *("elements.js", "numbers.js", "words.js", "charts.js", "flow.js"),
    *("estimators.js", "laws.js", "plant.js", "lessons.js", "classroom.js"),
)
"""Each comes after those that it imports."""

_STYLE = re.compile(r'<link rel="stylesheet" href="assets/([\w.]+)">')
_SCRIPT = '<script src="assets/classroom.js" type="module"></script>'

LESSONS = 10
"""How many lessons there are: one for each lab, in their numbers."""


def assets() -> Mapping[str, Path]:
    """Return the page's files by the name they are loaded under."""
    files = {path.name: path for path in _HERE.iterdir() if path.suffix in {".html", ".css", ".js"}}
    return {**SHARED, **files}


def standalone() -> str:
    """Return the page as one file, to be put on any web server or opened from a folder."""
    files = assets()
    page = files["index.html"].read_text(encoding="utf-8")
    page = _STYLE.sub(lambda link: f"<style>\n{files[link[1]].read_text(encoding='utf-8')}</style>", page)
    script = inlined(*(files[name] for name in _MODULES))
    assert _SCRIPT in page
    return page.replace(_SCRIPT, f'<script type="module">\n{script}\n</script>')
