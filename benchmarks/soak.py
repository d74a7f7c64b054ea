"""Hours of work on brokers that restart: ``python benchmarks/soak.py [BROKER …] --hours 2``.

A producer offers 200 messages a second to a consumer that could do 400, and the broker restarts every ten minutes. Of
every process of the run the memory (without mapped files: journals grow with the messages), the open handles and the
threads are read every five seconds; the slope is that of a line through the readings after the first fifth of the time,
and its noise is what a slope between the medians of short stretches varies by (Theil and Sen). A slope beyond noise is
marked, and so is a message that is lost by the ledger; then the exit code is 1. Brokers: ``embedded``, ``rabbitmq``,
``kafka``, one after the other. ``--keep FOLDER`` leaves the readings and the run there, which can be read meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median

import psutil

READ_EVERY_S = 5.0
WARM_SHARE = 0.2
STRETCHES = 10
RESTART_S = 30  # a RabbitMQ node takes ten to stop and start, and clients come back after a pause that doubles
WHAT = {"memory": "MB", "handles": "", "threads": ""}
CPU = "processor seconds"
BROKERS = ("embedded", "rabbitmq", "kafka")

SCENARIO = """\
name = "soak"
summary = "Hours of work, and a broker that restarts now and then"
seed = 1

[producer]
rate = 200
strategy = "pace"

[consumer]
rate = 400
{phases}
[[phase]]
name = "drain"
duration_s = 30
until = "drained"
producer.count = 0

[expect]
lost = "== 0"
left_in_queue = "== 0"
rejected = "== 0"
"""
PHASES = """
[[phase]]
name = "work-{number}"
duration_s = {work_s}

[[phase]]
name = "restart-{number}"
duration_s = {restart_s}
fault = "broker-restart:for_s=3"
"""


@dataclass(frozen=True)
class Slope:
    """How a figure changed: at first, at last, and the slope an hour with its noise."""

    first: float
    last: float
    per_hour: float
    noise: float

    @classmethod
    def of(cls, readings: list[tuple[float, float]]) -> Slope | None:
        """Return the slope of (seconds, value) after the warm-up; None: there are too few."""
        start, end = readings[0][0], readings[-1][0]
        kept = [(at, value) for at, value in readings if at >= start + WARM_SHARE * (end - start)]
        size = len(kept) // STRETCHES
        if size < 2:
            return None
        stretches = [kept[number * size : (number + 1) * size] for number in range(STRETCHES)]
        points = [(median(at for at, _ in part), median(value for _, value in part)) for part in stretches]
        slopes = sorted(3600 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2))
        middle = median(slopes)
        return cls(points[0][1], points[-1][1], middle, median(abs(slope - middle) for slope in slopes))

    @property
    def beyond_noise(self) -> bool:
        """Whether it grows more than it varies, and by more than a percent over the time."""
        return self.per_hour > 3 * self.noise and self.last > 1.01 * self.first + 0.5


def _role(process: psutil.Process) -> str | None:
    """Return what a process of a run is; None: it is of no account, such as a shell."""
    line = process.cmdline()
    for role in ("producer", "consumer", "monitor", "run"):
        if line[1:4] == ["-m", "backpressure", role]:
            return role
    node = "beam" in process.name() and "boot" in line  # and not rabbitmqctl, which is a program in Erlang too
    if "backpressure.broker" in line or node or process.name() == "java":
        return "broker"
    return None


def _read(root: psutil.Process) -> dict[tuple[str, str], float]:
    """Return each figure of each role now, summed over its processes."""
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended just now
            role = "run" if process == root else _role(process)
            if role is not None:
                with process.oneshot():
                    memory = process.memory_info()
                    sums[role, "memory"] += (memory.rss - getattr(memory, "shared", 0)) / 1e6
                    sums[role, "handles"] += process.num_fds()
                    sums[role, "threads"] += process.num_threads()
                    spent = process.cpu_times()
                    sums[role, CPU] += spent.user + spent.system
    return sums


def _cores(readings: list[tuple[float, float]]) -> float:
    """Return the processor cores used on average; what a broker used starts again at zero with each restart."""
    steps = pairwise(readings)
    return sum(max(0.0, later - before) for (_, before), (_, later) in steps) / (readings[-1][0] - readings[0][0])


def soak(broker: str, seconds: float, restart_every_s: float, folder: Path) -> bool:
    """Run it, print what was found, and return whether nothing grew or was lost."""
    count = max(1, round(seconds / restart_every_s))
    work_s = max(1, round(restart_every_s - RESTART_S))
    phases = "".join(PHASES.format(number=n, work_s=work_s, restart_s=RESTART_S) for n in range(1, count + 1))
    scenario = folder / "soak.toml"
    scenario.write_text(SCENARIO.format(phases=phases), "utf-8")
    command = [sys.executable, "-m", "backpressure", "run", str(scenario), "--broker", broker, "--runs", str(folder)]
    readings: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    started = time.monotonic()
    with (folder / "output").open("wb") as output, (folder / "readings.jsonl").open("w", encoding="utf-8") as kept:
        running = subprocess.Popen([*command, "--quiet"], stdout=output, stderr=output)
        root = psutil.Process(running.pid)
        try:
            while running.poll() is None:
                at_s = time.monotonic() - started
                for (role, figure), value in _read(root).items():
                    readings[role, figure].append((at_s, value))
                    print(json.dumps({"at_s": round(at_s, 1), "role": role, figure: value}), file=kept, flush=True)
                with suppress(subprocess.TimeoutExpired):
                    running.wait(READ_EVERY_S)
        finally:
            running.terminate()
            running.wait()
    summary_file = next(folder.glob("*/summary.json"), None)
    if summary_file is None:
        print(f"\n{broker}: the run was ended\n{(folder / 'output').read_text('utf-8', errors='replace')[-2000:]}")
        return False
    summary = json.loads(summary_file.read_text("utf-8"))
    samples = [json.loads(line) for line in (summary_file.parent / "samples.jsonl").read_text("utf-8").splitlines()]
    late = [(s["t_s"], s["tick_lateness_ms"]) for s in samples if s.get("tick_lateness_ms") is not None]
    readings["producer", "tick lateness"] = late
    totals = summary["totals"]
    named = ", ".join(f"{name} {totals[name]}" for name in ("confirmed", "processed", "duplicates", "lost"))
    restarts = sum(phase["name"].startswith("restart") for phase in summary["phases"])
    print(f"\n{broker}: {(time.monotonic() - started) / 3600:.2f} h, {restarts} of {count} restarts, {named}")
    spent = ", ".join(
        f"{role} {_cores(values):.3f}" for (role, figure), values in sorted(readings.items()) if figure == CPU
    )
    print(f"processor cores used: {spent}")
    print("| process | figure | at first | at last | slope an hour | noise | |")
    print("|---|---|---|---|---|---|---|")
    good = totals["lost"] == 0 and running.returncode == 0
    for (role, figure), values in sorted(readings.items()):
        slope = Slope.of(values)
        if slope is None or figure == CPU:
            continue
        good = good and not slope.beyond_noise
        unit = WHAT.get(figure, "ms")
        cells = [role, f"{figure} {unit}".strip(), *(f"{each:.1f}" for each in (slope.first, slope.last))]
        cells += [f"{slope.per_hour:+.2f}", f"{slope.noise:.2f}", "**grows**" if slope.beyond_noise else ""]
        print("| " + " | ".join(cells) + " |", flush=True)
    if running.returncode:
        print((folder / "output").read_text("utf-8", errors="replace")[-2000:])
    return good


def main() -> int:
    """Soak each broker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("brokers", nargs="*", metavar="BROKER", help=f"{', '.join(BROKERS)} (default: all)")
    parser.add_argument("--hours", type=float, default=2.0, help="for each broker (default: 2)")
    parser.add_argument("--restart-every", type=float, default=600.0, metavar="S", help="seconds (default: 600)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave readings and runs here (default: nowhere)")
    arguments = parser.parse_args()
    if unknown := set(arguments.brokers) - set(BROKERS):
        parser.error(f"unknown {sorted(unknown)}; there are {', '.join(BROKERS)}")
    if arguments.restart_every <= RESTART_S:
        parser.error(f"--restart-every: expected more than {RESTART_S} s")
    good = True
    for broker in arguments.brokers or BROKERS:
        with tempfile.TemporaryDirectory(prefix="pace-soak-") as name:
            folder = Path(name) if arguments.keep is None else arguments.keep / broker
            folder.mkdir(parents=True, exist_ok=True)
            good = soak(broker, 3600 * arguments.hours, arguments.restart_every, folder) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
