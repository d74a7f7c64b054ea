"""monitor.py as a process: what it prints, what it serves, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

ROOT = Path(__file__).parents[2]
NOWHERE = "amqp://127.0.0.1:1"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[1-7]|9[1-7]|38;5;\d+)m")


class Terminal:
    """Starts programs from the root of the project, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PACE_", "RABBITMQ_"))}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**inherited, "PACE_CONFIG": "", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def announced(self, process: subprocess.Popen[str], path: Path) -> dict[str, object]:
        """Wait until ``process`` has written ``path``."""
        until(lambda: path.exists() or process.poll() is not None)
        assert path.exists(), process.communicate()[1]
        content: dict[str, object] = json.loads(path.read_text())
        return content

    def monitor(self, url: str, *options: str) -> tuple[subprocess.Popen[str], str]:
        """Start a monitor and return it with the address it serves."""
        path = self.directory / f"monitor-{len(self.processes)}.json"
        process = self.start("monitor.py", "--url", url, "--port", "0", *options, PACE_PROCESS__ANNOUNCE_FILE=str(path))
        metrics_url = self.announced(process, path)["metrics_url"]
        return process, str(metrics_url).removesuffix("/metrics")


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen; the test's own timeout is the limit."""
    while not holds():
        time.sleep(0.05)


@contextmanager
def opened(directory: Path) -> Iterator[Terminal]:
    terminal = Terminal(directory)
    try:
        yield terminal
    finally:
        for process in terminal.processes:
            process.terminate()
        for process in terminal.processes:
            process.communicate(timeout=60)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Where a test starts its own programs."""
    with opened(tmp_path) as terminal:
        yield terminal


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded broker with one producer and one consumer at work."""
    directory = tmp_path_factory.mktemp("loop")
    path = directory / "broker.json"
    with opened(directory) as terminal:
        process = terminal.start(
            "-m", "backpressure.broker", "--port", "0", "--management-port", "0", "--announce", str(path)
        )
        url = str(terminal.announced(process, path)["url"])
        for script in ("slow_consumer.py", "fast_producer.py"):
            terminal.start(script, "--url", url, "--no-api")
        yield url


def test_metrics_page_and_json_show_a_running_loop(terminal: Terminal, broker: str) -> None:
    _, address = terminal.monitor(broker, "--no-ui")

    def flowing() -> bool:
        seen = httpx.get(f"{address}/api/snapshot", timeout=60).json()
        rates, totals = seen["rates"], seen["totals"]
        return (
            bool(rates["processed_per_s"] and rates["confirmed_per_s"] and totals["processed"] and totals["confirmed"])
            and [process["role"] for process in seen["processes"]].count("producer") == 1
            and seen["queues"]["work.queue"]["consumers"] == 1
        )

    def told() -> bool:
        text = httpx.get(f"{address}/", timeout=60).text
        return (
            'pace_queue_ready_messages{queue="work.queue"}' in text
            and 'pace_observed_processes{role="consumer"} 1.0' in text
        )

    until(flowing)
    until(told)
    assert "<!doctype html>" in httpx.get(f"{address}/", headers={"accept": "text/html"}, timeout=60).text
    with httpx.stream("GET", f"{address}/api/stream", timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: history"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_even_with_a_page_open(
    terminal: Terminal, broker: str, number: signal.Signals
) -> None:
    process, address = terminal.monitor(broker)
    with httpx.stream("GET", f"{address}/api/stream", timeout=60) as stream:
        next(stream.iter_lines())
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == ""


def test_one_frame_without_a_terminal_is_plain_text(terminal: Terminal, broker: str) -> None:
    frame = terminal.run("monitor.py", "--url", broker, "--once", COLUMNS="100")
    assert frame.returncode == 0
    assert frame.stderr == ""
    assert "\x1b" not in frame.stdout
    assert "work.queue" in frame.stdout
    assert "bottleneck 100/s" in frame.stdout
    assert max(map(len, frame.stdout.splitlines())) <= 100


@pytest.fixture
def tmux(tmp_path: Path, go_without: Callable[[str, str], NoReturn]) -> Iterator[Callable[..., str]]:
    """Return a function that runs a command of a terminal multiplexer of the test's own."""
    program = shutil.which("tmux")
    if program is None:
        go_without("tmux", "it is not installed")
    command = [program, "-S", str(tmp_path / "tmux"), "-f", os.devnull]

    def run(*arguments: str) -> str:
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=60)
        return ended.stdout

    yield run
    subprocess.run([*command, "kill-server"], capture_output=True, check=False, timeout=60)


def test_the_cards_follow_the_terminal_and_leave_the_last_state_behind(tmux: Callable[..., str], broker: str) -> None:
    unsized = "env -u COLUMNS -u LINES"  # where these are set, they override the size of the terminal
    monitor = f"{sys.executable} {ROOT / 'monitor.py'} --url {broker} --port 0 --watch 2"
    begin = ("new-session", "-d", "-x", "80", "-y", "40", "-e", "PACE_CONFIG=", "-e", "NO_COLOR=1")
    tmux(*begin, f"{unsized} {monitor}; exec cat")

    def shown(*flags: str) -> list[str]:
        return tmux("capture-pane", "-p", *flags).splitlines()

    def side_by_side() -> bool:
        return any("Queues" in line and "Processes" in line for line in shown())

    until(lambda: any("Processes" in line for line in shown()))
    assert not side_by_side()
    assert not [line for line in shown("-e") if COLOUR.search(line)]
    tmux("new-window", f"{unsized} -u NO_COLOR {monitor}")
    until(lambda: any(COLOUR.search(line) for line in shown("-e")))
    tmux("kill-window")
    tmux("resize-window", "-x", "200")
    until(side_by_side)
    assert max(len(line) for line in shown()) <= 200
    tmux("send-keys", "C-c")
    until(lambda: any("live page" in line for line in shown()) and any("work.queue" in line for line in shown()))


def test_where_the_encoding_lacks_a_sign_the_frame_is_shown_without_it(terminal: Terminal, broker: str) -> None:
    frame = terminal.run("monitor.py", "--url", broker, "--once", COLUMNS="100", PYTHONIOENCODING="ascii")
    assert frame.returncode == 0
    assert "? work.queue" in frame.stdout


def test_without_a_terminal_it_prints_a_line_now_and_then(terminal: Terminal, broker: str) -> None:
    process, _ = terminal.monitor(broker, "--watch", "0.2")
    assert process.stdout is not None
    line = next(line for line in process.stdout if "depth=" in line)
    assert " work.queue depth=" in line
    assert "out=" in line


def test_lines_that_nobody_reads_any_more_end_it(terminal: Terminal, broker: str) -> None:
    process, _ = terminal.monitor(broker, "--watch", "0.2")
    assert process.stdout is not None
    next(line for line in process.stdout if "depth=" in line)
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_it_waits_for_a_broker_and_finds_it_by_itself(terminal: Terminal, free_port: int) -> None:
    _, address = terminal.monitor(f"amqp://guest:guest@127.0.0.1:{free_port}/", "--no-ui")
    assert httpx.get(f"{address}/api/snapshot", timeout=60).json()["sources"][0]["ok"] is False
    assert 'pace_source_up{source="broker"} 0.0' in httpx.get(f"{address}/metrics", timeout=60).text
    terminal.start("-m", "backpressure.broker", "--port", str(free_port), "--management-port", "0")
    until(lambda: httpx.get(f"{address}/api/snapshot", timeout=60).json()["sources"][0]["ok"] is True)


def test_with_no_wait_a_missing_broker_is_one_line_and_exit_3(terminal: Terminal) -> None:
    ended = terminal.run("monitor.py", "--url", NOWHERE, "--port", "0", "--no-wait")
    assert ended.returncode == 3
    assert ended.stderr.strip() == f"error: no broker at {NOWHERE}: connection refused"


@pytest.mark.parametrize("once", [("--once",), ("--watch", "0")])
def test_one_frame_without_a_broker_is_one_line_and_exit_3(terminal: Terminal, once: tuple[str, ...]) -> None:
    ended = terminal.run("monitor.py", "--url", NOWHERE, *once)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.strip() == f"error: no broker at {NOWHERE}: connection refused"


def test_one_frame_for_a_login_that_is_refused_says_how_to_give_another(terminal: Terminal, broker: str) -> None:
    address = broker.replace("guest:guest@", "")
    ended = terminal.run("monitor.py", "--url", address, "--username", "stranger", "--once", RABBITMQ_PASS="x")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith(f"error: access to {address.removesuffix('/')} refused: ACCESS_REFUSED")
    for name in ("--username", "--password", "RABBITMQ_USER", "RABBITMQ_PASS"):
        assert name in ended.stderr


def test_a_taken_port_is_named_with_the_flag_that_chooses_another(terminal: Terminal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = terminal.run("monitor.py", "--url", NOWHERE, "--port", str(port))
    assert ended.returncode == 3
    assert f"port {port} on 127.0.0.1 is taken" in ended.stderr
    assert "--port" in ended.stderr


def test_an_address_others_can_reach_needs_a_token(terminal: Terminal) -> None:
    ended = terminal.run("monitor.py", "--url", NOWHERE, "--port", "0", PACE_MONITOR__HOST="0.0.0.0")
    assert ended.returncode == 2
    assert "token" in ended.stderr


def test_help_lists_every_flag(terminal: Terminal) -> None:
    text = terminal.run("monitor.py", "--help").stdout
    for flag in ("--watch", "--once", "--host", "--url", "--username", "--password", "--port", "--no-ui", "--no-wait"):
        assert flag in text
