"""The labs are true: every command of every exercise runs as printed, and what the page promises happens.

One student, one desk: a broker, a monitor, a consumer and a producer as the set-up starts them, on free ports. Loops
that watch are shortened and two limits lowered; nothing here sleeps for a result, it is polled for until it is there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
LABS = ROOT / "docs" / "labs"
PATIENCE_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("labs"),
    pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash"),
]

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_CONTAINERS = re.compile(r"^docker |\bmake up\b", re.MULTILINE)
LOOK = re.compile(r"^\d\d:\d\d:\d\d  (?:running|blocked) +\d+ +\d+ .* \| ", re.MULTILINE)
PROGRAM = re.compile(r"^(?:\w+=\S+ )*\.venv/bin/(?:pace|python) (broker|monitor|slow_consumer|fast_producer)\b.*\n\Z")
SHORTER = (
    (r"\bseq \d+", "seq 2"),
    (r"\bsleep \d+", "sleep 0.2"),
    (r"--every \d+ --count \d+", "--every 0.2 --count 2"),
    (r"--memory-limit-mb 200", "--memory-limit-mb 20"),
    (r'"max_queue_size": 50', '"max_queue_size": 20'),
)


def blocks(page: str) -> list[str]:
    """Return the commands of a page, block by block, except those that need Docker."""
    found: list[str] = BLOCK.findall((LABS / f"{page}.md").read_text(encoding="utf-8"))
    return [block for block in found if not IN_CONTAINERS.search(block)]


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"it never came true that {what}"
        time.sleep(0.05)


class Desk:
    """The terminals of one student."""

    def __init__(self, folder: Path, collector_url: str) -> None:
        """Start with nothing running; the programs run and write in ``folder``."""
        self._folder = folder
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
        amqp, management, producer, consumer, monitor = (probe.getsockname()[1] for probe in probes)
        for probe in probes:
            probe.close()
        self._ports = {"fast_producer": producer, "slow_consumer": consumer, "monitor": monitor, "broker": management}
        self._rewritten = (
            *SHORTER,
            ("localhost:5000", f"localhost:{producer}"),
            ("localhost:8001", f"localhost:{consumer}"),
            (r"\.venv/bin/pace broker", rf"\g<0> --port {amqp} --management-port {management}"),
            (r"\.venv/bin/pace", f"{sys.executable} -m backpressure"),
            (r"\.venv/bin/python (\w+\.py)", rf"{sys.executable} {ROOT}/\1"),
        )
        ours = re.compile("PACE_|RABBITMQ_|LOG_LEVEL")
        self._environment = {name: value for name, value in os.environ.items() if not ours.match(name)} | {
            "PACE_CONFIG": "",
            "PACE_BROKER__PORT": str(amqp),
            "PACE_BROKER__MANAGEMENT_URL": f"http://localhost:{management}",
            "PACE_API__PRODUCER_PORT": str(producer),
            "PACE_API__CONSUMER_PORT": str(consumer),
            "PACE_MONITOR__PORT": str(monitor),
            "PACE_TRACING__ENDPOINT": collector_url,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "*",
            "no_proxy": "*",
        }

    def type(self, block: str) -> str:
        """Run one block: start a program, replacing the one in that terminal, or return the output of commands.

        Commands wait until the programs that were started answer; programs wait for each other by themselves.
        """
        command = block
        for pattern, replacement in self._rewritten:
            command = re.sub(pattern, replacement, command)
        if match := PROGRAM.match(block):
            self._start(match[1], command)
            return ""
        eventually(lambda: all(map(self._answers, self._programs)), "all programs answer")
        done = subprocess.run(
            ["bash", "-c", command], cwd=self._folder, env=self._environment, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _start(self, program: str, command: str) -> None:
        if program in self._programs:
            self._stop(program)
        with (self._folder / f"{program}.txt").open("wb") as output:
            self._programs[program] = subprocess.Popen(
                ["bash", "-c", re.sub(r"(?=\S+/python\S* )", "exec ", command, count=1)],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _answers(self, program: str) -> bool:
        assert self.runs(program) or self._programs[program].returncode == -signal.SIGKILL, self.output(program)
        with socket.socket() as probe:
            return not self.runs(program) or probe.connect_ex(("127.0.0.1", self._ports[program])) == 0

    def _stop(self, program: str) -> None:
        process = self._programs.pop(program)
        process.kill()  # an orderly end would take as long as the work that a slow consumer holds
        process.wait(PATIENCE_S)

    def leave(self) -> None:
        """End everything, the broker last."""
        for program in reversed(list(self._programs)):
            self._stop(program)

    def output(self, program: str) -> str:
        """Return what a program has printed."""
        return (self._folder / f"{program}.txt").read_text(encoding="utf-8")

    def runs(self, program: str) -> bool:
        """Return whether a program is alive."""
        return self._programs[program].poll() is None

    @property
    def producer(self) -> dict[str, Any]:
        """The status of the producer."""
        return self._status("fast_producer")

    @property
    def consumer(self) -> dict[str, Any]:
        """The status of the consumer."""
        return self._status("slow_consumer")

    def _status(self, program: str) -> dict[str, Any]:
        eventually(lambda: self._answers(program), f"{program} answers")
        url = f"http://127.0.0.1:{self._ports[program]}/status"
        answer = httpx.get(url, trust_env=False, timeout=PATIENCE_S)
        return dict(answer.raise_for_status().json())

    @property
    def size(self) -> int:
        """The depth that the producer knows; 0 if unknown."""
        return int(self.producer["queue"]["size"] or 0)

    @property
    def processed(self) -> int:
        """Messages that the consumer has processed."""
        return int(self.consumer["totals"]["processed"])

    def grows_beyond(self, size: int) -> None:
        """Wait until the queue is deeper than ``size``."""
        eventually(lambda: self.size > size, f"the queue is deeper than {size}")

    def shrinks_below(self, size: int) -> None:
        """Wait until the queue is shorter than ``size``."""
        eventually(lambda: self.size < size, f"the queue is shorter than {size}")

    def stays_below(self, size: int, while_processing: int) -> None:
        """Watch the queue until this many messages are processed; its depth must stay below ``size``."""
        end = self.processed + while_processing

        def done() -> bool:
            assert self.size < size
            return self.processed >= end

        eventually(done, f"{while_processing} messages are processed")


class Spans:
    """A collector, with the spans that it has received."""

    def __init__(self) -> None:
        received: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def mention(self, *words: bytes) -> bool:
        """Return whether every one of ``words`` occurs in what was received: protobuf leaves text readable."""
        everything = b"".join(self._received)
        return all(word in everything for word in words)


@pytest.fixture(scope="module")
def spans() -> Iterator[Spans]:
    collector = Spans()
    with collector.server:
        thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield collector
        collector.server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def set_up(tmp_path_factory: pytest.TempPathFactory, spans: Spans) -> Iterator[Desk]:
    """Start the programs of the set-up, in its order."""
    desk = Desk(tmp_path_factory.mktemp("desk"), spans.url)
    try:
        for block in blocks("README"):
            if PROGRAM.match(block):
                desk.type(block)
        yield desk
    finally:
        desk.leave()


@pytest.fixture
def desk(set_up: Desk) -> Desk:
    """Return to the baseline, with the commands of the set-up."""
    [*_, baseline] = blocks("README")

    def is_back() -> bool:
        set_up.type(baseline)
        return set_up.size < 10

    eventually(is_back, "the queue is short")
    return set_up


@contextmanager
def lesson(page: str, desk: Desk) -> Iterator[Callable[[], str]]:
    """Yield a function that runs the next block of ``page``; at the end, all blocks must have run."""
    remaining = iter(blocks(page))
    yield lambda: desk.type(next(remaining))
    assert next(remaining, None) is None, f"a block of {page} was not tried"


def test_every_exercise_is_played_and_listed() -> None:
    played = re.findall(r"lesson\(\"([\w-]+)\"", Path(__file__).read_text(encoding="utf-8"))
    exercises = sorted(path.stem for path in LABS.glob("[0-9]*.md"))
    assert sorted(played) == exercises
    assert re.findall(r"\]\((\d[\w-]+)\.md\)", (LABS / "README.md").read_text(encoding="utf-8")) == exercises


def test_the_baseline_says_success(desk: Desk) -> None:
    [*_, baseline] = blocks("README")
    assert desk.type(baseline).count('"status":"success"') == 3


def test_a_balanced_system_keeps_a_short_queue(desk: Desk) -> None:
    with lesson("01-baseline", desk) as type_next:
        output = type_next()
        assert "unbounded: no control" in output
        assert len(LOOK.findall(output)) == 2
        desk.stays_below(20, while_processing=20)
        output = type_next()
        assert "bound none" in output
        assert "rejected 0" in output
        assert "can do 10/s" in output
        assert "in the last 10 s p50" in output


def test_a_slower_consumer_lets_queue_and_wait_grow(desk: Desk) -> None:
    with lesson("02-overload", desk) as type_next:
        assert '"capacity_per_s":2.0' in type_next()
        assert LOOK.search(type_next())
        desk.grows_beyond(15)
        desk.grows_beyond(25)
        assert desk.producer["totals"]["rejected"] == 0
        waits = [float(wait) for wait in re.findall(r"waited=([\d.]+)ms", desk.output("slow_consumer"))]
        assert waits[-1] > 2 * min(waits)


def test_memory_runs_out_and_the_broker_blocks(desk: Desk) -> None:
    with lesson("03-memory", desk) as type_next:
        assert type_next().count('"status":"success"') == 2
        assert " MB " in type_next()
        eventually(lambda: desk.producer["state"] == "blocked", "the producer is blocked")
        output = type_next()
        assert "503 Service Unavailable" in output
        assert "the broker blocks publishing" in output
        assert "the broker blocks publishing: low on memory" in desk.output("fast_producer")
        output = type_next()
        assert '"purged":' in output
        assert "producer" in output
        eventually(lambda: desk.producer["totals"]["rejected"] == 0 and desk.size > 0, "nothing was refused")
        eventually(lambda: "accepts messages again" in desk.output("fast_producer"), "the alarm is over")


def test_a_bounded_queue_plateaus_and_rejects(desk: Desk) -> None:
    with lesson("04-bounded-queue", desk) as type_next:
        type_next()
        assert '"status":"success"' in type_next()
        before = desk.producer["totals"]["rejected"]
        eventually(lambda: desk.producer["totals"]["rejected"] > before + 10, "messages are rejected")
        bound, prefetched = desk.producer["queue"]["max_size"], desk.consumer["queue"]["prefetch"]
        assert "bounded: " in type_next()
        assert desk.size >= bound - 5
        desk.stays_below(bound + prefetched + 1, while_processing=2)
        output = type_next()
        assert "429 Too Many Requests" in output
        assert re.search(r"the queue is full: \d+ of 100 were taken", output)


def test_a_rate_limit_keeps_the_queue_short_and_wastes_what_it_does_not_know(desk: Desk) -> None:
    with lesson("05-rate-limit", desk) as type_next:
        type_next()
        assert type_next().count('"status":"success"') == 2
        rejected = desk.producer["totals"]["rejected"]
        desk.stays_below(20, while_processing=5)
        output = type_next()
        assert " 2/s " in output
        assert "pace_rate_limiter_delay_seconds_sum" in output
        assert '"capacity_per_s":10.0' in type_next()
        assert " 2/s " in type_next()
        desk.shrinks_below(4)
        assert desk.producer["totals"]["rejected"] == rejected


def test_an_adaptive_law_finds_what_no_constant_knows(desk: Desk) -> None:
    def bottleneck() -> float:
        return float(desk.producer["rates"]["bottleneck_per_s"] or 0)

    with lesson("06-compare", desk) as type_next:
        assert type_next().count('"status":"healthy"') == 2
        ranking = re.findall(r"^ (\w+) +([\d.]+)", type_next(), re.MULTILINE)
        used = {law: float(share) for law, share in ranking}
        assert next(iter(used)) == "pace"
        assert used["pace"] > used["threshold"] > used["rate_limited"]
        assert type_next().count('"status":"success"') == 2
        eventually(lambda: 50 < bottleneck() < 150, "the law has found 100 messages a second")
        assert "bottleneck" in type_next()
        assert '"capacity_per_s":20.0' in type_next()
        eventually(lambda: 10 < bottleneck() < 35, "the law has found 20 messages a second")
        assert "pace: " in type_next()
        desk.shrinks_below(40)
        desk.stays_below(60, while_processing=20)


def test_the_wait_grows_and_a_trace_shows_it(desk: Desk, spans: Spans) -> None:
    def count_and_sum(output: str) -> list[float]:
        return [float(value) for value in re.findall(r"^pace_queue_wait_seconds_\w+ (\S+)$", output, re.MULTILINE)]

    with lesson("07-traces", desk) as type_next:
        number, total = count_and_sum(type_next())
        later_number, later_total = count_and_sum(type_next())
        assert later_number >= number
        assert later_total >= total
        type_next()
        type_next()
        words = (b"pace-producer", b"send_to_consumer", b"pace-consumer", b"process", b"queue.latency_seconds")
        eventually(lambda: spans.mention(*words), "both spans of a message arrive")


def test_variable_work_queues_below_full_load_and_comes_back(desk: Desk) -> None:
    with lesson("08-variable-work", desk) as type_next:
        assert "can do 3.6/s" in type_next()
        assert LOOK.search(type_next())
        desk.stays_below(20, while_processing=8)
        assert '"status":"success"' in type_next()
        desk.grows_beyond(20)


def test_a_burst_stays_without_headroom_and_is_refused_by_a_bound(desk: Desk) -> None:
    with lesson("09-burst", desk) as type_next:
        assert '{"status":"success","messages_produced":1000}' in type_next()
        desk.grows_beyond(900)
        assert '"status":"success"' in type_next()
        desk.shrinks_below(20)
        assert re.search(r"the queue is full: [23]\d\d of 1000 were taken", type_next())
        desk.shrinks_below(20)


def test_a_dead_consumer_loses_nothing_and_the_law_waits_for_the_next(desk: Desk) -> None:
    with lesson("10-consumer-failure", desk) as type_next:
        assert LOOK.search(type_next())
        eventually(lambda: not desk.runs("slow_consumer"), "the consumer is dead")
        desk.grows_beyond(20)
        type_next()
        eventually(lambda: desk.processed > 0, "the new consumer works")
        assert re.search(r"redelivered [1-9]", type_next())
        desk.shrinks_below(10)
        assert '"status":"success"' in type_next()
        eventually(lambda: not desk.runs("slow_consumer"), "the consumer is dead again")
        eventually(lambda: desk.producer["rates"]["allowed_per_s"] == 0, "the producer has stopped")
        assert desk.size < 40
        assert "pace: " in type_next()
        assert desk.size < 40
        type_next()
        eventually(lambda: desk.processed > 5, "messages flow again")
        eventually(lambda: desk.producer["rates"]["allowed_per_s"] > 0, "the producer sends again")
        assert re.search(r"processed [1-9]", type_next())
