"""``pace status``: how producer and consumer are, asked at their control APIs."""

from __future__ import annotations

import json
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError, URLError

import click

from backpressure.cli import options
from backpressure.cli.process import settings_from
from backpressure.core.addresses import bracketed
from backpressure.errors import PaceError, TransportError
from backpressure.program import check_output, printable, reader_is_gone
from backpressure.settings import Settings

_PATIENCE_S = 5.0
HEAD = "time      state      size ready   memory  offered  allowed   refused |   done  wait p99  law"


@click.command()
@click.argument("role", type=click.Choice(["producer", "consumer"]), required=False)
@click.option("--every", type=click.FloatRange(0.05, 3600), help="Look again and again, with so many seconds between")
@click.option("--count", type=click.IntRange(1), help="Look so often, then end (with --every; without it forever)")
@click.option("--pid", is_flag=True, help="Print the process id alone (with a ROLE)")
@click.option("--json", "as_json", is_flag=True, help="Print what the control API answers")
@options.logs
@click.pass_context
def status(
    context: click.Context,
    /,
    role: str | None,
    *,
    every: float | None,
    count: int | None,
    pid: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Say how the producer and the consumer on this machine are.

    It asks their control APIs on the ports of the settings (api.producer_port, api.consumer_port), with the token if
    there is one. With --every, one line each time: the queue, the rates, the wait, what the law says.
    """
    settings = settings_from(context)
    roles = [role] if role else ["producer", "consumer"]
    if pid and not role:
        raise click.UsageError("--pid needs a ROLE: producer or consumer")
    if every is None:
        found = {name: _ask(settings, name) for name in roles}
        missing = [answer for answer in found.values() if isinstance(answer, PaceError)]
        for name, answer in found.items():
            if isinstance(answer, PaceError):
                continue
            if pid:
                click.echo(answer["process"]["pid"])
            else:
                click.echo(json.dumps(answer, indent=2) if as_json else "\n".join(_told(name, answer)))
        check_output()
        if missing:
            raise TransportError("; ".join(map(str, missing)))
        return
    _watch(settings, roles, every, count)


def _watch(settings: Settings, roles: list[str], every: float, count: int | None) -> None:
    click.echo(HEAD)
    looks = 0
    while (count is None or looks < count) and not reader_is_gone():
        if looks:
            time.sleep(every)
        looks += 1
        answers = {name: _ask(settings, name) for name in roles}
        known = {name: answer for name, answer in answers.items() if not isinstance(answer, PaceError)}
        line = _line(known.get("producer"), known.get("consumer"))
        width = shutil.get_terminal_size().columns
        click.echo(line[:width].rstrip() if sys.stdout.isatty() else line)
    check_output()


def _ask(settings: Settings, role: str) -> dict[str, Any] | PaceError:
    """Return what the process says, or why it does not."""
    api = settings.api
    port = api.producer_port if role == "producer" else api.consumer_port
    host = "127.0.0.1" if api.host in {"0.0.0.0", "::"} else api.host  # noqa: S104 - it is compared, not bound
    url = f"http://{bracketed(host)}:{port}/status"
    token = api.token.get_secret_value()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_PATIENCE_S) as answer:
            content: dict[str, Any] = json.load(answer)
    except HTTPError as error:
        error.close()  # it is an answer, and may hold its connection
        reason = "it wants another token (PACE_API__TOKEN)" if error.code == 401 else f"it answers {error.code}"
        return TransportError(f"no {role} to ask at {url}: {reason}")
    except (URLError, OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        return TransportError(f"no {role} answers at {url}: {getattr(cause, 'strerror', None) or cause}")
    if content.get("role") != role:
        return TransportError(f"no {role} answers at {url}: a {content.get('role', 'stranger')} does")
    return content


def _told(role: str, answer: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one process."""
    queue, totals, rates = answer["queue"], answer["totals"], answer["rates"]
    name, state, pid = printable(answer["id"]), answer["state"], answer["process"]["pid"]
    if role == "producer":
        law = printable(f"{answer['strategy']}: {answer['reason']}")
        yield f"producer {name} is {state} (pid {pid}), {law}"
        yield (
            f"  queue    {printable(queue['name'])}: size {_number(queue['size'])}, ready {_number(queue['ready'])},"
            f" bound {_number(queue['max_size'], 'none')}, memory {_number(queue['memory_mb'])} MB"
        )
        yield (
            f"  rates    offered {_rate(rates['offered_per_s'])}, allowed {_rate(rates['allowed_per_s'])},"
            f" bottleneck {_rate(rates['bottleneck_per_s'], '?')}"
        )
    else:
        waits, recent = answer["queue_wait_ms"], answer["queue_wait_recent_ms"]
        yield f"consumer {name} is {state} (pid {pid}), holds {queue['held']} of {queue['prefetch']}"
        slower = f", {rates['slow_down_factor']:g} times slower than set" if rates["slow_down_factor"] != 1 else ""
        yield f"  rates    can do {_rate(rates['capacity_per_s'], '?')}{slower}"
        yield (
            f"  wait     p50 {_ms(waits['p50'])}, p99 {_ms(waits['p99'])};"
            f" in the last {recent['window_s']:g} s p50 {_ms(recent['p50'])}, p99 {_ms(recent['p99'])}"
        )
    yield "  messages " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in totals.items())


def _line(producer: dict[str, Any] | None, consumer: dict[str, Any] | None) -> str:
    """Return one look at both; a dash for what nobody tells."""
    queue = producer["queue"] if producer else {}
    rates = producer["rates"] if producer else {}
    state = producer["state"] if producer else "away"
    left = (
        f"{state:<8} {_number(queue.get('size')):>6} {_number(queue.get('ready')):>5}"
        f" {_number(queue.get('memory_mb')):>5} MB {_rate(rates.get('offered_per_s'), '–'):>8}"
        f" {_rate(rates.get('allowed_per_s'), '∞' if producer else '–'):>8}"
        f" {_number(producer['totals']['rejected'] if producer else None):>9}"
    )
    done = consumer["totals"]["processed"] if consumer else None
    wait = consumer["queue_wait_recent_ms"]["p99"] if consumer else None
    right = f"{_number(done):>6} {_ms(wait):>9}"
    law = printable(f"{producer['strategy']}: {producer['reason']}") if producer else ""
    return f"{time.strftime('%H:%M:%S')}  {left} | {right}  {law}".rstrip()


def _number(value: float | None, unknown: str = "–") -> str:
    if value is None:
        return unknown
    return f"{value:.1f}".removesuffix(".0")


def _rate(per_s: float | None, unknown: str = "∞") -> str:
    return unknown if per_s is None else f"{_number(float(per_s))}/s"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value < 999.5 else f"{value / 1000:.1f} s"
