"""The signals that end a run in order: Ctrl-C, SIGTERM, and the end of the terminal it was started in."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["catching", "held_back"]

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def held_back() -> Iterator[None]:
    """Meanwhile, let a signal that ends a run arrive only where somebody is `catching` it, or else at the end.

    A `KeyboardInterrupt` in the midst of making an event loop leaves half of one behind.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def catching(on_signal: Callable[[], None]) -> Iterator[None]:
    """Meanwhile, call ``on_signal`` instead of dying. A SIGHUP that we are to ignore, as under nohup, stays ignored."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
