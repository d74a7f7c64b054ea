"""What tracing costs: ``python benchmarks/tracing.py [--seconds 10] [--rate 1000]``.

A producer and a consumer use an embedded broker at 1000 messages a second, first without tracing, then with rising
shares of sampled messages; a collector in this process receives the spans. The output is the processor time per message
of each, from their own metrics, and what tracing adds. Each configuration runs twice, alternating, and the lower result
counts, because other work on the machine can only add time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
COUNTERS = {"producer": "messages_produced_total", "consumer": "messages_consumed_total"}
WAYS: dict[str, dict[str, str]] = {
    "off": {},
    "on, none sampled": {"PACE_TRACING__ENABLED": "true", "PACE_TRACING__SAMPLE_RATIO": "0"},
    "on, 5 % sampled": {"PACE_TRACING__ENABLED": "true", "PACE_TRACING__SAMPLE_RATIO": "0.05"},
    "on, all sampled": {"PACE_TRACING__ENABLED": "true", "PACE_TRACING__SAMPLE_RATIO": "1"},
}
ROUNDS = 2
WARM_UP_S = 2.0


class _Collector(BaseHTTPRequestHandler):
    """Receives spans and discards them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer an export."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Run a collector; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextlib.contextmanager
def program(*command: str, announce: Path, environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Run a process; yield what it announces."""
    announce.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not announce.exists():
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.01)
        yield json.loads(announce.read_text())
    finally:
        process.terminate()
        process.wait()


def reading(role: str, url: str) -> tuple[float, float]:
    """Return (messages, processor seconds) of a process so far."""
    text = httpx.get(f"{url}/metrics", trust_env=False).raise_for_status().text
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return samples[COUNTERS[role]], samples["pace_process_cpu_seconds_total"]


def measured(folder: Path, url: str, environment: dict[str, str], rate: float, seconds: float) -> dict[str, float]:
    """Return microseconds of processor time per message of producer and consumer."""
    commands = {
        "consumer": ("slow_consumer.py", "--rate", str(5 * rate)),
        "producer": ("fast_producer.py", "--rate", str(rate), "--purge"),
    }
    with contextlib.ExitStack() as stack:
        urls = {}
        for role, command in commands.items():
            announce = folder / f"{role}.json"
            env = environment | {"PACE_PROCESS__ANNOUNCE_FILE": str(announce)}
            started = program(*command, "--url", url, "--api-port", "0", announce=announce, environment=env)
            urls[role] = stack.enter_context(started)["api_url"]
        time.sleep(WARM_UP_S)
        before = {role: reading(role, address) for role, address in urls.items()}
        time.sleep(seconds)
        costs = {}
        for role, address in urls.items():
            messages, cpu_s = (now - then for now, then in zip(reading(role, address), before[role], strict=True))
            if messages < 0.9 * rate * seconds:
                print(f"  only {messages / seconds:.0f} msg/s: the machine is too busy for this rate", file=sys.stderr)
            costs[role] = 1e6 * cpu_s / max(messages, 1)
        return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each of the runs is measured")
    parser.add_argument("--rate", type=float, default=1000.0, help="messages a second")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = stack.enter_context(collector())
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PACE_")}
        environment |= {"PACE_CONFIG": "", "PACE_PRODUCER__STRATEGY": "unbounded"}  # both declare the queue alike
        environment |= {"PACE_TRACING__ENDPOINT": endpoint, "NO_PROXY": "*"}
        announce = folder / "broker.json"
        command = ("-m", "backpressure.broker", "--port", "0", "--management-port", "0", "--announce", str(announce))
        url = stack.enter_context(program(*command, announce=announce, environment=environment))["url"]
        costs: dict[str, dict[str, float]] = {}
        for _ in range(ROUNDS):
            for way, settings in WAYS.items():
                found = measured(folder, url, environment | settings, options.rate, options.seconds)
                best = costs.setdefault(way, found)
                costs[way] = {role: min(best[role], found[role]) for role in COUNTERS}
    print(f"processor time per message at {options.rate:g} msg/s, in µs (and what tracing adds, in % of a core)")
    print(f"{'tracing':<18}{'producer':>20}{'consumer':>20}")
    for way, cost in costs.items():
        added = {role: (cost[role] - costs["off"][role]) * options.rate * 1e-4 for role in COUNTERS}
        print(f"{way:<18}" + "".join(f"{cost[role]:>11.0f} ({added[role]:+.1f})".rjust(20) for role in COUNTERS))


if __name__ == "__main__":
    main()
