"""docs/feedback.md is true: its fields are those of the code, and a producer paces to its examples."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import MISSING, fields
from pathlib import Path
from typing import NoReturn

import pika
import pytest

from backpressure.core.compact_reports import CONSUMER, PRODUCER, Layout
from backpressure.core.reports import FEEDBACK_VERSION, ConsumerReport, decode

PAGE = (Path(__file__).parents[2] / "docs" / "feedback.md").read_text("utf-8")
EXAMPLES = {match[1]: match[2] for match in re.finditer(r"```\w+\n// example: (\w+)\n(.*?)```", PAGE, re.DOTALL)}
REQUIRED, _, OPTIONAL = PAGE.partition("\n## The fields\n")[2].partition("Everything else may be left out")
ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|", re.MULTILINE)
_PATIENCE_S = 60.0
_PREFETCH = 100

POM = """<project><modelVersion>4.0.0</modelVersion>
<groupId>example</groupId><artifactId>orders</artifactId><version>1</version><dependencies><dependency>
<groupId>com.rabbitmq</groupId><artifactId>amqp-client</artifactId><version>5.25.0</version>
</dependency></dependencies></project>"""

PROJECTS: dict[str, tuple[str, list[list[str]], list[str]]] = {
    "go": (
        "main.go",
        [
            ["go", "mod", "init", "example"],
            ["go", "get", "github.com/rabbitmq/amqp091-go@v1.10.0"],
            ["go", "build", "-o", "orders", "."],
        ],
        ["./orders"],
    ),
    "java": (
        "Orders.java",
        [["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]],
        ["java", "-cp", "lib/*", "Orders.java"],
    ),
    "node": (
        "main.js",
        [["npm", "install", "--silent", "--no-audit", "--no-fund", "amqplib@0.10.5"]],
        ["node", "main.js"],
    ),
}
"""For each language the file of the example, what fetches its client and builds it, and what runs it."""


def named(text: str) -> set[str]:
    return {name for row in ROW.findall(text) for name in re.findall(r"\w+", row)}


def test_the_page_names_every_field_and_says_which_are_required() -> None:
    specs = [spec for spec in fields(ConsumerReport) if spec.name != "brief"]
    optional = {spec.name for spec in specs if spec.default is not MISSING or spec.default_factory is not MISSING}
    assert named(OPTIONAL) == optional
    assert named(REQUIRED) == {spec.name for spec in specs} - optional | {"v", "role"}
    assert f"version of this format: {FEEDBACK_VERSION}" in PAGE


@pytest.mark.parametrize(("layout", "role"), [(CONSUMER, "consumer"), (PRODUCER, "producer")])
def test_the_page_tells_where_the_octets_of_a_compact_report_are(layout: Layout, role: str) -> None:
    chapter = PAGE.partition(f"\n**The numbers of a {role}**")[2]
    chapter = " ".join(" ".join(chapter.split("\n\n")[:2]).split())
    told = re.findall(r"(\w+) (u32|u64|f32|f64|u8)", chapter)
    formats = dict(zip("IQfdB", ("u32", "u64", "f32", "f64", "u8"), strict=True))
    names = [*layout.whole, *layout.real, "flags"]
    assert told == list(zip(names, (formats[letter] for letter in layout.struct.format[1:]), strict=True))
    assert f"{layout.struct.size} octets" in chapter


def test_the_report_that_the_page_begins_with_is_one() -> None:
    [text] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert isinstance(decode(text.encode()), ConsumerReport)
    assert set(json.loads(text)) == named(REQUIRED)


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    announce = tmp_path_factory.mktemp("feedback") / "broker.json"
    command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
    with running([*command, "--announce", str(announce)], announce.parent) as broker:
        deadline = time.monotonic() + _PATIENCE_S
        while not announce.exists():
            assert broker.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield json.loads(announce.read_text())["url"]


class running(subprocess.Popen[bytes]):  # noqa: N801 - used as a function
    """A process that ends with the block; what it prints goes to a file in ``folder``."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.log = folder / "log.txt"
        with self.log.open("wb") as log:
            super().__init__(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def __exit__(self, *_: object) -> None:
        self.terminate()
        self.wait(timeout=60)


def built(language: str, folder: Path, go_without: Callable[[str, str], NoReturn]) -> list[str]:
    """Write the example into ``folder``, fetch its client, and return the command that runs it."""
    name, steps, command = PROJECTS[language]
    for tool in dict.fromkeys([*(step[0] for step in steps), command[0]]):
        if not tool.startswith(".") and shutil.which(tool) is None:
            go_without(language, f"{tool} is not installed")
    (folder / name).write_text(EXAMPLES[language], "utf-8")
    (folder / "pom.xml").write_text(POM, "utf-8")
    for step in steps:
        done = subprocess.run(step, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
        if done.returncode and step[1] == "build":
            pytest.fail(done.stderr)
        if done.returncode:
            go_without(language, f"`{step[0]} {step[1]}` did not fetch the client from its registry")
    return command


@pytest.mark.slow
@pytest.mark.parametrize("language", PROJECTS)
@pytest.mark.timeout(400)
def test_a_producer_paces_to_the_consumer_of_the_example(
    language: str, broker_url: str, tmp_path: Path, go_without: Callable[[str, str], NoReturn]
) -> None:
    command = built(language, tmp_path, go_without)
    queue = f"orders.{language}"
    producing = [sys.executable, "-m", "backpressure", "producer", "--url", broker_url, "--queue", queue]
    backlogs, reasons, confirmed = [], set(), 0
    with ExitStack() as stack:
        connection = stack.enter_context(pika.BlockingConnection(pika.URLParameters(broker_url)))
        channel = connection.channel()
        channel.exchange_declare("pace.feedback", "fanout", auto_delete=True)  # as beside a predeclared queue
        listener = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(listener, "pace.feedback")
        (tmp_path / "producer").mkdir()
        producer = stack.enter_context(
            running([*producing, "--rate", "1000", "--strategy", "pace", "--no-api"], tmp_path / "producer")
        )
        consumer = None
        for _, _, body in channel.consume(listener, auto_ack=True, inactivity_timeout=_PATIENCE_S):
            assert body is not None, (producer.log.read_text(), consumer and consumer.log.read_text())
            report = decode(body)
            if consumer is None:  # the producer reports, so its queue exists
                consumer = stack.enter_context(running([*command, broker_url, queue], tmp_path))
            if isinstance(report, ConsumerReport):
                assert (report.queue, report.prefetch) == (queue, _PREFETCH)
                backlogs.append(confirmed - report.processed)
                if report.processed >= 500:
                    break
            elif report.queue == queue:
                confirmed = report.confirmed
                reasons.add(report.reason)
        channel.cancel()
    # Without reports, or with a `held` that is too low, the prefetch is full all the time.
    assert max(backlogs[len(backlogs) // 2 :]) <= _PREFETCH // 2
    assert "holding the queue" in reasons
