"""The scripts as users run them: help, a missing broker, mistakes, the main job, signals, crashes."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from backpressure.core.journal import Outcome, read_records

PRODUCER, CONSUMER = "fast_producer.py", "slow_consumer.py"
FREE = ("--no-api", "--strategy", "unbounded", "--rate", "20000")
Wait = Callable[[Callable[[], object], str], None]


FLAGS = {
    PRODUCER: "--host --port --url --queue --audit-queue --count --rate --batch-size --durable --no-durable --lazy"
    " --purge --progress-every --producer-id --text --payload-bytes --strategy --no-wait --api-port --no-api",
    CONSUMER: "--host --port --url --queue --name --rate --prefetch --expect --lazy --progress-every --window"
    " --api-port --no-api --verbose --no-wait",
    "monitor.py": "--watch --once --host --username --password --port --no-ui",
}

BAD = {  # script, flags → what the message names
    (PRODUCER, "--rate", "-5"): ("producer.rate", "-5", "≥ 0", "command line"),
    (PRODUCER, "--rate", "fast"): ("--rate", "fast"),
    (PRODUCER, "--strategy", "magic"): ("producer.strategy", "magic", "pace"),
    (CONSUMER, "--prefetch", "lots"): ("consumer.prefetch", "lots", "auto", "65535"),
    (CONSUMER, "--url", "http://localhost"): ("broker.url", "http://localhost", "amqp://"),
    (CONSUMER, "--nonsense"): ("--nonsense",),
}


def test_help_explains_every_flag_and_names_its_setting(start: Any) -> None:
    asked = {script: start(script, "--help") for script in FLAGS}
    for script, flags in FLAGS.items():
        assert asked[script].ends() == 0
        text = asked[script].text
        assert f"Usage: python {script}" in text
        assert [flag for flag in flags.split() if not re.search(rf"{flag}\b", text)] == []
        assert "[broker.url]" in text


def test_without_a_broker_each_says_so_in_one_line_waits_and_connects_when_one_appears(
    start: Any, start_broker: Callable[[int], AbstractContextManager[Any]], free_port: int
) -> None:
    where = ("--host", "127.0.0.1", "--port", str(free_port), "--no-api")
    both = [start(script, *where) for script in (PRODUCER, CONSUMER)]
    for started in both:
        line = started.says("no broker").string
        assert f"127.0.0.1:{free_port}" in line
        assert "waiting" in line
    with start_broker(free_port):
        for started in both:
            started.says(r"(producer|consumer) \S+: (offers|takes)")
            assert sum("no broker" in line for line in started.lines) == 1
            assert "Traceback" not in started.text
            started.signal(signal.SIGTERM)
        assert [started.ends() for started in both] == [0, 0]


def test_a_script_that_still_waits_for_a_broker_can_be_stopped(start: Any, free_port: int) -> None:
    where = ("--host", "127.0.0.1", "--port", str(free_port), "--no-api")
    for started in [start(script, *where) for script in (PRODUCER, CONSUMER)]:
        started.says("no broker")
        started.signal(signal.SIGINT)
        assert started.ends() == 0
        assert "Traceback" not in started.text


def test_with_no_wait_a_missing_broker_ends_it_with_three(start: Any, free_port: int) -> None:
    where = ("--host", "127.0.0.1", "--port", str(free_port), "--no-wait", "--no-api")
    for started in [start(script, *where) for script in (PRODUCER, CONSUMER)]:
        assert started.ends() == 3
        assert f"error: no broker at amqp://127.0.0.1:{free_port}" in started.text
        assert "Traceback" not in started.text


def test_a_bad_flag_ends_it_with_two_and_names_key_value_and_what_is_allowed(start: Any) -> None:
    asked = {given: start(*given, "--no-wait", "--no-api") for given in BAD}
    for given, named in BAD.items():
        assert asked[given].ends() == 2
        assert [word for word in named if word not in asked[given].text] == []
        assert "Traceback" not in asked[given].text


def test_a_taken_port_ends_it_with_three_and_names_port_and_flag(start: Any, broker: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        where = ("--url", broker.url, "--queue", "q.taken", "--api-port", str(port))
        for started in [start(script, *where) for script in (PRODUCER, CONSUMER)]:
            assert started.ends() == 3
            assert f"port {port}" in started.text
            assert "--api-port" in started.text
            assert "Traceback" not in started.text


def test_ten_thousand_sent_while_the_consumer_is_away_are_ten_thousand_consumed(start: Any, broker: Any) -> None:
    where = ("--url", broker.url, "--queue", "q.10k")
    producer = start(PRODUCER, *where, *FREE, "--count", "10000")
    assert producer.ends() == 0
    closing = producer.lines[-1]
    assert closing.startswith("published=10000, in_queue_ready≈10000, confirmed=10000, rejected=0, returned=0, time=")
    assert re.search(r"time=\d+\.\d\ds, \d+\.\d msg/s$", closing)
    assert broker.depth("q.10k") == 10_000

    consumer = start(CONSUMER, *where, "--no-api", "--rate", "50000", "--prefetch", "500", "--expect", "10000")
    assert consumer.ends() == 0
    assert re.match(
        r"consumed=10000, time=\d+\.\d\ds, duplicates=0, out_of_order=0, gaps=0, dead_lettered=0, "
        r"p50_wait=[\d.]+ms, p99_wait=[\d.]+ms$",
        consumer.lines[-1],
    )
    assert broker.depth("q.10k") == 0


def test_as_fast_as_can_be_the_law_matches_two_programs_that_name_no_rate(start: Any, broker: Any) -> None:
    # Thirty thousand at the pace that the law finds by itself: it takes seconds, or, if it finds none, twenty minutes.
    where = ("--url", broker.url, "--queue", "q.max", "--no-api", "--rate", "max")
    consumer = start(CONSUMER, *where, "--expect", "30000")
    consumer.says("consumer .* takes q.max")
    producer = start(PRODUCER, *where, "--count", "30000")
    producer.says("offers as much as may be sent .* law pace")
    assert producer.ends() == 0
    assert consumer.ends() == 0
    assert producer.lines[-1].startswith("published=30000, ")
    assert "confirmed=30000, rejected=0, returned=0" in producer.lines[-1]
    assert consumer.lines[-1].startswith("consumed=30000, ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_both_cleanly_with_their_closing_lines(
    start: Any, broker: Any, number: signal.Signals, tmp_path: Path
) -> None:
    where = ("--url", broker.url, "--queue", f"q.{number.name}")
    consumer = start(
        CONSUMER, *where, "--no-api", "--rate", "500", "--progress-every", "50",
        PACE_PROCESS__JOURNAL_FILE=str(tmp_path / "consumer"),
    )  # fmt: skip
    producer = start(
        PRODUCER, *where, "--no-api", "--progress-every", "50", PACE_PROCESS__JOURNAL_FILE=str(tmp_path / "producer")
    )
    consumer.says(r"^consumed=\d+ held=")
    producer.says(r"^published=\d+ confirmed=\d+")
    producer.signal(number)
    assert producer.ends() == 0
    assert (sent := re.match(r"published=(\d+), in_queue_ready≈\d+, confirmed=(\d+)", producer.lines[-1]))
    consumer.signal(number)
    assert consumer.ends() == 0
    assert (done := re.match(r"consumed=(\d+), time=", consumer.lines[-1]))
    assert sent[1] == sent[2]
    assert broker.depth(f"q.{number.name}") == int(sent[2]) - int(done[1])  # what was done is off the queue
    assert len(_ids(tmp_path / "consumer", Outcome.PROCESSED)) == int(done[1])


def test_a_consumer_that_is_killed_loses_nothing(start: Any, broker: Any, wait_until: Wait, tmp_path: Path) -> None:
    where = ("--url", broker.url, "--queue", "q.killed")
    journals = {name: tmp_path / name for name in ("sent", "first", "second")}
    producer = start(PRODUCER, *where, *FREE, "--count", "2000", PACE_PROCESS__JOURNAL_FILE=str(journals["sent"]))
    assert producer.ends() == 0

    work = (*where, "--no-api", "--prefetch", "100", "--progress-every", "50")
    slowly = ("--rate", "100")  # it has work for twenty seconds: it is killed in the midst of it
    first = start(CONSUMER, *work, *slowly, PACE_PROCESS__JOURNAL_FILE=str(journals["first"]))
    first.says(r"^consumed=\d+ held=")
    first.signal(signal.SIGKILL)
    assert first.ends() == -signal.SIGKILL
    assert broker.depth("q.killed") > 0

    second = start(CONSUMER, *work, "--rate", "2000", PACE_PROCESS__JOURNAL_FILE=str(journals["second"]))
    wait_until(lambda: broker.depth("q.killed") == 0, "the queue is empty")
    second.signal(signal.SIGTERM)
    assert second.ends() == 0

    confirmed = _ids(journals["sent"], Outcome.CONFIRMED)
    done, again = _ids(journals["first"], Outcome.PROCESSED), _ids(journals["second"], Outcome.PROCESSED)
    assert len(set(confirmed)) == 2000
    assert set(done) | set(again) == set(confirmed)
    assert len(set(done) & set(again)) <= 100  # done, but not yet acknowledged when it was killed
    assert len(set(again)) == len(again)


def test_verbose_output_says_from_whom_each_message_came_and_how_long_it_waited(start: Any, broker: Any) -> None:
    where = ("--url", broker.url, "--queue", "q.verbose")
    producer = start(PRODUCER, *where, *FREE, "--count", "3", "--producer-id", "alice")
    assert producer.ends() == 0
    consumer = start(CONSUMER, *where, "--no-api", "--verbose", "--expect", "3")
    assert consumer.ends() == 0
    told = [line for line in consumer.lines if "from=" in line]
    assert len(told) == 3
    for sequence, line in enumerate(told):
        assert re.fullmatch(rf"processed #{sequence} from=alice waited=[\d.]+ms id=[0-9a-f-]{{36}}", line)


def test_a_second_consumer_moves_to_a_free_port_says_so_and_answers_there(start: Any, broker: Any) -> None:
    where = ("--url", broker.url, "--queue", "q.second")
    first = start(CONSUMER, *where, "--name", "one")
    first.says(r"consumer one: takes .* control API http://")
    with ExitStack() as stack:
        with suppress(OSError):  # where another program had the port, the first has moved, too: the other may end now
            stack.enter_context(socket.create_server(("127.0.0.1", 8001)))
        second = start(CONSUMER, *where, "--name", "two")
        moved = second.says(r"port 8001 on 127\.0\.0\.1 is taken.*this one listens on (\d+)")
        url = second.says(r"consumer two: takes .* control API (http://\S+)")[1]
    assert url.endswith(f":{moved[1]}")
    status = httpx.get(f"{url}/status", trust_env=False, timeout=60).json()
    assert (status["id"], status["api_url"]) == ("two", url)


def test_a_running_producer_can_be_asked_and_told_over_http(start: Any, broker: Any) -> None:
    producer = start(
        PRODUCER, "--url", broker.url, "--queue", "q.http", "--api-port", "0",
        PACE_PRODUCER__START_PAUSED="true", PACE_BROKER__MANAGEMENT_URL=broker.management_url,
    )  # fmt: skip
    url = producer.says(r"control API (http://\S+)")[1]
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.get("/health").json()["status"] == "healthy"
        assert client.post("/produce", json={"id": "a", "payload": "x"}).json()["message_id"] == "a"
        assert client.post("/produce", json={"count": 500}).json()["messages_produced"] == 500
        assert broker.depth("q.http") == 501
        assert client.post("/produce", json={"payload": "x", "id": "é" * 128}).status_code == 422
        changed = client.post("/admin/config", json={"queue_mode": "bounded", "max_queue_size": 501})
        assert changed.status_code == 200, changed.text
        full = client.post("/produce", json={"payload": "x"})
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        assert client.post("/admin/clear-queue").json()["purged"] == 501
        assert "messages_produced_total" in client.get("/metrics").text
    producer.signal(signal.SIGTERM)
    assert producer.ends() == 0


def _ids(journal: Path, outcome: Outcome) -> list[tuple[int, int]]:
    records = read_records(journal.read_bytes())
    return [(record.session, record.sequence) for record in records if record.outcome is outcome]
