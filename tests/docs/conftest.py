"""An embedded broker for the examples of the pages."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    announce = tmp_path_factory.mktemp("broker") / "broker.json"
    command = [sys.executable, "-m", "backpressure.broker", "--port", "0", "--management-port", "0"]
    process = subprocess.Popen([*command, "--announce", str(announce)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not announce.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield json.loads(announce.read_text())["url"]
    finally:
        process.terminate()
        process.wait(timeout=60)
