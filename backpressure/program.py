"""A program and its surroundings: standard streams, the size of the terminal, and the signals that end it.

Every program calls `prepare` before it imports anything else, so this module needs the standard library only. After
that, printing never fails, even if the output is closed, full or cannot show a character. Ctrl-C shows no traceback:
while a program loads, it ends the process at once; later it raises `KeyboardInterrupt` (`interruptible`) or ends the
program cleanly (`on_stop_signals`).
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    import asyncio

    from _typeshed import ReadableBuffer

INTERRUPTED = 130
"""Exit code after Ctrl-C if there was nothing to clean up: 128 + SIGINT, as in shells."""

_LARGEST_TERMINAL = 10_000
_LOOK_S = 0.1

_T = TypeVar("_T")
_READER_IS_GONE = {errno.EPIPE, errno.EIO}


def prepare(interrupted: int, message: str = "") -> None:
    """Make the standard streams safe, and let Ctrl-C end the process at once until it is `interruptible`.

    ``interrupted`` is the exit code after Ctrl-C; ``message`` is printed if that happens while the program loads.
    """
    _Leave.code, _Leave.message = interrupted, message
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is if a shell started it in the background
        signal.signal(signal.SIGINT, _Leave.at_once)
    _fill_closed_descriptors()
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    sys.stdout = _safe(sys.stdout, 1, "replace")
    sys.stderr = _safe(sys.stderr, 2, "backslashreplace")
    for name in ("COLUMNS", "LINES"):  # some terminals report 0 for "unknown", and rich would print nothing
        size = os.environ.get(name, "")
        if size.isdecimal() and not 0 < int(size) <= _LARGEST_TERMINAL:
            del os.environ[name]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt` within the block, so that cleanup code runs.

    It changes nothing in a process that has not called `prepare`.
    """
    if signal.getsignal(signal.SIGINT) != _Leave.at_once:
        yield
        return
    _Leave.message = ""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _Leave.at_once)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run ``main`` in a new event loop and return its result; on Windows too, it is one that pika can use."""
    import asyncio  # noqa: PLC0415 - this module is imported before all others, and most programs load without it

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop if sys.platform == "win32" else None) as runner:
        return runner.run(main)


def require_posix(feature: str, needs: str) -> None:
    """Raise `PlatformError`, which says that ``feature`` needs what ``needs`` names, on Windows."""
    if sys.platform == "win32":
        from backpressure.errors import PlatformError  # noqa: PLC0415 - see `check_output`

        raise PlatformError(feature, needs)


def on_stop_signals(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> list[signal.Signals]:
    """Call ``callback`` on Ctrl-C, SIGTERM and SIGHUP (the terminal was closed); return the handled signals.

    An ignored SIGHUP, as under nohup, stays ignored. When a terminal closes, both the kernel and the shell send one:
    only the first counts.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)

    def on_hangup() -> None:
        if not hung_up:
            hung_up.append(True)
            callback()

    hung_up: list[bool] = []
    try:
        for number in numbers:
            loop.add_signal_handler(number, on_hangup if number == hangup else callback)
    except NotImplementedError:  # Windows
        ctrl_break = getattr(signal, "SIGBREAK", signal.SIGTERM)
        for number in (signal.SIGINT, ctrl_break):
            signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(callback))
        _keep_looking(loop)
    return numbers


def check_output() -> None:
    """Raise `PaceError` if standard output could not be written: for commands whose result it is.

    A reader that has gone (``| head``) has seen enough: that is not an error.
    """
    failure = _output_failure()
    if failure is not None and failure.errno not in _READER_IS_GONE:
        from backpressure.errors import PaceError  # noqa: PLC0415 - this module is imported before all others

        raise PaceError(f"standard output cannot be written: {failure.strerror}")


def reader_is_gone() -> bool:
    """Return whether nobody reads standard output any more (``| head``): what only shows something may end then."""
    failure = _output_failure()
    return failure is not None and failure.errno == errno.EPIPE


def _output_failure() -> OSError | None:
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # without a buffer if Python runs unbuffered
    return raw.failure if isinstance(raw, _Output) else None


def printable(text: str) -> str:
    """Return ``text`` without control characters: text of other processes must not control the terminal."""
    return "".join(character if character.isprintable() else "·" for character in text)


def interrupted_code() -> int:
    """Return the exit code of this process after Ctrl-C."""
    return _Leave.code


def printable_lines(text: str) -> str:
    """Return ``text`` without control characters other than the ends of its lines."""
    return "\n".join(map(printable, text.split("\n")))


def _keep_looking(loop: asyncio.AbstractEventLoop) -> None:
    """Wake ``loop`` now and then: on Windows, a signal does not interrupt its wait, and is seen only after it."""
    loop.call_later(_LOOK_S, _keep_looking, loop)


class _Leave:
    """How Ctrl-C ends a process that has not begun its work, or has finished it."""

    code = INTERRUPTED
    message = ""

    @staticmethod
    def at_once(_number: int, _frame: object) -> None:
        with suppress(OSError):
            os.write(2, _Leave.message.encode())
        os._exit(_Leave.code)


class _Output(io.FileIO):
    """A standard stream whose writes never fail: what cannot be written is dropped, and the reason is kept."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # another process made the shared descriptor non-blocking
                    self._wait()
                else:
                    rest = rest[written:]
        except OSError as error:
            self.failure = error
        return size

    def _wait(self) -> None:
        import select  # noqa: PLC0415 - rarely needed

        select.select((), (self,), ())


def _safe(stream: TextIO | None, descriptor: int, errors: str) -> Any:
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(_Output(descriptor, "w", closefd=False)), "utf-8", errors)
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # replaced by a test or an editor
    raw = getattr(stream.buffer, "raw", stream.buffer)  # without a buffer if Python runs unbuffered
    if type(raw) is not io.FileIO:  # a Windows console
        stream.reconfigure(errors=errors)
        return stream
    stream.flush()
    output = _Output(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        output if stream.write_through else io.BufferedWriter(output),
        stream.encoding,
        errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _fill_closed_descriptors() -> None:
    """Open the null device for closed standard streams: otherwise the next file or socket would become one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
