"""Runs the test suites of other AMQP clients on the embedded broker and on RabbitMQ, and compares: ``make peers``.

The suites come from the registries (source distributions, a Go module, an npm package) into ``.peers/``, which git
ignores. A test counts when it passes on RabbitMQ; ends with 1 when one of those fails here without a reason in
``REASONS``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from backpressure.transports.rabbitmq_node import private_node

CACHE = Path(__file__).parents[2] / ".peers"
PORT, MANAGEMENT_PORT = 5672, 15672
"""Some suites know no others."""
URL = f"amqp://guest:guest@127.0.0.1:{PORT}/"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")

REASONS: dict[str, str] = {}
"""Tests that fail here by intention: the name, or its beginning, and why."""


@dataclass(frozen=True)
class PythonSuite:
    """A suite in the source distribution of a package."""

    package: str
    version: str
    tests: Sequence[str]
    options: Sequence[str] = ()
    quick: bool = False
    program: str = sys.executable

    @property
    def name(self) -> str:
        return f"{self.package} {self.version}"

    def prepare(self) -> Path:
        """Fetch and unpack the source, once; returns its directory."""
        folder = CACHE / f"{self.package}-{self.version}"
        if not folder.exists():
            wanted = f"{self.package}=={self.version}"
            _run([*PIP, "download", "--no-deps", "--no-binary", ":all:", "--dest", str(CACHE), wanted])
            (archive,) = CACHE.glob(f"{self.package}-{self.version}.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(CACHE, filter="data")
        return folder

    def run(self, source: Path) -> dict[str, bool]:
        """Which tests passed; skipped ones are left out."""
        return _pytest(source, [*self.options, *self.tests], source, Path(__file__).parent)


@dataclass(frozen=True)
class SmokeCases:
    """Cases of our own with a package that ships no tests, or none that are quick."""

    package: str
    version: str
    tests: str
    extra: str = ""
    quick: bool = False
    program: str = sys.executable

    @property
    def name(self) -> str:
        return f"{self.package} {self.version}"

    def prepare(self) -> Path:
        """Install the package beside the others, once; returns where it is."""
        folder = CACHE / f"installed-{self.package}-{self.version}"
        if not folder.exists():
            wanted = f"{self.package}{self.extra}=={self.version}"
            _run([*PIP, "install", "--target", str(folder), wanted])
        return folder

    def run(self, source: Path) -> dict[str, bool]:
        """Which cases passed."""
        cases = Path(__file__).parent / "smoke"
        return _pytest(cases, ["-c", os.devnull, "--rootdir", str(cases), self.tests], source)


@dataclass(frozen=True)
class GoSuite:
    """A suite inside a Go module."""

    module: str
    version: str
    options: Sequence[str] = ()
    quick: bool = False
    program: str = "go"

    @property
    def name(self) -> str:
        return f"{self.module.rpartition('/')[2]} {self.version}"

    def prepare(self) -> Path:
        """Fetch the module, once; returns a directory of its own that Go may write to."""
        folder = CACHE / f"{self.module.replace('/', '+')}-{self.version}"
        if not folder.exists():
            wanted = f"{self.module}@{self.version}"
            downloaded = _run(
                ["go", "mod", "download", "-json", wanted], cwd=CACHE, env={**os.environ, "GO111MODULE": "on"}
            )
            shutil.copytree(json.loads(downloaded)["Dir"], folder)
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o755)
        return folder

    def run(self, source: Path) -> dict[str, bool]:
        """Which tests passed; skipped ones are left out."""
        environment = {**os.environ, "AMQP_URL": URL}
        command = ["go", "test", "-json", "-count=1", *self.options, "."]
        done = subprocess.run(
            command, cwd=source, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=900
        )
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {
            event["Test"]: event["Action"] == "pass"
            for event in events
            if event["Action"] in {"pass", "fail"} and "Test" in event
        }


@dataclass(frozen=True)
class NodeSuite:
    """A suite inside an npm package."""

    package: str
    version: str
    quick: bool = False
    program: str = "npm"

    @property
    def name(self) -> str:
        return f"{self.package} {self.version}"

    def prepare(self) -> Path:
        """Fetch the package with what its tests need, once; returns its directory."""
        folder = CACHE / f"{self.package}-{self.version}"
        if not folder.exists():
            _run(["npm", "pack", "--silent", f"{self.package}@{self.version}"], cwd=CACHE)
            draft = CACHE / f"{folder.name}.draft"
            with tarfile.open(CACHE / f"{folder.name}.tgz") as packed:
                packed.extractall(draft, filter="data")
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            _run(["npm", "install", *options], cwd=draft / "package")
            (draft / "package").rename(folder)
            draft.rmdir()
        return folder

    def run(self, source: Path) -> dict[str, bool]:
        """Which tests passed, one file after another; skipped ones are left out."""
        outcomes: dict[str, bool] = {}
        for path in sorted((source / "test").glob("*.test.js")):
            done = subprocess.run(
                ["node", "--test", "--test-reporter=tap", str(path)],
                cwd=source,
                env={**os.environ, "URL": URL},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
                timeout=900,
            )
            for passed, test in _tap(done.stdout):
                name = f"{path.name}: {test}"
                while name in outcomes:
                    name += "'"
                outcomes[name] = passed
        return outcomes


_DRAMATIQ = ("-p", "dramatiq_fixtures", "--import-mode=importlib")
SUITES: tuple[PythonSuite | SmokeCases | GoSuite | NodeSuite, ...] = (
    GoSuite("github.com/rabbitmq/amqp091-go", "v1.16.0", ("-tags", "integration")),
    NodeSuite("amqplib", "2.0.1", quick=True),
    PythonSuite("amqp", "5.4.2", ["t/integration/test_rmq.py"], ("-k", "not tls"), quick=True),
    PythonSuite("kombu", "5.7.0", ["t/integration/test_py_amqp.py"]),
    PythonSuite("dramatiq", "2.2.1", ["tests/test_rabbitmq.py"], _DRAMATIQ, quick=True),
    SmokeCases("celery", "5.7.0", "test_celery.py"),
    SmokeCases("faststream", "0.7.8", "test_faststream.py", extra="[rabbit]", quick=True),
)


def _pytest(folder: Path, arguments: Sequence[str], *paths: Path) -> dict[str, bool]:
    """Which tests pass that ``arguments`` choose, with ``folder`` as the working directory."""
    outcomes_file = CACHE / "outcomes.xml"
    outcomes_file.unlink(missing_ok=True)
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--junitxml={outcomes_file}"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "AMQP_URL": URL},
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=900,
    )
    outcomes = {}
    for case in ET.parse(outcomes_file).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            outcomes[f"{case.get('classname')}.{case.get('name')}"] = not kinds & {"failure", "error"}
    return outcomes


def _tap(output: str) -> Iterator[tuple[bool, str]]:
    """Each test of a report in the Test Anything Protocol that contains no others: passed or not, and its name."""
    lines = output.splitlines()
    for index, line in enumerate(lines):
        verdict, dash, name = line.strip().partition(" - ")
        if not dash or not verdict.startswith(("ok ", "not ok ")) or "# SKIP" in name:
            continue
        details = lines[index + 1 : index + 5]
        if not any(detail.strip() == "type: 'suite'" for detail in details):
            yield verdict.startswith("ok "), name


def _run(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    return subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


@contextmanager
def _embedded() -> Iterator[str]:
    announce = CACHE / "broker.json"
    announce.unlink(missing_ok=True)
    ports = ["--port", str(PORT), "--management-port", str(MANAGEMENT_PORT)]
    command = [sys.executable, "-m", "backpressure.broker", *ports, "--announce", str(announce)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit(3)  # it has said why
            yield "the embedded broker"
        finally:
            process.terminate()


@contextmanager
def _rabbitmq() -> Iterator[str]:
    with private_node(PORT, MANAGEMENT_PORT) as node:
        yield f"RabbitMQ {node.ctl('version').strip()}"


def main() -> int:
    """Run the suites on both brokers, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", help="names, or their beginnings (default: all)")
    parser.add_argument("--quick", action="store_true", help="only suites that together take less than five minutes")
    parser.add_argument("--fetch", action="store_true", help="fetch the suites, and no more")
    parser.add_argument("--only-embedded", action="store_true", help="skip RabbitMQ: every test that fails is listed")
    options = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    chosen = [s for s in SUITES if not options.suites or s.name.startswith(tuple(options.suites))]
    chosen = [suite for suite in chosen if suite.quick or not options.quick]
    for suite in [suite for suite in chosen if shutil.which(suite.program) is None]:
        sys.stdout.write(f"left out: {suite.name}, which needs {suite.program}\n")
        chosen.remove(suite)
    sources = {suite.name: suite.prepare() for suite in chosen}
    if options.fetch:
        return 0
    results: dict[str, dict[str, dict[str, bool]]] = {}
    for broker in (_embedded,) if options.only_embedded else (_embedded, _rabbitmq):
        with broker() as name:
            results[name] = {}
            for suite in chosen:
                sys.stderr.write(f"{suite.name} on {name} … ")
                began_s = time.monotonic()
                results[name][suite.name] = suite.run(sources[suite.name])
                sys.stderr.write(f"{time.monotonic() - began_s:.0f} s\n")
    return report(*results.values(), names=list(results))


def report(
    here: Mapping[str, Mapping[str, bool]],
    there: Mapping[str, Mapping[str, bool]] | None = None,
    *,
    names: Sequence[str],
) -> int:
    """Print what passes where; 1 when a test that passes on the second broker fails on the first without a reason."""
    unexplained = []
    sys.stdout.write(f"{'suite':24}{names[-1]:>24}{'of those here':>16}\n")
    for suite, outcomes in here.items():
        wanted = [test for test, passed in there[suite].items() if passed] if there else list(outcomes)
        failed = [test for test in wanted if not outcomes.get(test, False)]
        sys.stdout.write(f"{suite:24}{len(wanted):>24}{len(wanted) - len(failed):>16}\n")
        unexplained += [f"{suite}: {test}" for test in failed if not any(map(test.startswith, REASONS))]
    for line in unexplained:
        sys.stdout.write(f"fails here: {line}\n")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
