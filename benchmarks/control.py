"""How soon a change over HTTP takes effect: ``python benchmarks/control.py [--changes 30]``.

A producer offers 1000 messages a second to an embedded broker. `POST /admin/config` switches it between paces of 800
and 200 a second, and then changes the queue's bound. The output, in milliseconds: how long the answer took, and how
long after the request `/status` showed the new pace, or the broker the new bound. `/status` is read every 5 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httpx
from tracing import program


def until_seen(client: httpx.Client, change: dict[str, object], seen: Callable[[], bool]) -> tuple[float, float]:
    """Request a change; return the milliseconds until the answer and until the effect is seen."""
    asked = time.monotonic()
    client.post("/admin/config", json=change).raise_for_status()
    answered = time.monotonic()
    while not seen():
        time.sleep(0.005)
    return (answered - asked) * 1000, (time.monotonic() - asked) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=30, help="changes of each kind")
    changes = parser.parse_args().changes
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        announce = folder / "broker.json"
        command = ("-m", "backpressure.broker", "--port", "0", "--management-port", "0", "--announce", str(announce))
        broker = stack.enter_context(program(*command, announce=announce, environment=dict(os.environ)))
        management = f"http://{broker['host']}:{broker['management_port']}"
        announce = folder / "producer.json"
        environment = os.environ | {
            "PACE_PROCESS__ANNOUNCE_FILE": str(announce),
            "PACE_BROKER__MANAGEMENT_URL": management,
        }
        flags = ("--url", broker["url"], "--rate", "1000", "--api-port", "0")
        producer = stack.enter_context(program("fast_producer.py", *flags, announce=announce, environment=environment))
        client = stack.enter_context(httpx.Client(base_url=producer["api_url"], trust_env=False))
        queues = stack.enter_context(httpx.Client(base_url=management, auth=("guest", "guest"), trust_env=False))

        def allowed() -> float:
            return float(client.get("/status").json()["rates"]["allowed_per_s"])

        def bound() -> int:
            policies = queues.get("/api/policies/%2F").json()
            return int(max(policy["definition"].get("max-length", 0) for policy in policies))

        paces, bounds = [], []
        for number in range(changes):
            pace, length = (800.0, 200.0)[number % 2], 20_000 + number
            change = {"queue_mode": "rate_limited", "rate_limit": pace}
            paces.append(until_seen(client, change, lambda: allowed() == pace))  # noqa: B023 - called at once
            bounds.append(
                until_seen(client, {"max_queue_size": length}, lambda: bound() == length)  # noqa: B023 - called at once
            )
    print(f"{'':8} {'answer p50':>11} {'max':>7} {'in force p50':>13} {'max':>7}  (ms, {changes} changes each)")
    for label, figures in (("pace", paces), ("bound", bounds)):
        answers, effects = zip(*figures, strict=True)
        print(f"{label:8} {median(answers):11.1f} {max(answers):7.1f} {median(effects):13.1f} {max(effects):7.1f}")


if __name__ == "__main__":
    main()
