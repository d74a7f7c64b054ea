"""``pace doctor``: checks this machine and the broker, and gives advice on what is missing or broken."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum

import click
from rich.markup import escape
from rich.table import Table

from backpressure import program
from backpressure.cli import options
from backpressure.cli.cleanup import ours_on_kafka
from backpressure.cli.local_brokers import discovered
from backpressure.cli.process import settings_from
from backpressure.config import replaced
from backpressure.core.addresses import is_loopback
from backpressure.errors import AccessRefusedError, AnotherBrokerError, MissingExtraError, PaceError
from backpressure.extras import EXTRAS, lacks
from backpressure.presentation.terminal import new_console
from backpressure.program import check_output, printable_lines
from backpressure.settings import Settings
from backpressure.transports.factory import connect
from backpressure.transports.kafka_node import OLDEST_JAVA, find_kafka, java_release, left_over
from backpressure.transports.management_client import ManagementClient
from backpressure.transports.rabbitmq_node import find_rabbitmq

_TIMEOUT_S = 5.0
_MOST_NAMES = 3


class Verdict(Enum):
    """The result of a check; only a failure makes the exit code 1."""

    OK = "[green]ok[/]"
    NOTE = "[yellow]note[/]"
    FAILED = "[red]failed[/]"


@dataclass(frozen=True, slots=True)
class Finding:
    """A check: its subject and verdict, what was found, and what to do about it."""

    subject: str
    verdict: Verdict
    detail: str
    advice: str = ""


@click.command()
@options.connection
@options.management_url
@options.queue
@options.publishing_to
@options.logs
@click.pass_context
def doctor(context: click.Context, /, **_: object) -> None:
    """Check Python, libraries, ports, the broker, its management API and the queues; changes nothing.

    Exit code 1 if something is broken. What is merely absent (a broker, an extra) is only noted: no run needs it.
    """
    settings = replaced(settings_from(context, discovered), {"broker.wait": False}, "doctor")
    findings = [*_machine(), *_ports(settings), *program.run(_gathered(settings))]
    table = Table("", "check", "found", "what to do", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(
            finding.verdict.value, finding.subject, escape(printable_lines(finding.detail)), escape(finding.advice)
        )
    new_console().print(table)
    check_output()
    context.exit(int(any(finding.verdict is Verdict.FAILED for finding in findings)))


def _machine() -> Iterator[Finding]:
    yield Finding("Python", Verdict.OK, platform.python_version())
    for library in ("pika", "fastapi", "prometheus-client", "uvicorn"):
        try:
            yield Finding(library, Verdict.OK, importlib.metadata.version(library))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(library, Verdict.FAILED, "missing", "pip install 'pace-matching[bench]'")
    for extra in EXTRAS:
        if lacks(extra):
            yield Finding(f"extra {extra}", Verdict.NOTE, "not installed", MissingExtraError(extra, "").remedy)
        else:
            yield Finding(f"extra {extra}", Verdict.OK, "installed")
    if importlib.util.find_spec("tkinter") is not None:
        yield Finding("tkinter", Verdict.OK, "installed")
    else:
        yield Finding("tkinter", Verdict.NOTE, "not installed", "apt-get install python3-tk")
    yield from _kafka()
    path = find_rabbitmq()
    yield (
        Finding("rabbitmq-server", Verdict.OK, str(path))
        if path
        else Finding("rabbitmq-server", Verdict.NOTE, "not installed", "needed for --broker rabbitmq only")
    )


def _kafka() -> Iterator[Finding]:
    release = java_release()
    if release is None:
        yield Finding(
            "Java", Verdict.NOTE, "not installed", "for --broker kafka: apt-get install openjdk-17-jre-headless"
        )
    elif release < OLDEST_JAVA:
        yield Finding("Java", Verdict.NOTE, str(release), f"Kafka needs {OLDEST_JAVA} or later")
    else:
        yield Finding("Java", Verdict.OK, str(release))
        jars = find_kafka()
        yield (
            Finding("Kafka's jars", Verdict.OK, f"{next(jars.glob('kafka_2.*.jar')).stem} in {jars}")
            if jars
            else Finding("Kafka's jars", Verdict.NOTE, "missing", "for --broker kafka: make kafka, or KAFKA_HOME")
        )
    for directory, processes in left_over().items():
        kill = f"kill {' '.join(map(str, processes))}; " if processes else ""
        yield Finding("private Kafka", Verdict.NOTE, f"left over in {directory}", f"{kill}rm -r {directory}")


def _ports(settings: Settings) -> Iterator[Finding]:
    listeners = (
        ("monitor", settings.monitor.host, settings.monitor.port, "--port"),
        ("producer API", settings.api.host, settings.api.producer_port, "--api-port"),
        ("consumer API", settings.api.host, settings.api.consumer_port, "--api-port"),
    )
    for subject, host, port, flag in listeners:
        if not is_loopback(host) and not settings.api.token.get_secret_value():
            yield Finding(subject, Verdict.FAILED, f"{host} without a token", "set PACE_API__TOKEN")
        elif _is_free(host, port):
            yield Finding(subject, Verdict.OK, f"port {port} is free")
        else:
            yield Finding(
                subject, Verdict.NOTE, f"port {port} is taken", f"already running? choose another port with {flag}"
            )


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        if os.name == "posix":  # Windows would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


async def _gathered(settings: Settings) -> list[Finding]:
    return [finding async for finding in _broker(settings)]


async def _broker(settings: Settings) -> AsyncIterator[Finding]:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            admin = connect(settings).admin()
            await admin.start()
            identity = await admin.identity()
            await admin.stop()
    except AccessRefusedError as error:
        yield Finding("broker", Verdict.FAILED, str(error), "see its user, its rights and the virtual host")
        return
    except (PaceError, TimeoutError) as error:
        reason = str(error) or f"{settings.broker.address()} does not answer"
        advice = "pace broker kafka" if _is_kafka(settings) else "pace broker, or docker compose up -d rabbitmq"
        yield Finding("broker", Verdict.NOTE, reason, f"start one: {advice}")
        return
    yield Finding("broker", Verdict.OK, f"{identity.product} {identity.version} at {identity.address}")
    yield await _compare_queues(settings)
    if _is_kafka(settings):
        yield await _leftovers(settings)
        return
    client = ManagementClient.of(settings.broker)
    if client is None:
        advice = "--management-url http://host:15672, for the monitor's details and live queue bounds"
        yield Finding("management API", Verdict.NOTE, "address unknown", advice)
        return
    async with client:
        try:
            overview = await client.overview()
            await client.check_owner(connect(settings))
        except AnotherBrokerError as error:
            yield Finding("management API", Verdict.FAILED, str(error), "--management-url http://host:15672")
        except AccessRefusedError as error:
            yield Finding("management API", Verdict.NOTE, str(error), "rabbitmqctl set_user_tags USER monitoring")
        except PaceError as error:
            yield Finding("management API", Verdict.NOTE, str(error), "rabbitmq-plugins enable rabbitmq_management")
        else:
            found = f"{overview.product} {overview.version} at {client.url}"
            if overview.statistics_off:
                kept = f"{found}, without statistics: the monitor knows no rates and no prefetch"
                advice = "unset disable_metrics_collector and disable_stats in the broker's configuration"
                yield Finding("management API", Verdict.NOTE, kept, advice)
            else:
                yield Finding("management API", Verdict.OK, found)


async def _compare_queues(settings: Settings) -> Finding:
    """Compare the queues on the broker with the configured ones; nothing is created."""
    admin = connect(settings).admin()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await admin.start()
            queue = settings.queue
            if queue.predeclared:
                keys = queue.bindings
                await admin.look(queue.work, exchange=queue.exchange, keys=keys, dead_letter=queue.dead_letter)
                return Finding("queues", Verdict.OK, f"{queue.work} exists, and is used as it is")
            missing = await admin.missing(queue)
    except (PaceError, TimeoutError) as error:
        reason = str(error) or f"no answer within {_TIMEOUT_S:g} s"
        return Finding("queues", Verdict.FAILED, reason, "see docs/troubleshooting.md")
    finally:
        await admin.stop()
    if missing:
        return Finding("queues", Verdict.OK, f"to be created at the first start: {', '.join(missing)}")
    return Finding("queues", Verdict.OK, f"{settings.queue.work} exists as configured")


async def _leftovers(settings: Settings) -> Finding:
    names = await ours_on_kafka(settings)
    queue = settings.queue
    leftovers = sorted(set(names) - {queue.work, queue.dead_letter, queue.audit, settings.feedback.exchange})
    if not leftovers:
        return Finding("topics, groups", Verdict.OK, "no leftovers")
    shown = ", ".join(leftovers[:_MOST_NAMES]) + (", …" if len(leftovers) > _MOST_NAMES else "")
    return Finding(
        "topics, groups", Verdict.NOTE, f"{len(leftovers)} left by other runs: {shown}", "pace cleanup --all"
    )


def _is_kafka(settings: Settings) -> bool:
    return settings.broker.address().startswith("kafka")
