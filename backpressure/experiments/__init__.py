"""Experiments: a scenario in, real processes run against a real broker, a report and a verdict out.

`scenario` says what to do, `runner` does it with the processes of `supervisor` and the broker of `broker`, everything
that happens is on disk in a `rundir.RunDirectory` the moment it happens, and `analysis` turns that directory (and
nothing else) into a `summary.Summary`, which `report` shows. Knows no pika and no terminal: dashboards watch a run
through `runner.Watcher`.
"""
