"""What a process reports about itself: that it is ready, at which addresses, and its memory and processor time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil

_FRESH_S = 1.0


class ProcessCost:
    """Resident memory in bytes, processor time in seconds and its recent percentage of one core, of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._read_at = float("-inf")
        self.rss_bytes = 0
        self.cpu_s = 0.0
        self.cpu_percent = 0.0

    def refresh(self, now: float) -> None:
        """Read both again unless that was done within the last second (``now``: seconds, monotonic)."""
        if now - self._read_at < _FRESH_S:
            return
        with self._process.oneshot():
            self.rss_bytes = int(self._process.memory_info().rss)
            times = self._process.cpu_times()
        cpu_s = float(times.user + times.system)
        self.cpu_percent = round(100 * (cpu_s - self.cpu_s) / (now - self._read_at), 1)
        self.cpu_s, self._read_at = cpu_s, now


def announce(path: str, **facts: Any) -> None:
    """Write ``facts`` and this process's pid to the file ``path`` as JSON, atomically; "" writes nothing."""
    if not path:
        return
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    partial.write_text(json.dumps({"pid": os.getpid(), "ready": True, **facts}), encoding="utf-8")
    partial.replace(target)
