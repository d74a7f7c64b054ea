"""A private node leaves nothing behind, however its parent ends."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from backpressure.transports.rabbitmq_node import PrivateNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

PARENT = """
from backpressure.transports.rabbitmq_node import private_node
with private_node() as node:
    print(node.pid, flush=True)
    input()
"""


def test_a_node_answers_to_its_own_name(rabbitmq_node: PrivateNode) -> None:
    assert rabbitmq_node.node_name in rabbitmq_node.ctl("eval", "node().")
    assert psutil.Process(rabbitmq_node.pid).name().startswith("beam")


def test_a_killed_parent_takes_node_and_port_mapper_with_it(rabbitmq_node: PrivateNode) -> None:
    """The fixture is asked for only so that a missing RabbitMQ skips this one too."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        node = psutil.Process(int(parent.stdout.readline()))
        group = [process for process in psutil.Process(parent.pid).children(recursive=True) if process.is_running()]
        assert {"epmd", node.name()} <= {process.name() for process in group}
        parent.kill()
    deadline = time.monotonic() + 60
    while any(_is_alive(process) for process in group):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
