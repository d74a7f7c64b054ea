"""Runs pace with a wall clock that another process can move: ``python -P movable_clock.py FILE ARGUMENTS…``.

FILE holds one signed 64-bit number: by how many nanoseconds the date is wrong in this process. It is mapped into
memory, so a new number takes effect at once. Monotonic clocks do not change, as when NTP steps the date. The functions
are replaced before any other module can import the real ones; `datetime.now` reads the clock in C and is not moved.
This script imports nothing of the package, because it must run first.
"""

import mmap
import runpy
import sys
import time

_BYTES = 8


def _move_with(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib would be imported before the clock is in place
        error_ns = memoryview(mmap.mmap(file.fileno(), _BYTES, access=mmap.ACCESS_READ)).cast("q")
    true_ns = time.time_ns
    time.time_ns = lambda: true_ns() + error_ns[0]
    time.time = lambda: (true_ns() + error_ns[0]) / 1e9


if __name__ == "__main__":
    _move_with(sys.argv[1])
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module("backpressure", run_name="__main__", alter_sys=True)
