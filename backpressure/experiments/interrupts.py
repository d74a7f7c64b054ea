"""The signals that end a run in order: Ctrl-C, SIGTERM, and the end of the terminal it was started in."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["catching"]


@contextmanager
def catching(on_signal: Callable[[], None]) -> Iterator[None]:
    """Meanwhile, call ``on_signal`` instead of dying. One that we are to ignore, as under nohup, stays ignored."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
