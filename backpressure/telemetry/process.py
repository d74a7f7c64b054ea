"""What this process costs: memory and processor time, read at most once a second."""

from __future__ import annotations

import psutil

__all__ = ["ProcessCost"]

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
