"""Systems without what only POSIX has: everything can be imported, and what cannot work is refused by name."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_POSIX = """
import asyncio, asyncio.subprocess, concurrent.futures.thread, ctypes, logging, mmap, multiprocessing, os, platform
import selectors, shutil, signal, socket, ssl, subprocess, sys, tempfile, urllib.request, uuid
import click, confluent_kafka.admin, dotenv, fastapi, h11, httpx, pamqp, pika, prometheus_client, psutil
import pika.adapters.asyncio_connection, pydantic, rich.live, rich.progress, rich.table, starlette, uvicorn
import celery, celery.app.base, celery.bootsteps, celery.signals, celery.worker, billiard.connection
import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http.trace_exporter, pytest

class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules.pop(name, None)
for name in [name for name in vars(signal) if name.startswith(("SIG", "pthread_"))]:
    if name not in {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}:
        delattr(signal, name)
for name in ("fork", "geteuid", "getloadavg", "getpgid", "getppid", "getuid", "killpg", "mkfifo", "nice", "setsid",
             "statvfs", "sysconf", "uname", "wait4"):
    if hasattr(os, name):
        delattr(os, name)

def no_handlers(self, *_):
    raise NotImplementedError

asyncio.SelectorEventLoop.add_signal_handler = asyncio.SelectorEventLoop.remove_signal_handler = no_handlers
sys.platform = "win32"
ssl.enum_certificates = lambda store: []  # `ssl` reads the certificates of Windows with it
"""
IMPORT_ALL = """
import importlib, json, pkgutil, backpressure
wrong = {}
for found in pkgutil.walk_packages(backpressure.__path__, "backpressure."):
    if found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except BaseException as error:
        wrong[found.name] = repr(error)
print(json.dumps(wrong))
"""
PACE = "\nfrom backpressure.cli.main import main\nmain()"


def run(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_every_module_can_be_imported_without_posix() -> None:
    result = run(WITHOUT_POSIX + IMPORT_ALL)
    assert result.stderr == ""
    assert json.loads(result.stdout) == {}


@pytest.mark.parametrize(
    ("arguments", "feature"),
    [
        (["run", "normal"], "a run of real processes"),
        (["compare", "normal"], "a run of real processes"),
        (["broker", "rabbitmq"], "a private RabbitMQ node"),
        (["broker", "kafka"], "a private Kafka broker"),
        (["lab", "--url", "amqp://localhost"], "pace lab"),
        (["consumer", "--window", "--url", "memory://here"], "--window"),
    ],
)
def test_what_cannot_work_on_windows_is_refused_by_name(arguments: list[str], feature: str, tmp_path: Path) -> None:
    result = run(WITHOUT_POSIX + PACE, *arguments, cwd=tmp_path)
    assert result.stderr.startswith(f"error: {feature} does not work on Windows: it needs ")
    assert len(result.stderr.splitlines()) == 1
    assert (result.returncode, result.stdout) == (2, "")


@pytest.mark.parametrize(
    "arguments",
    [["laws"], ["init"], ["scenarios"], ["simulate", "normal", "--quiet"], ["compare", "normal", "--simulate"]],
)
def test_what_needs_no_posix_works_without_it(arguments: list[str], tmp_path: Path) -> None:
    result = run(WITHOUT_POSIX + PACE, *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "ready", "closing"),
    [
        (["producer", "--url", "memory://here", "--no-api"], "producer ", "published="),
        (["consumer", "--url", "memory://here", "--no-api"], "consumer ", "consumed="),
        (["broker", "--port", "0", "--management-port", "0", "--unlisted"], "embedded broker ready", ""),
    ],
)
def test_ctrl_c_ends_a_program_in_order_where_the_event_loop_knows_no_signals(
    arguments: list[str], ready: str, closing: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-u", "-c", WITHOUT_POSIX + PACE, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline()]
        while printed[-1] and not printed[-1].startswith(ready):
            printed.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest = process.stdout.readlines()
    assert process.returncode == 0, [*printed, *rest]
    assert not closing or rest[-1].startswith(closing)
