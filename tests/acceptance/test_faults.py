"""Every fault in a real run: nothing confirmed is lost, the fault is undone, and no process remains."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
import pytest

from backpressure.core.journal import ConsumerRecord, read_records
from backpressure.experiments.faults import FAULTS, NodeFault
from backpressure.transports.kafka_node import find_kafka
from backpressure.transports.rabbitmq_node import find_rabbitmq

PACE = [sys.executable, "-m", "backpressure"]
SCENARIO = """
name = "stormy"
[producer]
rate = 200
[consumer]
rate = 400
[retry]
max_attempts = 2
[[phase]]
name = "before"
duration_s = 2
[[phase]]
name = "storm"
duration_s = {storm_s}
fault = "{fault}"
[[phase]]
name = "after"
duration_s = {after_s}
[[phase]]
name = "drain"
duration_s = 30
until = "drained"
producer.count = 0
[expect]
lost = "== 0"
left_in_queue = "== 0"
"phases.before.process_rate" = "> 0"
"phases.after.process_rate" = "> 0"
"""
# An outage of a second is over for the clients after two or three: they connect again after a pause.
SHORT = dict.fromkeys(["broker-kill", "broker-restart", "broker-hang", "network-cut"], ":for_s=1")


OF_NODES = {name for name, fault in FAULTS.items() if issubclass(fault, NodeFault)}


KILLS = """
name = "kills"
[producer]
rate = 500
limit = 2000
strategy = "unbounded"
[consumer]
rate = 500
[[phase]]
name = "producer-dies"
duration_s = 2
fault = "producer-kill:for_s=1"
[[phase]]
name = "consumer-dies"
duration_s = 2
fault = "consumer-kill:for_s=1"
[[phase]]
name = "end"
duration_s = 60
until = "consumed"
[expect]
confirmed = "== 2000"
lost = "== 0"
left_in_queue = "== 0"
"""


def write(tmp_path: Path, fault: str, storm_s: float, after_s: float = 3) -> str:
    path = tmp_path / "stormy.toml"
    after_s = 10 if "kill" in fault else after_s  # the replacements of killed processes need time to start
    path.write_text(SCENARIO.format(fault=fault, storm_s=storm_s, after_s=after_s))
    return str(path)


def pace_run(tmp_path: Path, *arguments: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PACE, "run", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=timeout_s
    )


def run_folder(tmp_path: Path) -> Path:
    [folder] = (tmp_path / "runs").iterdir()
    return folder


def totals_of(tmp_path: Path) -> dict[str, int]:
    totals: dict[str, int] = json.loads((run_folder(tmp_path) / "summary.json").read_text())["totals"]
    return totals


def events_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder(tmp_path) / "events.jsonl").read_text().splitlines()]


def assert_nothing_runs(tmp_path: Path) -> None:
    started = [event["pid"] for event in events_of(tmp_path) if event["kind"] == "process_started"]
    assert started
    for pid in started:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def assert_undone(tmp_path: Path, fault: str) -> None:
    kinds = [event["kind"] for event in events_of(tmp_path) if event.get("name") == fault]
    assert not (run_folder(tmp_path) / "broker").exists()  # what a broker kept on disk goes with it
    assert kinds == ["fault_began", "fault_ended"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - OF_NODES))
def test_a_fault_is_survived_without_loss_and_shown_in_the_report(tmp_path: Path, fault: str) -> None:
    done = pace_run(tmp_path, write(tmp_path, fault + SHORT.get(fault, ""), storm_s=3))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_undone(tmp_path, fault)
    assert_nothing_runs(tmp_path)
    assert f'"name":"{fault}"' in (run_folder(tmp_path) / "report.html").read_text()


def test_a_killed_consumer_is_no_failure_of_the_run_and_is_replaced(tmp_path: Path) -> None:
    done = pace_run(tmp_path, write(tmp_path, "consumer-kill:for_s=0.5", storm_s=2))
    assert done.returncode == 0, done.stdout + done.stderr
    ends = {event["id"]: event["code"] for event in events_of(tmp_path) if event["kind"] == "process_ended"}
    assert (ends["consumer-1"], ends["consumer-2"]) == (-signal.SIGKILL, 0)


@pytest.mark.slow
def test_the_work_of_killed_processes_counts_and_their_replacements_do_the_rest(tmp_path: Path) -> None:
    (tmp_path / "kills.toml").write_text(KILLS)
    done = pace_run(tmp_path, "kills.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"producer-2", "consumer-2"} <= {event["id"] for event in events_of(tmp_path) if "pid" in event}


def test_poison_ends_among_the_dead_letters(tmp_path: Path) -> None:
    done = pace_run(tmp_path, write(tmp_path, "poison:share=0.5", storm_s=2))
    assert done.returncode == 0, done.stdout + done.stderr
    totals = totals_of(tmp_path)
    assert totals["dead_lettered"] > 50
    assert totals["dead_lettered"] + totals["processed"] == totals["confirmed"]


@pytest.mark.slow
@pytest.mark.parametrize("role", ["consumer", "producer"])
@pytest.mark.parametrize("by_s", [60, -60])
def test_a_date_that_jumps_leaves_no_trace_in_pace_waits_and_ledger(tmp_path: Path, role: str, by_s: int) -> None:
    expect = [f"expect.{metric}=<= 20000" for metric in ("wait_ms.max", "end_to_end_ms.max", "confirm_ms.max")]
    expect += ["expect.phases.storm.process_rate=> 20", "expect.duplicates=== 0"]
    options = [option for assignment in expect for option in ("--set", assignment)]
    command = [*PACE, "run", write(tmp_path, f"clock-jump:by_s={by_s},role={role}", storm_s=5), *options]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        assert any("jumps by" in line for line in iter(run.stdout.readline, "")), "it ended before the fault began"
        apis = {
            name: json.loads((run_folder(tmp_path) / "announce" / f"{name}-1.json").read_text())["api_url"]
            for name in ("consumer", "producer")
        }
        time.sleep(1.5)  # the date that its server tells is a second old
        told = parsedate_to_datetime(httpx.get(apis[role] + "/health", trust_env=False, timeout=60).headers["date"])
        waits = httpx.get(apis["consumer"] + "/status", trust_env=False, timeout=60).json()["queue_wait_ms"]
        output, _ = run.communicate(timeout=280)
    assert run.returncode == 0, output
    assert (told - datetime.now(UTC)).total_seconds() == pytest.approx(by_s, abs=30)  # it has jumped, for all others
    assert 0 < waits["p99"] < 20_000
    assert_undone(tmp_path, "clock-jump")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["consumer-stop", "broker-hang", "broker-kill", "network-half-open"])
def test_a_fault_is_undone_when_the_run_is_interrupted(tmp_path: Path, fault: str) -> None:
    command = [*PACE, "run", write(tmp_path, fault, storm_s=60)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        lines = iter(run.stdout.readline, "")
        assert any(re.search("hangs|killed|half open", line) for line in lines), "it ended before the fault began"
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=280)
    assert run.returncode == 3, output
    assert totals_of(tmp_path)["lost"] == 0
    assert_undone(tmp_path, fault)
    assert_nothing_runs(tmp_path)


@pytest.mark.rabbitmq
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"nacks"} - OF_NODES))
def test_a_private_rabbitmq_node_can_be_disturbed_too(
    tmp_path: Path, fault: str, go_without: Callable[[str, str], NoReturn]
) -> None:
    if find_rabbitmq() is None:
        go_without("rabbitmq", "rabbitmq-server is not installed")
    storm_s, after_s = (25, 15) if fault.startswith("broker") else (10, 3)  # a node takes its time to come back
    scenario = write(tmp_path, fault + SHORT.get(fault, ""), storm_s, after_s)
    done = pace_run(tmp_path, scenario, "--broker", "rabbitmq", timeout_s=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_undone(tmp_path, fault)
    assert_nothing_runs(tmp_path)
    processes = json.loads((run_folder(tmp_path) / "summary.json").read_text())["processes"]
    nodes = {process["id"]: process["rss_max_mb"] for process in processes if process["role"] == "broker"}
    assert nodes.keys() == ({"broker", "broker-2"} if fault == "broker-kill" else {"broker"})
    assert min(nodes.values()) > 0  # each was measured


def test_a_broker_of_others_is_not_disturbed(tmp_path: Path) -> None:
    done = pace_run(tmp_path, write(tmp_path, "broker-kill", storm_s=2), "--broker", "amqp://127.0.0.1:1/")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "not ours to disturb" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("broker", "is_here", "fault", "broker_processes"),
    [
        pytest.param("rabbitmq", find_rabbitmq, "leader-kill", 4, marks=pytest.mark.rabbitmq),
        pytest.param("kafka", find_kafka, "leader-kill", 4, marks=pytest.mark.kafka),
        pytest.param("kafka", find_kafka, "partition", 3, marks=pytest.mark.kafka),
    ],
)
def test_a_cluster_goes_on_without_the_node_that_leads_the_queue(
    tmp_path: Path,
    go_without: Callable[[str, str], NoReturn],
    broker: str,
    is_here: Callable[[], object],
    fault: str,
    broker_processes: int,
) -> None:
    if is_here() is None:
        go_without(broker, "it is not installed")
    scenario = write(tmp_path, f"{fault}:for_s={1 if fault == 'leader-kill' else 10}", storm_s=20)
    done = pace_run(tmp_path, scenario, "--broker", f"{broker}:3", timeout_s=580)  # three nodes start slowly
    assert done.returncode == 0, done.stdout + done.stderr
    assert_undone(tmp_path, fault)
    assert_nothing_runs(tmp_path)
    notes = [event["text"] for event in events_of(tmp_path) if event["kind"] == "note"]
    assert any(re.fullmatch(r"node \d leads work\.queue, elected \d+\.\d\d s later", note) for note in notes)
    if fault == "partition":  # nobody has waited for the node that was cut off
        logs = (run_folder(tmp_path) / "logs").glob("*-1.log")
        assert any("the cluster has fenced broker" in log.read_text() for log in logs)
    processes = json.loads((run_folder(tmp_path) / "summary.json").read_text())["processes"]
    assert len({process["pid"] for process in processes if process["role"] == "broker"}) == broker_processes


FAR = """
name = "far"
[producer]
rate = 100
[consumer]
rate = 400
[[phase]]
name = "fast"
duration_s = 2
fault = "network-delay:ms=80"
[[phase]]
name = "slow"
duration_s = 2
consumer.rate = 200
fault = "network-delay:ms=80"
[expect]
lost = "== 0"
"""


def test_a_run_that_is_to_be_far_from_its_broker_is_from_the_first_message_on(tmp_path: Path) -> None:
    (tmp_path / "far.toml").write_text(FAR)
    done = pace_run(tmp_path, "far.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [event for event in events_of(tmp_path) if event["kind"] in {"fault_began", "phase_ended", "fault_ended"}]
    assert [event["kind"] for event in events][:2] == ["fault_began", "phase_ended"]  # and it goes on
    end_ns = next(event["at_ns"] for event in reversed(events) if event["kind"] == "phase_ended")
    for journal in (run_folder(tmp_path) / "journals").glob("consumer-*"):
        received = [record for record in read_records(journal.read_bytes()) if isinstance(record, ConsumerRecord)]
        assert received
        assert all(record.received_ns - record.sent_ns > 150e6 for record in received if record.received_ns < end_ns)


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["broker-kill", "network-cut", "network-delay", "consumer-churn"])
def test_a_private_kafka_can_be_disturbed_too(
    tmp_path: Path, fault: str, go_without: Callable[[str, str], NoReturn]
) -> None:
    if find_kafka() is None:
        go_without("kafka", "Java 17 or the jars that `make kafka` fetches are missing")
    scenario = write(tmp_path, fault + SHORT.get(fault, ""), storm_s=20 if fault == "broker-kill" else 8)
    done = pace_run(tmp_path, scenario, "--broker", "kafka")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_undone(tmp_path, fault)
    assert_nothing_runs(tmp_path)
