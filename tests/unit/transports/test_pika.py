"""The private parts of pika that `wire` uses. If this fails after an update of pika, start here."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pika import connection as pika_connection
from pika.adapters import base_connection, blocking_connection
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.utils import io_services_utils

from backpressure.transports import rabbitmq
from backpressure.transports.rabbitmq.wire import WireConnection

METHODS = {  # what is called or overridden: its parameters
    "_on_data_available": ["self", "data_in"],
    "_process_frame": ["self", "frame_value"],
    "_output_marshaled_frames": ["self", "marshaled_frames"],
    "_adapter_emit_data": ["self", "data"],
    "_on_connection_workflow_done": ["self", "conn_or_exc"],
}
ATTRIBUTES = [  # what is read or set: where pika sets it
    (pika_connection, "self._frame_buffer ="),
    (pika_connection, "self.bytes_received +="),
    (pika_connection, "self._body_max_length ="),
    (base_connection, "self._transport ="),
    (io_services_utils, "self._sock ="),
    (blocking_connection, "self._impl ="),  # by the contract tests
    (io_services_utils, "def get_write_buffer_size"),
]


@pytest.mark.parametrize("name", METHODS)
def test_pika_has_the_methods_that_are_called_and_overridden(name: str) -> None:
    assert list(inspect.signature(getattr(AsyncioConnection, name)).parameters) == METHODS[name]


@pytest.mark.parametrize(("module", "text"), ATTRIBUTES)
def test_pika_has_the_attributes_that_are_used(module: Any, text: str) -> None:
    assert text in inspect.getsource(module)


def test_pika_is_the_release_whose_private_parts_are_known() -> None:
    assert version("pika").startswith("1.4.")


def test_all_private_parts_that_are_used_are_listed_here() -> None:
    ours = {name for name in vars(WireConnection) if name in vars(pika_connection.Connection)}
    ours |= {name for name in vars(WireConnection) if name in vars(base_connection.BaseConnection)}
    private = {name for name in ours if name.startswith("_") and not name.startswith("__")}
    assert private - {"_abc_impl"} <= METHODS.keys()


def test_no_other_module_uses_private_parts_of_pika() -> None:
    modules = Path(rabbitmq.__file__).parent.glob("*.py")
    private = re.compile(r"(?<!self)(?<!cls)\._[a-z]|SLF001")
    assert {path.name for path in modules if private.search(path.read_text())} == {"wire.py"}


def test_one_fixture_of_the_tests_uses_private_parts_of_pika() -> None:
    root = Path(__file__).parents[3]
    python = [path for folder in ("tests", "benchmarks", "tools") for path in (root / folder).rglob("*.py")]
    used = {path for path in python if re.search(r"(?<!self)\._(impl|sock)\b", path.read_text())}
    assert {path.relative_to(root).as_posix() for path in used} == {"tests/contract/amqp/conftest.py"}
