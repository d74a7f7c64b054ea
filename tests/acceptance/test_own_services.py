"""``pace run`` tests programs that are not ours: what they lose is found out, and none of them is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from backpressure.experiments.summary import Summary

PACE = [sys.executable, "-m", "backpressure"]

WORKER = """
import signal, sys, time
import pika

url, queue, results, auto = sys.argv[1:5]
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.basic_qos(prefetch_count=20)
channel.queue_declare(results, durable=True)

def work(_channel, method, properties, body):
    time.sleep(0.004)
    result = pika.BasicProperties(correlation_id=properties.message_id)
    channel.basic_publish("", results, b"{}", result)
    if auto != "auto":
        channel.basic_ack(method.delivery_tag)

channel.basic_consume(queue, work, auto_ack=auto == "auto")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
channel.start_consuming()
"""

SCENARIO = """
name = "mine"
[producer]
rate = 400
strategy = "unbounded"
[consumer]
command = "{python} worker.py {{url}} {{queue}} results {mode}"
count = 2
[ledger]
outcome = "queue:results"
[[phase]]
name = "calm"
duration_s = 1
[[phase]]
name = "killed"
duration_s = 2
fault = "consumer-kill:count=2,for_s=0.5"
[[phase]]
name = "hung-and-back"
duration_s = 2
fault = "consumer-stop:for_s=1"
[expect]
lost = "== 0"
processed = "> 0"
"""


def pace_run(folder: Path, scenario: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.toml").write_text(scenario)
    command = [*PACE, "run", "mine.toml", "--runs", "runs", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


def summary_of(folder: Path) -> Summary:
    [path] = folder.glob("runs/*/summary.json")
    return Summary.model_validate(json.loads(path.read_bytes()))


def left_behind(folder: Path) -> list[str]:
    """Return the processes that still run in this folder."""
    return [
        " ".join(process.info["cmdline"] or [])
        for process in psutil.process_iter(["cwd", "cmdline", "status"])
        if process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize(("mode", "code"), [("manual", 0), ("auto", 1)])
def test_a_worker_that_is_killed_is_judged_by_what_it_has_done(tmp_path: Path, mode: str, code: int) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    ran = pace_run(tmp_path, SCENARIO.format(python=sys.executable, mode=mode))
    assert ran.returncode == code, ran.stdout + ran.stderr
    summary = summary_of(tmp_path)
    totals = summary.totals
    assert totals.lost is not None
    assert totals.processed
    assert totals.lost > 0 if mode == "auto" else totals.lost == 0
    assert totals.confirmed == totals.processed + totals.lost + (totals.left_in_queue or 0)
    assert summary.sources["processed"] == "message_id of what was sent, seen in queue:results"
    assert "seen in" in ran.stdout
    assert "queue:results" in ran.stdout
    assert summary.end_to_end_ms.p50
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("ledger", ['[ledger]\noutcome = "queue:results"', ""], ids=["ledger", "acknowledgements"])
def test_a_phase_ends_when_a_worker_of_the_user_has_done_all(tmp_path: Path, ledger: str) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    scenario = f"""
name = "mine"
[producer]
rate = 400
limit = 300
[consumer]
command = "{sys.executable} worker.py {{url}} {{queue}} results manual"
{ledger}
[[phase]]
name = "all"
duration_s = 60
until = "consumed"
[expect]
processed = "== 300"
left_in_queue = "== 0"
"""
    ran = pace_run(tmp_path, scenario)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert summary_of(tmp_path).phases[0].reached


def commanded(folder: Path, program: str, settings: str = "", duration_s: float = 1) -> str:
    (folder / "bad.py").write_text(textwrap.dedent(program))
    return (
        f'name = "bad"\n[consumer]\ncommand = "{sys.executable} bad.py {{url}} {{queue}}"\n{settings}\n'
        f'[[phase]]\nname = "one"\nduration_s = {duration_s}\n'
    )


CONSUMES = """
import pika, sys
url, queue = sys.argv[1:3]
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.basic_consume(queue, lambda c, m, p, b: c.basic_ack(m.delivery_tag))
"""


@pytest.mark.parametrize(
    ("program", "settings", "reasons"),
    [
        ("print('no database'); raise SystemExit(3)", "", ["exit code 3", "before it was ready", "no database"]),
        ("raise SystemExit(0)", "", ["exit code 0", "before it was ready", "it wrote nothing"]),
        ("open('/dev/tty')", "", ["exit code 1", "no terminal", "/dev/tty"]),
        ("import time; time.sleep(60)", "ready_s = 0.5", ["does not consume the queue after 0.5 s"]),
        (CONSUMES + "raise SystemExit('out of luck')", "ready_s = 0", ["exit code 1", "out of luck"]),
    ],
)  # fmt: skip
def test_a_command_that_does_not_work_ends_the_run_with_its_last_words(
    tmp_path: Path, program: str, settings: str, reasons: list[str]
) -> None:
    ran = pace_run(tmp_path, commanded(tmp_path, program, settings, duration_s=20))
    assert ran.returncode == 3
    assert "Traceback (most recent call last)" not in ran.stderr.split("its last output")[0]
    for reason in reasons:
        assert reason in ran.stderr
    assert left_behind(tmp_path) == []


def test_a_program_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    ran = pace_run(
        tmp_path, 'name = "x"\n[consumer]\ncommand = "surely-not-there {url}"\n[[phase]]\nname = "p"\nduration_s = 1\n'
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "surely-not-there" in ran.stderr
    assert not (tmp_path / "runs").exists()


def test_a_command_that_floods_its_output_and_ignores_sigterm_is_bounded_and_ended(tmp_path: Path) -> None:
    program = CONSUMES + textwrap.dedent("""
    import signal, subprocess, threading
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time, os; os.setsid(); time.sleep(600)"])

    def flood():
        while True:
            sys.stdout.write("x" * 100 + "\\n")

    threading.Thread(target=flood, daemon=True).start()
    channel.start_consuming()
    """)
    ran = pace_run(tmp_path, commanded(tmp_path, program, "stop_s = 0.5", duration_s=3))
    assert ran.returncode == 0, ran.stderr
    assert "consumer-1 did not end within 0.5 s of SIGTERM: killed" in ran.stdout
    [log] = tmp_path.glob("runs/*/logs/consumer-1.log")
    text = log.read_bytes()
    assert b"bytes are left out here" in text
    assert len(text) < 1_200_000
    assert left_behind(tmp_path) == []


def test_a_command_that_may_end_is_started_again(tmp_path: Path) -> None:
    program = CONSUMES + textwrap.dedent("""
    connection = channel.connection
    connection.process_data_events(0.6)
    print("leaving")
    """)
    ran = pace_run(tmp_path, commanded(tmp_path, program, 'on_exit = "restart"', duration_s=6))
    assert ran.returncode == 0, ran.stderr
    assert "consumer-1 ended with exit code 0 and is started again" in ran.stdout
    [log] = tmp_path.glob("runs/*/logs/consumer-2.log")
    assert log.exists()


def test_a_producer_of_the_user_is_counted_by_the_broker_and_its_end_is_no_failure(tmp_path: Path) -> None:
    program = """
    import pika, sys
    url, queue = sys.argv[1:3]
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.confirm_delivery()
    for number in range(50):
        channel.basic_publish("", queue, b"x", pika.BasicProperties(headers={"n": number}))
    """
    (tmp_path / "send.py").write_text(textwrap.dedent(program))
    scenario = (
        f'name = "sent"\n[producer]\ncommand = "{sys.executable} send.py {{url}} {{queue}}"\n'
        '[consumer]\nrate = 500\n[[phase]]\nname = "one"\nduration_s = 8\n'
        '[expect]\nprocessed = "== 50"\nconfirmed = "== 50"\n'
    )
    ran = pace_run(tmp_path, scenario)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_handler_of_the_user_works_in_our_consumer_with_its_retries_and_dead_letters(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "async def handle(message):\n"
        "    if int(message.headers['sequence']) % 10 == 3:\n"
        "        raise ValueError('sold out')\n"
    )
    scenario = (
        'name = "handled"\n[producer]\nrate = 100\nlimit = 50\n[consumer]\nhandler = "shop:handle"\n'
        "[retry]\nmax_attempts = 2\nbackoff_min_ms = 10\n"
        '[[phase]]\nname = "all"\nduration_s = 20\nuntil = "consumed"\n'
        '[expect]\nprocessed = "== 45"\ndead_lettered = "== 5"\nlost = "== 0"\n'
    )
    ran = pace_run(tmp_path, scenario)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert summary_of(tmp_path).utilisation is None  # what a handler can do is not known before


def test_a_function_of_the_user_makes_the_messages_and_its_error_ends_the_run_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "def order(number):\n"
        "    if number == 60:\n"
        "        raise ValueError('sold out')\n"
        "    return str(number), {'order_id': f'o-{number}'}\n"
    )
    scenario = (
        'name = "made"\n[producer]\nrate = 100\nlimit = {limit}\nhandler = "shop:order"\n[consumer]\nrate = 200\n'
        '[[phase]]\nname = "all"\nduration_s = 20\nuntil = "consumed"\n[expect]\nprocessed = "== 50"\nlost = "== 0"\n'
    )
    ran = pace_run(tmp_path, scenario.format(limit=50))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ran = pace_run(tmp_path, scenario.format(limit=100))
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert "producer.handler shop:order failed at message 60: ValueError('sold out')" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert left_behind(tmp_path) == []
