"""The real scripts as real processes, with their own embedded broker on free ports.

Nothing here sleeps for a result: a script is waited for by what it prints, announces or answers over HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import httpx
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chromium import Chromium, find_chromium

from backpressure.transports.private_process import ReservedPorts

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


@contextmanager
def signals_heard() -> Iterator[None]:
    """Let what is started hear Ctrl-C and SIGHUP: the tests may run in the background, or under nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def _signals_heard() -> Iterator[None]:
    """Let what the test starts hear Ctrl-C and SIGHUP."""
    with signals_heard():
        yield


class Script:
    """A program that runs; every line it prints, on both outputs, is kept and can be waited for."""

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        with signals_heard():
            self._process = subprocess.Popen(
                command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def text(self) -> str:
        """All it has printed so far."""
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until a line matches and return the match; fails when the program ends without it."""
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                assert self._reader.is_alive(), f"it ended without saying {pattern!r}:\n{self.text}"
                assert self._news.wait(deadline - time.monotonic()), f"it never said {pattern!r}:\n{self.text}"

    def ends(self) -> int:
        """Wait for its end and return the exit code."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def discard(self) -> None:
        """End it and its children, however they are: a child that is left keeps the pipe of the output open."""
        if self._process.poll() is None:
            children = psutil.Process(self.pid).children(recursive=True)
            self._process.kill()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Starter(Protocol):
    """Starts a script, a command of `pace` or, with -c, Python code; ``settings`` become environment variables."""

    def __call__(self, script: str, *flags: str, **settings: str) -> Script: ...


@dataclass(frozen=True)
class Broker:
    """A running embedded broker."""

    url: str
    port: int
    management_url: str

    def depth(self, queue: str) -> int:
        """Return how many messages are in ``queue``, ready and unacked."""
        answer = httpx.get(
            f"{self.management_url}/api/queues/%2F/{queue}",
            auth=("guest", "guest"),
            trust_env=False,
            timeout=PATIENCE_S,
        )
        return int(answer.raise_for_status().json()["messages"])


@contextmanager
def running_broker(directory: Path, environment: dict[str, str], port: int = 0) -> Iterator[Broker]:
    """Run the embedded broker in a process of its own."""
    announced = directory / "broker.json"
    command = [sys.executable, "-m", "backpressure.broker", "--port", str(port), "--management-port", "0"]
    process = subprocess.Popen(
        [*command, "--announce", str(announced)], cwd=directory, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: announced.exists() or process.poll() is not None, "the embedded broker is ready")
        about = json.loads(announced.read_text())
        yield Broker(about["url"], about["port"], f"http://{about['host']}:{about['management_port']}")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Ask again and again until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it never came true that {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return an environment in which no setting of the user's is left."""
    ours = re.compile("PACE_|RABBITMQ_|LOG_LEVEL")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return kept | {"PACE_CONFIG": "", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Broker]:
    """One embedded broker for all tests; each uses queues of its own."""
    with running_broker(tmp_path_factory.mktemp("broker"), environment) as running:
        yield running


@pytest.fixture
def start_broker(tmp_path: Path, environment: dict[str, str]) -> Callable[[int], AbstractContextManager[Broker]]:
    """Return a function that starts one more broker on a given port."""
    return lambda port: running_broker(tmp_path, environment, port)


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Starter]:
    """Return a function that starts a script; what still runs after the test is ended."""
    started: list[Script] = []

    def run(script: str, *flags: str, **settings: str) -> Script:
        program = ["-m", "backpressure", script]
        if (ROOT / script).is_file():  # also another script of this environment, by its whole path
            program = [str(ROOT / script)]
        elif script.startswith("-"):
            program = [script]
        command = [sys.executable, *program, *flags]
        running = Script(command, tmp_path, environment | settings)
        started.append(running)
        return running

    yield run
    for script in started:
        script.discard()


@pytest.fixture
def pace(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Script]]:
    """Return a function that runs `pace` with arguments; state and temporary files lie in folders of the test's own."""
    own = {"XDG_STATE_HOME": str(tmp_path / "state"), "TMPDIR": str(tmp_path / "temporary")}
    Path(own["TMPDIR"]).mkdir()
    started: list[Script] = []

    def run(*arguments: str) -> Script:
        started.append(Script([sys.executable, "-m", "backpressure", *arguments], tmp_path, environment | own))
        return started[-1]

    yield run
    for script in started:
        script.discard()


@pytest.fixture
def chromium(tmp_path: Path, go_without: Callable[[str, str], NoReturn]) -> Iterator[Chromium]:
    """A browser with an empty page."""
    program = find_chromium()
    if program is None:
        go_without("chromium", "it is not installed")
    browser = Chromium(program, tmp_path / "chromium")
    yield browser
    browser.close()


@pytest.fixture
def violations(chromium: Chromium, go_without: Callable[[str, str], NoReturn]) -> Callable[[], list[str]]:
    """Return a function: what axe-core finds wrong with the open page, narrow and wide, light and dark."""
    script = ROOT / ".axe" / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        go_without("axe", "`make axe` fetches it, which needs npm")

    def find() -> list[str]:
        chromium.run(script.read_text(encoding="utf-8"))
        found = set()
        for scheme in ("light", "dark"):
            chromium.prefer(scheme)
            for width in (390, 1600):
                chromium.resize(width, 900)
                told = chromium.run(
                    "axe.run().then(({ violations }) => violations.flatMap(({ id, nodes }) =>"
                    "nodes.map(({ target, failureSummary }) => [id, ...target, failureSummary].join(' '))))"
                )
                found.update(told)
        return sorted(found)

    return find


@pytest.fixture
def free_port() -> Iterator[int]:
    """Return a port that nobody but the test gets."""
    with ReservedPorts() as reserved:
        yield from reserved.reserve([(0, "")])


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object], str], None]:
    """Return `eventually`."""
    return eventually
