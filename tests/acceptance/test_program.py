"""Programs in hostile surroundings: Ctrl-C while they load; output that is closed, full, or lacks characters."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PACE = [sys.executable, "-m", "backpressure"]
NOWHERE = ["--url", "amqp://127.0.0.1:1/", "--no-wait"]
BROKER = [sys.executable, "-m", "backpressure.broker"]

CTRL_C = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""

LOADING = [  # program, what it is importing when Ctrl-C comes, exit code
    ([*PACE, "--help"], "click", 130),
    ([*PACE, "producer", *NOWHERE], "pydantic", 130),
    ([*PACE, "monitor", "--once", *NOWHERE], "rich", 130),
    ([*PACE, "run", "normal"], "click", 3),
    ([*PACE, "run", "normal"], "pydantic", 3),
    ([*PACE, "simulate", "normal"], "rich", 3),
    ([*PACE, "compare", "normal"], "pydantic", 3),
    ([sys.executable, str(ROOT / "fast_producer.py"), *NOWHERE], "pydantic", 130),
    ([sys.executable, str(ROOT / "slow_consumer.py"), *NOWHERE], "click", 130),
    ([sys.executable, str(ROOT / "monitor.py"), *NOWHERE], "prometheus_client", 130),
    (BROKER, "pamqp", 130),
]


@pytest.mark.parametrize(
    ("command", "module", "code"), LOADING, ids=lambda value: value if isinstance(value, str) else None
)
@pytest.mark.usefixtures("_signals_heard")
def test_ctrl_c_while_a_program_loads_shows_no_traceback(
    command: list[str], module: str, code: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / f"{module}.py").write_text(CTRL_C)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) <= (code == 3), done.stderr
    assert "Traceback" not in done.stderr


SHORT = """
name = "short"
[[phase]]
name = "all"
duration_s = 1
[expect]
lost = "== 0"
"""

OUTPUT = [  # arguments, exit code; standard output is all there is of the first ones
    (["laws"], 3),
    (["scenarios"], 3),
    (["scenarios", "show", "normal"], 3),
    (["doctor", *NOWHERE], 3),
    (["--help"], 0),
    (["--version"], 0),
    (["init", "x", "--force"], 0),
    (["simulate", "short.toml"], 0),
    (["compare", "short.toml", "--simulate", "--laws", "pace"], 0),
    (["producer", "--no-api", *NOWHERE], 3),  # without a broker
    (["check", "--url", "http://127.0.0.1:1", "--timeout", "1"], 3),
]


@pytest.mark.parametrize(
    ("arguments", "code"), OUTPUT, ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None
)
def test_output_that_is_full_closed_or_poor_in_characters_shows_no_traceback(
    arguments: list[str], code: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "short.toml").write_text(SHORT)

    def run(shell: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f'"$@" {shell}', "-", *PACE, *arguments]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment | {"PYTHONUNBUFFERED": ""} | more,
            capture_output=True,
            encoding="latin-1",
            check=False,
            timeout=60,
        )

    usual = run("")
    assert "Traceback" not in usual.stderr
    closed = run(">&-")
    gone = run("| true; exit ${PIPESTATUS[0]}")
    full = run("> /dev/full")
    poor = [run("", PYTHONIOENCODING=encoding) for encoding in ("ascii", "latin-1")]
    for done in (closed, gone, full, *poor):
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    assert [done.returncode for done in (closed, gone, *poor)] == [usual.returncode] * 4
    assert full.returncode == code
    if code == 3 and usual.returncode == 0:
        assert full.stderr.splitlines()[-1] == "error: standard output cannot be written: No space left on device"


@pytest.mark.parametrize("redirect", ["> /dev/full 2>&1", ">&- 2>&-", "| true; exit ${PIPESTATUS[0]}"])
def test_output_that_cannot_be_written_costs_a_consumer_no_message(
    redirect: str, start: Any, broker: Any, tmp_path: Path, environment: dict[str, str]
) -> None:
    queue = f"q.{len(redirect)}"
    where = ["--url", broker.url, "--queue", queue, "--no-api"]
    assert start("fast_producer.py", *where, "--count", "20").ends() == 0
    consume = [*PACE, "consumer", *where, "--verbose", "--expect", "20", "--progress-every", "1"]
    command = ["bash", "-c", f'"$@" {redirect}', "-", *consume]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, timeout=60)
    assert (done.returncode, broker.depth(queue)) == (0, 0)


def test_a_closed_standard_stream_is_not_replaced_by_the_next_file_that_is_opened(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    code = (
        "from backpressure import program; program.prepare(130); import os;"
        " print('lost'); file = open('kept', 'w'); os.write(1, b'lost'); os.write(2, b'lost')"
    )
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "-", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, timeout=60)
    assert (done.returncode, (tmp_path / "kept").read_text()) == (0, "")


@pytest.mark.parametrize("columns", ["0", "00", "99999999999"])
def test_a_terminal_of_no_columns_or_too_many_shows_as_much_as_one_of_unknown_size(
    columns: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    def shown(**more: str) -> str:
        command = [*PACE, "doctor", *NOWHERE]
        unknown = {name: value for name, value in environment.items() if name != "COLUMNS"}
        return subprocess.run(
            command, cwd=tmp_path, env=unknown | more, capture_output=True, text=True, check=False, timeout=60
        ).stdout

    assert shown(COLUMNS=columns, LINES="0") == shown()


def test_a_non_blocking_pipe_takes_all_that_is_printed(tmp_path: Path, environment: dict[str, str]) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = "from backpressure import program; program.prepare(130); print('x' * 1_000_000)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=write) as process:
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            assert len(pipe.read()) == 1_000_001
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("program", "flags", "ready"),
    [
        ("broker", ("--port", "0", "--management-port", "0"), "ready on"),
        ("lab", ("--url", "amqp://127.0.0.1:1/", "--api-port", "0"), "lab: http"),
        ("monitor.py", ("--url", "amqp://127.0.0.1:1/", "--port", "0", "--watch", "0.2"), "waiting for"),
    ],
)
def test_the_end_of_its_terminal_ends_a_program_cleanly(
    program: str, flags: tuple[str, ...], ready: str, start: Any
) -> None:
    running = start(program, *flags)
    running.says(ready)
    running.signal(signal.SIGHUP)
    assert running.ends() == 0
    assert "Traceback" not in running.text


def test_under_nohup_the_end_of_the_terminal_is_not_heard(start: Any, broker: Any) -> None:
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    consumer = start(
        "-c", code, sys.executable, str(ROOT / "slow_consumer.py"),
        "--url", broker.url, "--queue", "q.nohup", "--no-api", "--expect", "1",
    )  # fmt: skip
    consumer.says("consumer .* takes")
    consumer.signal(signal.SIGHUP)
    producer = start("fast_producer.py", "--url", broker.url, "--queue", "q.nohup", "--no-api", "--count", "1")
    assert producer.ends() == 0
    assert consumer.ends() == 0
    assert consumer.lines[-1].startswith("consumed=1, ")


def test_variables_that_kubernetes_injects_stop_no_program(start: Any, broker: Any) -> None:
    injected = {"RABBITMQ_PORT": "tcp://10.0.0.1:5672", "PACE_BROKER_SERVICE_HOST": "10.0.0.1"}
    where = ("--url", broker.url, "--queue", "q.injected", "--no-api")
    producer = start("fast_producer.py", *where, "--count", "1", **injected)
    assert producer.ends() == 0
    producer.says("ignored environment variables .*Kubernetes.*: PACE_BROKER_…, RABBITMQ_…")


@pytest.fixture
def ipv6(go_without: Callable[[str, str], NoReturn]) -> None:
    """Go without the test where this machine has no IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        go_without("ipv6", str(error))


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_broker_announces_urls_that_every_program_takes(host: str, start: Any) -> None:
    running = start("broker", "--host", host, "--port", "0", "--management-port", "0", "--unlisted")
    announced = running.says(r"ready on (amqp://\S+@\[::1\]:(\d+)), management on (http://\[::1\]:\d+)")
    url, port, management_url = announced.groups()
    queue = ("--queue", "q.ipv6", "--api-port", "0")
    producer = start("fast_producer.py", "--url", url, *queue, "--count", "1", PACE_API__HOST=host)
    producer.says(r"control API http://\[::1\]:\d+$")
    assert producer.ends() == 0
    consumer = start("slow_consumer.py", "--host", host, "--port", port, *queue, "--expect", "1", PACE_API__HOST=host)
    assert consumer.ends() == 0
    once = start("monitor.py", "--url", url, "--host", management_url, "--once")
    assert once.ends() == 0
    lab = start("lab", "--host", host, "--port", port, "--api-port", "0", PACE_API__HOST=host)
    served = lab.says(r"lab: (http://\[::1\]:\d+)/")[1]
    assert httpx.get(f"{served}/health", trust_env=False, timeout=60).status_code == 200
    monitor = start("monitor.py", "--url", url, "--host", management_url, "--port", "0", PACE_MONITOR__HOST=host)
    served = monitor.says(r"live page and metrics at (http://\[::1\]:\d+)/")[1]
    assert httpx.get(f"{served}/metrics", trust_env=False, timeout=60).status_code == 200
    for script in (lab, monitor, running):
        script.signal(signal.SIGTERM)
        assert script.ends() == 0


@pytest.mark.parametrize(
    ("program", "flags", "named"),
    [
        ("fast_producer.py", ("--host", "[::1"), "broker.host = '[::1'"),
        ("slow_consumer.py", ("--url", "amqp://::1:5672/"), "broker.url"),
        ("monitor.py", ("--host", "http://::1:15672"), "broker.management_url"),
        ("broker", ("--host", "[::1"), "--host"),
        ("broker", ("--host", "192.0.2.1"), "--host"),
        ("cleanup", ("é" * 128,), "QUEUE"),
        ("fast_producer.py", ("--queue", "é" * 101), "queue.work"),
    ],
)
def test_an_address_or_a_name_that_cannot_be_is_refused_in_one_line(
    program: str, flags: tuple[str, ...], named: str, start: Any
) -> None:
    refused = start(program, *flags)
    assert refused.ends() == 2
    assert len(refused.lines) == 1
    assert refused.lines[0].startswith(f"error: {named}")


@pytest.mark.parametrize(
    ("scheme", "program", "code"),
    [
        ("amqp", "fast_producer.py", 0),
        ("amqps", "slow_consumer.py", 0),
        ("amqp", "monitor.py", 0),
        ("amqp", "doctor", 130),
    ],
)
def test_ctrl_c_while_the_broker_does_not_answer_ends_without_a_word(
    scheme: str, program: str, code: int, start: Any
) -> None:
    port = () if program == "doctor" else ("--port" if program == "monitor.py" else "--api-port", "0")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(60)
        running = start(program, "--url", f"{scheme}://127.0.0.1:{mute.getsockname()[1]}/", *port)
        connection, _ = mute.accept()
        with connection:
            assert connection.recv(4)  # its greeting
            running.signal(signal.SIGINT)
            assert running.ends() == code
    assert [line for line in running.lines if not re.search("watches|waiting", line)] == []


def test_a_sender_can_neither_end_a_consumer_that_shows_its_name_nor_steer_its_terminal(
    start: Any, broker: Any
) -> None:
    where = ("--url", broker.url, "--queue", "q.foreign", "--no-api")
    producer = start("fast_producer.py", *where, "--count", "1", "--producer-id", "日本\x1b[2J")
    assert producer.ends() == 0
    consumer = start("slow_consumer.py", *where, "--verbose", "--expect", "1", PYTHONIOENCODING="iso8859-2:strict")
    assert consumer.ends() == 0
    consumer.says(r"from=\?\?\?\[2J")
    assert "\x1b" not in consumer.text


def test_a_status_that_nobody_reads_any_more_ends(environment: dict[str, str]) -> None:
    shell = '"$@" | head -n 1; exit ${PIPESTATUS[0]}'
    command = ["bash", "-c", shell, "-", *PACE, "status", "--every", "0.1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("time ")
