"""The monitor: queue depth, rates, waits, memory and back-pressure, seen from outside.

The program is `backpressure/cli/monitor.py`. Its parts:

    settings    config.py, environment and flags        backpressure/config.py, settings.py
    sources     probe, feedback, management API         backpressure/transports/
    engine      readings and counters -> snapshot       backpressure/engines/observer.py, rates.py
    cards       the snapshot on this terminal           backpressure/dashboards/screen.py
    metrics     http://localhost:8000/metrics           backpressure/telemetry/metrics_monitor.py
    live page   http://localhost:8000/                  backpressure/api/monitor.py, dashboards/web/

Run it without arguments against a broker on this machine; `--help` lists every flag.
"""

from backpressure.cli.main import run_script

if __name__ == "__main__":
    run_script("monitor", __file__)
