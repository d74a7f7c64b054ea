"""The consumer's window: a separate program, so that the window cannot slow the consumer down.

It reads what to show from standard input and writes what was asked for to standard output, a JSON object a line, and
imports nothing of this package: `consumer_window` is the other end. It ends with its input, or when it is closed.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    import tkinter as tk

MOST_ROWS = 500
_LOOK_MS = 50
_BEHIND = 4  # updates that may wait; beyond that the pipe fills and the consumer skips some
_COLUMNS = (("time", 110), ("outcome", 100), ("from", 130), ("number", 80), ("age", 80), ("body", 420))

Send = Callable[[dict[str, Any]], None]


class ConsumerWindow:
    """Shows the latest messages and the counters; buttons send what is asked for."""

    def __init__(self, root: tk.Tk, send: Send) -> None:
        """Build the window in ``root``; ``send`` is called with each request."""
        from tkinter import StringVar, ttk  # noqa: PLC0415 - may be missing: `main` says so

        self.root = root
        self._send = send
        self._paused = False
        self._facts = StringVar(root, "connecting")
        self._notice = StringVar(root)
        self._prefetch = StringVar(root, "auto")
        root.geometry("960x560")
        root.minsize(560, 240)
        bar = ttk.Frame(root, padding=6)
        bar.pack(fill="x")
        self.pause = ttk.Button(bar, text="Pause", width=9, command=self._toggle)
        self.pause.pack(side="left")
        ttk.Label(bar, text="   prefetch").pack(side="left")
        choices = ("auto", "1", "5", "10", "50", "100", "500")
        self.prefetch = ttk.Combobox(bar, textvariable=self._prefetch, values=choices, width=7)
        self.prefetch.pack(side="left", padx=4)
        self.prefetch.bind("<<ComboboxSelected>>", self._set_prefetch)
        self.prefetch.bind("<Return>", self._set_prefetch)
        ttk.Button(bar, text="Set", width=5, command=self._set_prefetch).pack(side="left")
        ttk.Label(bar, textvariable=self._notice, foreground="#b3261e").pack(side="left", padx=10)
        ttk.Label(root, textvariable=self._facts, padding=(8, 0, 8, 6)).pack(fill="x")
        frame = ttk.Frame(root)
        frame.pack(fill="both", expand=True)
        self.rows = ttk.Treeview(frame, columns=[name for name, _ in _COLUMNS], show="headings")
        for name, width in _COLUMNS:
            anchor: Literal["e", "w"] = "e" if name in {"number", "age"} else "w"
            self.rows.heading(name, text=name, anchor=anchor)
            self.rows.column(
                name, width=width, stretch=name == "body", anchor="e" if name in {"number", "age"} else "w"
            )
        self.rows.tag_configure("bad", foreground="#b3261e")
        scroll = ttk.Scrollbar(frame, command=self.rows.yview)
        self.rows.configure(yscrollcommand=scroll.set)
        scroll.pack(side="right", fill="y")
        self.rows.pack(side="left", fill="both", expand=True)

    def show(self, update: dict[str, Any]) -> None:
        """Show an update: new rows, counters, whether the consumer is paused, why the last request was refused."""
        self.root.title(update["title"])
        self._facts.set(update["facts"])
        self._notice.set(update["notice"])
        self._paused = update["paused"]
        self.pause.configure(text="Resume" if self._paused else "Pause")
        follows = self.rows.yview()[1] >= 1.0  # keep the position of a reader who has scrolled up
        for row in update["rows"][-MOST_ROWS:]:
            self.rows.insert("", "end", values=row, tags=() if row[1] == "processed" else ("bad",))
        shown = self.rows.get_children()
        if len(shown) > MOST_ROWS:
            self.rows.delete(*shown[: len(shown) - MOST_ROWS])
        if follows and update["rows"]:
            self.rows.yview_moveto(1.0)

    def _toggle(self) -> None:
        self._send({"do": "resume" if self._paused else "pause"})

    def _set_prefetch(self, _: object = None) -> None:
        self._send({"do": "prefetch", "value": self._prefetch.get().strip()})


def main(given: TextIO, asked: TextIO) -> int:
    """Show what is ``given`` until it ends or the window is closed; returns the exit code, 3 without a display."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the consumer, which then closes the input

    def send(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=asked, flush=True)

    try:
        import tkinter as tk  # noqa: PLC0415 - may be missing
    except ImportError as error:
        send({"failed": f"Python was built without Tk ({error}); on Debian: apt-get install python3-tk"})
        return 3
    try:
        root = tk.Tk()
    except tk.TclError as error:
        send({"failed": f"there is no display to open it on ({error})"})
        return 3
    window = ConsumerWindow(root, send)
    updates: queue.Queue[dict[str, Any] | None] = queue.Queue(_BEHIND)
    threading.Thread(target=_read, args=(given, updates), daemon=True).start()

    def look() -> None:
        try:
            while (update := updates.get_nowait()) is not None:
                window.show(update)
        except queue.Empty:
            root.after(_LOOK_MS, look)
        else:
            root.destroy()

    send({"ready": True})
    look()
    root.mainloop()
    return 0


def _read(given: TextIO, updates: queue.Queue[dict[str, Any] | None]) -> None:
    for line in given:
        updates.put(json.loads(line))
    updates.put(None)


if __name__ == "__main__":
    sys.exit(main(sys.stdin, sys.stdout))
