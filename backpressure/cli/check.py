"""``pace check``: tests a running stack, and shows the results."""

from __future__ import annotations

from urllib.parse import urlsplit

import click
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from backpressure import program
from backpressure.cli import options
from backpressure.cli.options import setting
from backpressure.cli.process import settings_from
from backpressure.cli.system_check import CheckOutcome, CheckPlan, SystemCheck
from backpressure.core.addresses import bracketed
from backpressure.errors import ConfigError
from backpressure.presentation.terminal import new_console
from backpressure.program import printable_lines

_WORDS = {
    CheckOutcome.PASSED: "[green]passed[/]",
    CheckOutcome.FAILED: "[red]failed[/]",
    CheckOutcome.MISSING: "[yellow]missing[/]",
}


@click.command()
@click.option("--url", help="Control API of the producer.  [default: http://localhost:5000]")
@click.option(
    "--consumer-url", help='Control API of the consumer; "": no consumer.  [default: port 8001 on the producer\'s host]'
)
@click.option("--monitor-url", help='The monitor; "": no monitor.  [default: port 8000 on the producer\'s host]')
@setting(
    "--token", key="api.token", help="Token of all three; better in PACE_API__TOKEN, where no process list shows it"
)
@click.option(
    "--requests",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="Number of requests of the load test.",
)
@click.option(
    "--timeout",
    type=options.FiniteRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit for the delivery of all messages.",
)
@click.option("--read-only", is_flag=True, help="Send nothing: test health and metrics only.")
@options.logs
@click.pass_context
def check(
    context: click.Context,
    /,
    url: str | None,
    consumer_url: str | None,
    monitor_url: str | None,
    requests: int,
    timeout: float,
    read_only: bool,
    **_: object,
) -> None:
    """Test a running stack: health, single and batch messages, invalid input, load, metrics, delivery.

    With --url alone, consumer and monitor are expected on the same machine.

    Exit code 0: all passed; 1: something failed; 3: a part to be tested is not running.
    """
    settings = settings_from(context)
    producer_url = _base("--url", f"http://localhost:{settings.api.producer_port}" if url is None else url)
    if not producer_url:
        raise ConfigError("--url", "", "expected the control API of the producer: http://host:port")
    consumer_url, monitor_url = _base("--consumer-url", consumer_url), _base("--monitor-url", monitor_url)
    plan = CheckPlan(
        producer_url=producer_url,
        consumer_url=_beside(producer_url, settings.api.consumer_port) if consumer_url is None else consumer_url,
        monitor_url=_beside(producer_url, settings.monitor.port) if monitor_url is None else monitor_url,
        token=settings.api.token.get_secret_value(),
        requests=requests,
        timeout_s=timeout,
        read_only=read_only,
    )
    outcomes = program.run(_shown(plan))
    context.exit(1 if CheckOutcome.FAILED in outcomes else 3 if CheckOutcome.MISSING in outcomes else 0)


async def _shown(plan: CheckPlan) -> set[CheckOutcome]:
    """Show each result as it arrives, and return the outcomes."""
    table = Table("", "check", "seen", box=None, pad_edge=False)
    outcomes = set()
    console = new_console()
    with Live(table, console=console):
        async with SystemCheck(plan) as system:
            async for result in system.run():
                table.add_row(_WORDS[result.outcome], result.name, escape(printable_lines(result.detail)))
                outcomes.add(result.outcome)
    if not console.is_terminal:
        console.print()  # there, `Live` ends without a newline
    return outcomes


def _base(flag: str, url: str | None) -> str | None:
    """Return the URL without a trailing slash; raises `ConfigError`."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a bad port, or one bracket of an IPv6 address
        good = False
    if not good:
        raise ConfigError(flag, url, "expected http://host:port")
    return url.rstrip("/")


def _beside(url: str, port: int) -> str:
    """Return the address of another port on the same machine."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{bracketed(parts.hostname or '')}:{port}"
