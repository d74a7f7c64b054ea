"""How a process tells the one that started it that it is ready, and under which addresses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["announce"]


def announce(path: str, **facts: Any) -> None:
    """Write ``facts`` and this process's pid to the file ``path`` as JSON, atomically; "" writes nothing."""
    if not path:
        return
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.write_text(json.dumps({"pid": os.getpid(), "ready": True, **facts}), encoding="utf-8")
    partial.replace(target)
