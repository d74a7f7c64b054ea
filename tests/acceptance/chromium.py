"""A headless Chromium, controlled through two pipes with the DevTools protocol: no driver, no port, no library."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["Chromium", "find_chromium"]

_KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    " ": (32, " "),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}
"""What Windows calls these keys, which is what the protocol asks for, and the character that they write."""


def find_chromium() -> str | None:
    """Return the program, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One page in one browser."""

    def __init__(self, program: str, profile: Path) -> None:
        """``profile`` is an empty folder for its files."""
        low = (*os.pipe(), *os.pipe())
        to_read, to_write, from_read, from_write = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
        for end in low:  # 3 and 4 are the browser's own
            os.close(end)
        shell = f'exec "$@" 3<&{to_read} 4>&{from_write} {to_read}<&- {from_write}>&-'
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--remote-debugging-pipe")
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        self._commands = os.fdopen(to_write, "wb", 0)
        self._answers = os.fdopen(from_read, "rb")
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: dict[str, str] = {}
        self.complaints: list[Any] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setFocusEmulationEnabled", enabled=True)

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        outcome = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in outcome, outcome
        return outcome["result"].get("value")

    def prefer(self, scheme: str, motion: str = "no-preference") -> None:
        """Let the system be "dark" or "light", and ``motion`` as usual or "reduce"."""
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self._call("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key: one of `_KEYS`, or a character."""
        code, text = _KEYS[key] if key in _KEYS else (ord(key.upper()) if key.isalnum() else 0, key)
        about = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self._call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **about)
        self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Press a key for each character."""
        for character in text:
            self.press(character)

    def resize(self, width: int, height: int) -> None:
        """Give the page this size in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)

    def screenshot(self) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def picture(self) -> bytes:
        """Return what is visible of the page as WebP, which is a fraction of the size."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="webp", quality=80)["data"])

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        self._commands.close()
        self._answers.close()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters, **self._session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._unread:
                data = os.read(self._answers.fileno(), 65536)
                assert data, "the browser has ended"
                self._unread += data
            text, _, self._unread = self._unread.partition(b"\0")
            answer = json.loads(text)
            if answer.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.complaints.append(answer["params"])
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
