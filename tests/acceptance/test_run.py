"""``pace run`` as users run it: real processes, a real broker, files and an exit code at the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
import pytest

from backpressure.experiments.summary import Summary
from backpressure.transports.kafka_node import find_kafka
from backpressure.transports.rabbitmq_node import find_rabbitmq

PACE = [sys.executable, "-m", "backpressure"]

SCENARIO = """
name = "short"
[producer]
rate = 400
[consumer]
rate = 200
[[phase]]
name = "normal"
duration_s = 2
[[phase]]
name = "stopped"
duration_s = 1
consumer.count = 0
[[phase]]
name = "back"
duration_s = 3
consumer.count = 1
[expect]
lost = "== 0"
duplicates = "== 0"
processed = "> 0"
"""

LIMITED = """
name = "limited"
[queue]
max_length = 2000
[producer]
rate = 2000
limit = 1000
strategy = "unbounded"
[consumer]
rate = 2000
count = 0
[[phase]]
name = "publish"
duration_s = 60
until = "published"
"""

CONSUME = """
[[phase]]
name = "consume"
duration_s = 60
until = "consumed"
consumer.count = 1
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    return str(path)


def pace_run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PACE, "run", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
    )


@contextmanager
def running(tmp_path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start a run and wait until its first phase has begun; yield it with the lines it has printed."""
    hangup = signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # these tests may run under nohup: the run is not to inherit it
    process = subprocess.Popen(
        [*PACE, "run", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    signal.signal(signal.SIGHUP, hangup)
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("phase 1"):
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


def run_folder(tmp_path: Path) -> Path:
    [folder] = (tmp_path / "runs").iterdir()
    return folder


def summary_of(tmp_path: Path) -> dict[str, Any]:
    text = (run_folder(tmp_path) / "summary.json").read_text()
    Summary.model_validate_json(text)
    content: dict[str, Any] = json.loads(text)
    return content


def children_of(tmp_path: Path) -> list[int]:
    return [json.loads(path.read_text())["pid"] for path in (run_folder(tmp_path) / "announce").glob("*.json")]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_run_goes_through_its_phases_and_leaves_a_verdict_a_report_and_no_process(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("raise SystemExit('a run must not read this')")
    junit = tmp_path / "junit.xml"
    done = pace_run(tmp_path, write(tmp_path, SCENARIO), "--junit", str(junit))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = summary_of(tmp_path)
    assert summary["verdict"] == "passed"
    assert [(phase["name"], phase["start_s"], phase["end_s"]) for phase in summary["phases"]] == [
        ("normal", 0, 2),
        ("stopped", 2, 3),
        ("back", 3, 6),
    ]
    ids = {process["id"] for process in summary["processes"]}
    assert ids == {"broker", "monitor", "producer-1", "consumer-1", "consumer-2"}
    assert {path.name for path in run_folder(tmp_path).iterdir()} >= {
        "scenario.toml",
        "samples.jsonl",
        "summary.json",
        "report.html",
    }
    assert "<testsuite" in junit.read_text()
    assert "report: runs" in done.stdout
    assert all(is_gone(pid) for pid in children_of(tmp_path))


def test_an_expectation_that_does_not_hold_is_exit_code_1(tmp_path: Path) -> None:
    scenario = write(tmp_path, LIMITED)
    done = pace_run(tmp_path, scenario, "--quiet", "--set", "producer.limit=50", "--set", "expect.processed=> 0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("failed: limited: processed 0 ≤ 0\nreport: ")
    assert summary_of(tmp_path)["totals"]["left_in_queue"] == 50


def test_what_is_published_while_no_consumer_is_there_is_consumed_exactly_once_later(tmp_path: Path) -> None:
    done = pace_run(tmp_path, write(tmp_path, LIMITED + CONSUME))
    assert done.returncode == 0, done.stdout + done.stderr
    totals = summary_of(tmp_path)["totals"]
    assert (totals["confirmed"], totals["processed"], totals["left_in_queue"]) == (1000, 1000, 0)
    assert (totals["lost"], totals["duplicates"], totals["out_of_order"]) == (0, 0, 0)


def test_messages_dropped_by_the_bound_are_found_and_not_lost(tmp_path: Path) -> None:
    scenario = write(tmp_path, LIMITED)
    dropping = ("--set", "queue.max_length=100", "--set", "queue.overflow=drop-head")
    unasked = pace_run(tmp_path, scenario, *dropping, "--runs", "unasked")
    assert unasked.returncode == 1
    assert "900 of 1 000 messages were dropped by the queue's bound" in unasked.stdout
    done = pace_run(tmp_path, scenario, *dropping, "--set", "expect.discarded=== 900")
    assert done.returncode == 0, done.stdout + done.stderr
    totals = summary_of(tmp_path)["totals"]
    assert (totals["published"], totals["dropped"], totals["left_in_queue"], totals["lost"]) == (1000, 900, 100, 0)


def test_messages_that_cannot_be_processed_are_dead_lettered_and_not_lost(tmp_path: Path) -> None:
    failing = ("--set", "consumer.failure_rate=1", "--set", "retry.max_attempts=1", "--set", "producer.limit=200")
    done = pace_run(tmp_path, write(tmp_path, LIMITED + CONSUME), *failing)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = summary_of(tmp_path)["totals"]
    assert (totals["dead_lettered"], totals["processed"], totals["lost"]) == (200, 0, 0)


def test_dead_letters_that_somebody_takes_from_their_queue_are_lost(tmp_path: Path) -> None:
    failing = ("--set", "consumer.failure_rate=1", "--set", "retry.max_attempts=1", "--set", "consumer.count=1")
    scenario = write(tmp_path, LIMITED.replace('until = "published"\n', ""))
    endless = ("--set", "producer.limit=0", "--set", "producer.rate=100")
    with running(tmp_path, scenario, *failing, *endless) as (process, _):
        port = json.loads((run_folder(tmp_path) / "announce" / "broker.json").read_text())["management_port"]
        queue = f"http://127.0.0.1:{port}/api/queues/%2F/work.queue.dlq"
        with httpx.Client(auth=("guest", "guest"), trust_env=False, timeout=60) as client:
            while client.get(queue).json()["messages"] < 50:
                time.sleep(0.1)
            client.delete(f"{queue}/contents").raise_for_status()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    totals = summary_of(tmp_path)["totals"]
    assert totals["lost"] >= 50
    assert totals["published"] == totals["lost"] + totals["dead_lettered"] + totals["left_in_queue"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_writes_what_it_measured_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, write(tmp_path, SCENARIO), "--set", "phase.normal.duration_s=60") as (process, _):
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    summary = summary_of(tmp_path)
    assert summary["verdict"] == "interrupted"
    assert summary["totals"]["lost"] == 0
    assert [phase["name"] for phase in summary["phases"]] == ["normal"]
    assert (run_folder(tmp_path) / "report.html").exists()
    assert all(is_gone(pid) for pid in children_of(tmp_path))


def test_ctrl_c_twice_before_the_first_phase_ends_at_once_and_says_that_nothing_was_measured(tmp_path: Path) -> None:
    never_ready = SCENARIO.replace("[consumer]\n", '[consumer]\ncommand = "sleep 600"\n')
    command = [*PACE, "run", write(tmp_path, never_ready)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "starting: monitor" in line:
                break
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert "interrupted before the first phase had begun: nothing was measured" in output
    assert all(is_gone(pid) for pid in children_of(tmp_path))


def test_a_reader_that_goes_away_spoils_neither_the_measurement_nor_the_exit_code(tmp_path: Path) -> None:
    with running(tmp_path, write(tmp_path, SCENARIO)) as (process, _):
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        process.wait(timeout=60)
    assert process.returncode == 0
    assert summary_of(tmp_path)["depth"]["max"] is not None
    samples = (run_folder(tmp_path) / "samples.jsonl").read_text().splitlines()
    assert json.loads(samples[-1])["t_s"] >= 5  # it went on to the end


def test_a_run_that_was_killed_leaves_no_process_and_no_temporary_file_and_can_still_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    on_disk = ("--set", "phase.back.fault=broker-restart")
    with running(tmp_path, write(tmp_path, SCENARIO), *on_disk, "--set", "phase.normal.duration_s=60") as (process, _):
        process.kill()
    deadline = time.monotonic() + 60
    while not all(is_gone(pid) for pid in children_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(is_gone(pid) for pid in children_of(tmp_path))
    command = [*PACE, "report", str(run_folder(tmp_path))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3, done.stderr
    summary = summary_of(tmp_path)
    assert (summary["verdict"], summary["totals"]["lost"]) == ("interrupted", None)
    assert list(temporary.iterdir()) == []


def test_a_process_that_dies_unexpectedly_ends_the_run_and_its_last_output_is_shown(tmp_path: Path) -> None:
    with running(tmp_path, write(tmp_path, SCENARIO), "--set", "phase.normal.duration_s=60") as (process, _):
        announced = json.loads((run_folder(tmp_path) / "announce" / "consumer-1.json").read_text())
        psutil.Process(announced["pid"]).kill()
        output, _ = process.communicate(timeout=280)
    assert process.returncode == 3, output
    assert "error: consumer-1 was killed by signal 9; its last output:" in output
    summary = summary_of(tmp_path)
    assert (summary["verdict"], summary["totals"]["lost"]) == ("error", 0)
    assert all(is_gone(pid) for pid in children_of(tmp_path))


def test_a_broker_that_dies_unasked_ends_the_run_and_says_so_in_the_report(tmp_path: Path) -> None:
    with running(tmp_path, write(tmp_path, SCENARIO), "--set", "phase.normal.duration_s=60") as (process, _):
        announced = json.loads((run_folder(tmp_path) / "announce" / "broker.json").read_text())
        psutil.Process(announced["pid"]).kill()
        output, _ = process.communicate(timeout=280)
    assert process.returncode == 3, output
    assert "error: broker was killed by signal 9; its last output:" in output
    assert "broker was killed by signal 9" in (run_folder(tmp_path) / "report.html").read_text()
    assert (summary_of(tmp_path)["verdict"], summary_of(tmp_path)["totals"]["lost"]) == ("error", None)
    assert all(is_gone(pid) for pid in children_of(tmp_path))


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_a_rabbitmq_node_that_dies_unasked_ends_the_run_too(
    tmp_path: Path, go_without: Callable[[str, str], NoReturn]
) -> None:
    if find_rabbitmq() is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")
    scenario = write(tmp_path, SCENARIO)
    long = ("--broker", "rabbitmq", "--set", "phase.normal.duration_s=60")
    with running(tmp_path, scenario, *long) as (process, _):
        events = (run_folder(tmp_path) / "events.jsonl").read_text().splitlines()
        [node] = [event["pid"] for event in map(json.loads, events) if event.get("id") == "broker"]
        psutil.Process(node).kill()
        output, _ = process.communicate(timeout=280)
    assert process.returncode == 3, output
    assert "error: the RabbitMQ node died, though no fault had killed it" in output
    assert "the RabbitMQ node died" in (run_folder(tmp_path) / "report.html").read_text()
    assert all(is_gone(pid) for pid in children_of(tmp_path))


@pytest.mark.slow
def test_a_shared_broker_is_left_as_it_was_found_and_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    announce = tmp_path / "broker.json"
    ports = ["--port", "0", "--management-port", "0", "--announce", str(announce)]
    with subprocess.Popen([sys.executable, "-m", "backpressure.broker", *ports], cwd=tmp_path) as broker:
        try:
            deadline = time.monotonic() + 60
            while not announce.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            facts = json.loads(announce.read_text())
            scenario = write(tmp_path, LIMITED + CONSUME)
            arguments = [scenario, "--broker", facts["url"], "--set", "producer.limit=100"]
            with running(tmp_path, *arguments, "--runs", "others") as (other, _):
                done = pace_run(tmp_path, *arguments)
                other.communicate(timeout=60)
            assert (done.returncode, other.returncode) == (0, 0), done.stdout + done.stderr
            assert summary_of(tmp_path)["totals"]["processed"] == 100
            assert "guest" not in (run_folder(tmp_path) / "report.html").read_text()
            left = _management(facts["management_port"], "queues") + _management(facts["management_port"], "exchanges")
            assert not [entry["name"] for entry in left if "pace" in entry["name"]]
        finally:
            broker.terminate()


@pytest.mark.parametrize(
    ("broker", "product", "is_here"),
    [
        pytest.param("rabbitmq", "RabbitMQ", find_rabbitmq, marks=pytest.mark.rabbitmq),
        pytest.param("kafka", "Apache Kafka", find_kafka, marks=pytest.mark.kafka),
    ],
)
def test_the_same_balances_on_a_private_broker_of_another_kind(
    tmp_path: Path, go_without: Callable[[str, str], NoReturn], broker: str, product: str, is_here: Callable[[], object]
) -> None:
    if is_here() is None:
        go_without(broker, "it is not installed")
    done = pace_run(tmp_path, write(tmp_path, LIMITED + CONSUME), "--broker", broker)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = summary_of(tmp_path)
    assert summary["broker"] == product
    totals = summary["totals"]
    assert (totals["confirmed"], totals["processed"], totals["lost"], totals["duplicates"]) == (1000, 1000, 0, 0)
    assert all(is_gone(process["pid"]) for process in summary["processes"])


def _management(port: int, what: str) -> list[dict[str, Any]]:
    import httpx

    response = httpx.get(f"http://127.0.0.1:{port}/api/{what}", auth=("guest", "guest"), trust_env=False, timeout=60)
    found: list[dict[str, Any]] = response.raise_for_status().json()
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recovry"], "did you mean recovery?"),
        (["normal", "--broker", "rabitmq"], "did you mean rabbitmq?"),
        (["normal", "--strategy", "pase"], "producer.strategy = 'pase'"),
        (["normal", "--set", "consumer.rat=1"], "did you mean rate?"),
        (["normal", "--runs", "taken"], "--runs = 'taken'"),
        (["normal", "--junit", "nowhere/junit.xml"], "there is no such folder"),
    ],
)
def test_a_mistake_on_the_command_line_is_exit_code_2_and_starts_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "taken").touch()
    done = pace_run(tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_broker_that_is_not_there_is_exit_code_3(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    done = pace_run(tmp_path, "normal", "--broker", "amqp://127.0.0.1:1/", "--junit", str(junit))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "no broker at amqp://127.0.0.1:1" in done.stderr
    assert "no broker at amqp://127.0.0.1:1" in junit.read_text()


def test_scenarios_are_listed_and_shown(tmp_path: Path) -> None:
    listed = subprocess.run([*PACE, "scenarios"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "recovery" in listed.stdout
    assert "(default)" in listed.stdout
    command = [*PACE, "scenarios", "show", "recovery"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith('name = "recovery"')
