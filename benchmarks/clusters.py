"""A private cluster whose nodes fail: ``python benchmarks/clusters.py [SCENARIO …] --broker rabbitmq --runs 20``.

Each scenario is run so often, one run after another, and a table shows the smallest, the middle and the largest value:

- *lost*, by the ledger: a run that lost a message ends with exit code 1;
- *duplicates*, beside *open*: the most messages that were in flight or with the consumer while the fault was there;
- *election*: how long after the fault the other nodes had a leader, by RabbitMQ's logs, or as soon as a Kafka broker
  says so (a node that hands over elects none);
- *pause*: the longest time without a confirm while the fault was there;
- *settled*: how long after the fault the law was at the consumers' capacity again. A node that comes back takes half a
  core meanwhile, so on a busy machine this says more about the machine.

``--read FOLDER`` makes the table of runs that are there, also of others with one fault, and runs nothing. RABBITMQ_HOME
names the RabbitMQ, if it is not the one that is installed, and KAFKA_HOME the Kafka.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

SCENARIOS = ("leader-loss", "partition", "rolling-upgrade")
_ELECTED = re.compile(r"elected ([\d.]+) s later")


@dataclass(frozen=True)
class Outcome:
    """What one run says; ``settled_s`` None: it did not settle while the phase with the fault lasted."""

    scenario: str
    broker: str
    lost: int
    duplicates: int
    open: int
    elections_s: list[float]
    pause_s: float
    settled_s: float | None

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Read a run's folder; None: it has no summary, or had no fault."""
        file = folder / "summary.json"
        summary: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        failing = next((phase for phase in summary.get("phases", ()) if phase["fault"]), None)
        if failing is None:
            return None
        within = [
            (sample["in_flight"] or 0) + (sample["unacked"] or 0)
            for sample in _lines(folder / "samples.jsonl")
            if failing["start_s"] - 1 <= sample["t_s"] <= failing["end_s"]
        ]
        told = [event["text"] for event in _lines(folder / "events.jsonl") if event["kind"] == "note"]
        return cls(
            summary["scenario"],
            f"{summary['broker']} {summary['broker_version']}",
            summary["totals"]["lost"],
            summary["totals"]["duplicates"],
            max(within, default=0),
            [float(found[1]) for text in told if (found := _ELECTED.search(text))],
            failing["pause_s"],
            failing["settle_s"],
        )


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    shown = [f"{value:.{digits}f}" for value in (min(values), median(values), max(values))]
    return shown[0] if len(set(shown)) == 1 else " / ".join(shown)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a table in Markdown: a line for each scenario on each version of the broker."""
    groups = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.scenario, outcome.broker].append(outcome)
    lines = [
        "| scenario | broker | runs | lost | duplicates | open | election s | pause s | settled s | not settled |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (scenario, broker), runs in sorted(groups.items()):
        settled = [run.settled_s for run in runs if run.settled_s is not None]
        cells = [
            f"`{scenario}`",
            broker,
            str(len(runs)),
            str(sum(run.lost for run in runs)),
            _spread([run.duplicates for run in runs], 0),
            _spread([run.open for run in runs], 0),
            _spread([took_s for run in runs for took_s in run.elections_s], 2),
            _spread([run.pause_s for run in runs], 2),
            _spread(settled, 1),
            str(len(runs) - len(settled)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run what was asked for, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, help=f"default: {' '.join(SCENARIOS)}")
    parser.add_argument("--runs", type=int, default=1, help="of each scenario (default: %(default)s)")
    parser.add_argument("--broker", choices=("rabbitmq", "kafka"), default="rabbitmq", help="default: %(default)s")
    parser.add_argument("--nodes", type=int, default=3, help="of the cluster (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/clusters"), help="for the runs (default: %(default)s)"
    )
    parser.add_argument("--read", type=Path, metavar="FOLDER", help="run nothing: show the runs that are there")
    options = parser.parse_args()
    folder = options.read or options.folder
    earlier = set(folder.glob("*")) if options.read is None else set[Path]()
    began = 0
    if options.read is None:
        for number in range(options.runs):
            for scenario in options.scenarios:
                print(f"{scenario}, {number + 1} of {options.runs} …", file=sys.stderr, flush=True)
                command = [sys.executable, "-m", "backpressure", "run", scenario, "--quiet", "--runs", str(folder)]
                subprocess.run([*command, "--broker", f"{options.broker}:{options.nodes}"], check=False)
                began += 1
    outcomes = [outcome for run in sorted(set(folder.glob("*")) - earlier) if (outcome := Outcome.of(run)) is not None]
    print(table(outcomes))
    if len(outcomes) < began:
        print(f"{began - len(outcomes)} of {began} runs did not begin or end: see above", file=sys.stderr)
    return 1 if any(outcome.lost for outcome in outcomes) or len(outcomes) < began else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
