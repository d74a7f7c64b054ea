"""Experiments: scenarios are run with real processes on a real broker, measured and judged.

`scenario` says what to do. `runner` does it, with the processes of `supervisor` and the broker of `brokers`. Everything
that happens is written to a `rundir.RunDirectory` at once. `analysis` computes a `summary.Summary` from that directory
alone, and `report` shows it. Nothing here knows pika or a terminal: dashboards watch a run through `runner.Watcher`.
"""

from backpressure.extras import require

require("bench", "an experiment")
