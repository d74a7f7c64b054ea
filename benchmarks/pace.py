"""What the law `pace` achieves on a real broker, compared with the oracle: ``python benchmarks/pace.py [TABLE …]``.

Each table runs included scenarios with `pace run`, ``--repeat`` times, and prints medians. Every run is compared with
the oracle (`backpressure.experiments.comparison`), which sees the same consumers without delay; docs/pace-law.md
explains what is possible for a law with delayed information. The oracle has the same random service times, so "of
possible" does not depend on luck. On a virtual machine the column "steal" shows the share of processor time that went
to other machines: above a few per cent the figures describe the machine, not the law.

Tables: ``steps`` (capacity jumps), ``capacity`` (50 and 500 msg/s), ``fast`` (5000), ``stops`` (5 s without consumer),
``sharing`` (2 to 16 producers join and leave), ``weights`` (unequal shares), ``prefetch`` (automatic against 1, 100 and
1000), ``distance`` (everybody is 100 ms away from the broker).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
import psutil

from backpressure.experiments import library
from backpressure.experiments.comparison import oracle
from backpressure.transports.rabbitmq_node import private_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Figures = dict[str, Any]

WAY_MS = 100
DISTANCE = f"""
name = "distance"
summary = "The broker is {WAY_MS} ms away from everybody, each way"
producer.rate = 2000
consumer.rate = 200
[[phase]]
name = "at-200"
duration_s = 20
fault = "network-delay:ms={WAY_MS}"
[[phase]]
name = "down-to-60"
duration_s = 20
consumer.rate = 60
fault = "network-delay:ms={WAY_MS}"
"""


@dataclass(frozen=True)
class Bench:
    """Where the scenarios run, and how often."""

    broker: str
    repeat: int

    def run(self, scenario: str, *changes: str) -> list[Figures]:
        """Return the summary of each run, with the oracle's and the samples in it."""
        return [self._once(scenario, (*changes, f"seed={seed}")) for seed in range(1, self.repeat + 1)]

    def _once(self, scenario: str, changes: Sequence[str]) -> Figures:
        with tempfile.TemporaryDirectory() as runs:
            command = [sys.executable, "-m", "backpressure", "run", scenario, "--broker", self.broker, "--runs", runs]
            for change in changes:
                command += ["--set", change]
            before = psutil.cpu_times()
            done = subprocess.run([*command, "--quiet"], check=False, capture_output=True, text=True)
            after = psutil.cpu_times()
            found = list(Path(runs).glob("*/summary.json"))
            if done.returncode > 1 or not found:
                raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
            figures: Figures = json.loads(found[0].read_text())
            samples = (found[0].parent / "samples.jsonl").read_text().splitlines()
        figures["samples"] = [json.loads(line) for line in samples]
        figures["stolen"] = (stolen(after) - stolen(before)) / (sum(after) - sum(before))
        figures["oracle"] = oracle(library.load(scenario, changes)).model_dump()
        return figures


def stolen(times: Any) -> float:
    """Return the seconds that the hypervisor gave to other machines; 0 if unknown."""
    return float(getattr(times, "steal", 0.0))


def phase(figures: Figures, name: str) -> Figures:
    """Return the figures of one phase."""
    return next(entry for entry in figures["phases"] if entry["name"] == name)


def second_half(figures: Figures, name: str) -> list[Figures]:
    """Return the samples of the second half of one phase."""
    about = phase(figures, name)
    middle_s = (about["start_s"] + about["end_s"]) / 2
    return [sample for sample in figures["samples"] if middle_s <= sample["t_s"] < about["end_s"]]


def middle(runs: Sequence[Figures], figure: Callable[[Figures], float | None]) -> float | None:
    """Return the median, or None if a run lacks the figure."""
    values = [figure(run) for run in runs]
    known = [value for value in values if value is not None]
    return median(known) if len(known) == len(values) else None


def text(value: float | None, digits: int = 0) -> str:
    """Return a cell."""
    return "–" if value is None else f"{value:.{digits}f}"


def table(title: str, heads: str) -> None:
    """Print the head of a table."""
    columns = heads.split("|")
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells: str) -> None:
    """Print a row."""
    print(f"| {' | '.join(cells)} |", flush=True)


def common(runs: Sequence[Figures]) -> list[str]:
    """Return utilisation, its share of what was possible, p50 and p99 wait, rejected, lost, and the steal time."""
    return [
        text(middle(runs, lambda run: run["utilisation"]), 3),
        text(middle(runs, lambda run: run["utilisation"] / run["oracle"]["utilisation"]), 3),
        text(middle(runs, lambda run: run["wait_ms"]["p50"])),
        text(middle(runs, lambda run: run["wait_ms"]["p99"])),
        text(max(run["totals"]["rejected"] for run in runs)),
        text(max(run["totals"]["lost"] for run in runs)),
        text(middle(runs, lambda run: 100 * run["stolen"]), 1),
    ]


COMMON = "utilisation|of possible|p50 wait ms|p99 wait ms|rejected|lost|steal %"


def steps(bench: Bench) -> None:
    """Capacity 100, 20, 100, 300, 100 msg/s under a demand of 1000, from a cold start."""
    table("steps", f"service|{COMMON}|oracle p99 ms|settled down s|settled up s|deepest|signals old ms (p50, p99)")
    for distribution in ("fixed", "exponential"):
        runs = bench.run("steps", f"consumer.distribution={distribution}")
        row(
            distribution,
            *common(runs),
            text(middle(runs, lambda run: run["oracle"]["wait_ms"]["p99"])),
            text(middle(runs, lambda run: phase(run, "down-to-20")["settle_s"]), 1),
            text(middle(runs, lambda run: phase(run, "back-to-100")["settle_s"]), 1),
            text(middle(runs, lambda run: run["depth"]["max"])),
            text(middle(runs, lambda run: run["signal_age_ms"]["p50"]))
            + ", "
            + text(middle(runs, lambda run: run["signal_age_ms"]["p99"])),
        )


def capacity(bench: Bench) -> None:
    """50 and 500 msg/s for a minute, the start included."""
    _capacity(bench, (50, 500))


def fast(bench: Bench) -> None:
    """5000 msg/s for a minute: on two cores, producer, consumer and broker are busy themselves."""
    _capacity(bench, (5000,))


def _capacity(bench: Bench, rates: Sequence[int]) -> None:
    table("capacity", f"capacity|service|{COMMON}|bound ms|p99 ÷ bound")
    for rate in rates:
        for distribution in ("fixed", "exponential"):
            runs = bench.run(
                "normal",
                f"producer.rate={10 * rate}",
                f"consumer.rate={rate}",
                f"consumer.distribution={distribution}",
                "phase.normal.duration_s=60",
            )
            row(
                f"{rate}/s",
                distribution,
                *common(runs),
                text(middle(runs, lambda run: phase(run, "normal")["wait_bound_ms"])),
                text(middle(runs, lambda run: run["wait_ms"]["p99"] / phase(run, "normal")["wait_bound_ms"]), 2),
            )


def stops(bench: Bench) -> None:
    """The consumer hangs for 5 s, or it ends and 5 s later another one is started; 100 msg/s."""
    table("stops", f"stop|{COMMON}|deepest while stopped|settled s")
    for how in ("hangs", "replaced"):
        changes = ["phase.stopped.duration_s=5"]
        if how == "hangs":
            changes += ["phase.stopped.consumer.count=1", "phase.stopped.fault=consumer-stop"]
        runs = bench.run("recovery", *changes)
        row(
            how,
            *common(runs),
            text(middle(runs, lambda run: phase(run, "stopped")["depth_max"])),
            text(middle(runs, lambda run: phase(run, "recovery")["settle_s"]), 1),
        )


def sharing(bench: Bench) -> None:
    """2, 4, 8, 16 producers and 2 again share 300 msg/s; the last columns are of the second halves, from 10 s on."""
    phases = ("two", "four", "eight", "sixteen", "two-again")
    heads = "utilisation, once settled|depth ÷ rate there ms (mean, max)"
    table("sharing", f"service|{COMMON}|{heads}|" + "|".join(f"Jain {name}" for name in phases))
    for distribution in ("fixed", "exponential"):
        runs = bench.run("join-and-leave", f"consumer.distribution={distribution}")
        halves = [[sample for name in phases for sample in second_half(run, name)] for run in runs]
        done = median(sum(sample["processed_per_s"] or 0 for sample in half) / len(half) for half in halves)
        depths = [[sample["ready"] + (sample["unacked"] or 0) for sample in half] for half in halves]
        waits = [1000 * median(figure(some) for some in depths) / 300 for figure in (lambda d: sum(d) / len(d), max)]
        fairness = [middle(runs, lambda run, name=name: phase(run, name)["fairness_jain"]) for name in phases]  # type: ignore[misc]  # lambda default
        settled = (text(done / 300, 3), f"{waits[0]:.0f}, {waits[1]:.0f}")
        row(distribution, *common(runs), *settled, *(text(value, 4) for value in fairness))


def weights(bench: Bench) -> None:
    """Producers of weight 1, 2 and 3, and one that offers only 30 msg/s, share 300 msg/s; from 10 s on, for 20 s."""
    offers = [(1000, 1), (1000, 2), (30, 1), (1000, 3)]
    wanted = [45, 90, 30, 135]
    table("weights", "producer|wanted msg/s|got msg/s|difference")
    with tempfile.TemporaryDirectory() as directory, broker(bench.broker, Path(directory)) as url, ExitStack() as stack:
        start = partial(process, stack, Path(directory), url)
        start("consumer", rate=300)
        urls = [start("producer", rate=rate, weight=weight) for rate, weight in offers]
        time.sleep(10)
        before = [confirmed(url) for url in urls]
        began = time.monotonic()
        time.sleep(20)
        rates = [(confirmed(url) - count) / (time.monotonic() - began) for url, count in zip(urls, before, strict=True)]
    for (offered, weight), want, got in zip(offers, wanted, rates, strict=True):
        row(f"offers {offered}, weight {weight}", text(want), text(got, 1), f"{100 * (got / want - 1):+.1f} %")


@contextmanager
def broker(kind: str, directory: Path) -> Iterator[str]:
    """The URL of a private broker."""
    if kind == "rabbitmq":
        with private_node() as node:
            yield node.url
        return
    announce = directory / "broker.json"
    command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
    with running([*command, "--announce", str(announce)], announce) as about:
        yield about["url"]


def process(stack: ExitStack, directory: Path, url: str, role: str, **settings: float) -> str:
    """Start a producer or consumer and return the URL of its control API."""
    announce = directory / f"{role}-{len(list(directory.iterdir()))}.json"
    environment = {f"PACE_{role}__{name}".upper(): str(value) for name, value in settings.items()}
    environment |= {"PACE_BROKER__URL": url, "PACE_PROCESS__ANNOUNCE_FILE": str(announce), "PACE_CONFIG": ""}
    command = [sys.executable, "-m", "backpressure", role, "--api-port", "0"]
    about = stack.enter_context(running(command, announce, environment))
    return str(about["api_url"])


@contextmanager
def running(command: list[str], announce: Path, environment: dict[str, str] | None = None) -> Iterator[Figures]:
    """Run a process; yield what it announces when it is ready."""
    child = subprocess.Popen(command, env=os.environ | (environment or {}), stdout=subprocess.DEVNULL)
    try:
        while not announce.exists():
            if child.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
            time.sleep(0.02)
        yield json.loads(announce.read_text())
    finally:
        child.terminate()
        child.wait()


def confirmed(api_url: str) -> int:
    """Return the number of confirmed messages of a producer."""
    return int(httpx.get(f"{api_url}/status").json()["totals"]["confirmed"])


def prefetch(bench: Bench) -> None:
    """Unacked messages of the consumers, and whether they are ever idle, by prefetch."""
    table("prefetch", f"consumers|prefetch|{COMMON}|held by clients (mean, max)")
    for count, rate, distribution in ((1, 2000, "fixed"), (3, 100, "exponential")):
        for size in ("auto", "1", "100", "1000"):
            runs = bench.run(
                "normal",
                f"consumer.count={count}",
                f"consumer.rate={rate}",
                f"producer.rate={10 * count * rate}",
                f"consumer.distribution={distribution}",
                f"consumer.prefetch={size}",
            )
            held = [[sample["unacked"] or 0 for sample in run["samples"]] for run in runs]
            row(
                f"{count} × {rate}/s {distribution}",
                size,
                *common(runs),
                f"{median(sum(some) / len(some) for some in held):.0f}, {median(max(some) for some in held):.0f}",
            )


def distance(bench: Bench) -> None:
    """200, then 60 msg/s, 100 ms from the broker, from a cold start; the way is in the waits, and not in the rest."""
    table("distance", f"service|{COMMON}|p99 above the way ms|settled from cold s|settled after 3.3× down s|deepest")
    with tempfile.TemporaryDirectory() as directory:
        scenario = Path(directory) / "distance.toml"
        scenario.write_text(DISTANCE)
        for distribution in ("fixed", "exponential"):
            runs = bench.run(str(scenario), f"consumer.distribution={distribution}")
            row(
                distribution,
                *common(runs),
                text(middle(runs, lambda run: run["wait_ms"]["p99"] - 2 * WAY_MS)),
                text(middle(runs, lambda run: phase(run, "at-200")["settle_s"]), 1),
                text(middle(runs, lambda run: phase(run, "down-to-60")["settle_s"]), 1),
                text(middle(runs, lambda run: run["depth"]["max"])),
            )


TABLES = {act.__name__: act for act in (steps, capacity, fast, stops, sharing, weights, prefetch, distance)}


def main() -> None:
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"which: {', '.join(TABLES)} (all)")
    parser.add_argument("--broker", default="embedded", help="as for pace run (%(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each kind; medians count (%(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(unknown)}")
    print(f"broker {arguments.broker}, medians of {arguments.repeat}")
    for name in arguments.tables or TABLES:
        TABLES[name](Bench(arguments.broker, arguments.repeat))


if __name__ == "__main__":
    main()
