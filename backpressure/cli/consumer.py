"""``pace consumer``, also ``slow_consumer.py``: run one consumer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import click

from backpressure import program
from backpressure.cli import options
from backpressure.cli.local_brokers import discovered
from backpressure.cli.options import setting, switch
from backpressure.cli.process import run_engine, serving, settings_from
from backpressure.cli.status_lines import ConsumerLine, tells_progress
from backpressure.core.reports import ConsumerReport
from backpressure.engines.clock import Clock
from backpressure.engines.consumer import ConsumerEngine
from backpressure.engines.tally import Consumed
from backpressure.engines.work import load_handler
from backpressure.extras import require
from backpressure.program import printable
from backpressure.settings import ApiSettings, Settings
from backpressure.telemetry.journal_file import JournalWriter
from backpressure.telemetry.own_process import announce
from backpressure.telemetry.tracing import tracing
from backpressure.transports.factory import connect


@click.command()
@options.connection
@options.management_url
@options.queue
@setting("--name", key="consumer.name")
@setting("--rate", key="consumer.rate")
@setting("--handler", key="consumer.handler", metavar="MODULE:FUNCTION")
@setting("--prefetch", key="consumer.prefetch", metavar="N|auto")
@setting("--expect", key="consumer.expect")
@setting("--progress-every", key="consumer.progress_every")
@switch("--verbose", {"consumer.verbose": True})
@click.option(
    "--window",
    is_flag=True,
    help="Show messages live in a window, with controls for pause and prefetch; closing it stops the consumer",
)
@options.control_api("api.consumer_port")
@options.logs
@click.pass_context
def consumer(context: click.Context, /, window: bool, **_: object) -> None:
    """Work on messages at a steady rate, or with your own handler, and acknowledge each afterwards.

    A message whose processing fails is retried, then dead-lettered with the reason. Ctrl-C finishes and acknowledges
    the messages already delivered, and prints the totals.

    On a terminal it says every five seconds how it is doing; elsewhere it prints a line of totals at every
    --progress-every messages.
    """
    program.run(consume(settings_from(context, discovered), window=window))


async def consume(settings: Settings, *, window: bool = False) -> None:
    """Run one consumer process from connecting to the closing line; raises `PaceError`."""
    clock = Clock(settings.process.clock_anchor_ns)
    transport = connect(settings)
    handler = load_handler(settings.consumer.handler) if settings.consumer.handler else None
    async with AsyncExitStack() as stack:
        path = settings.process.journal_file
        journal = stack.enter_context(JournalWriter(Path(path))) if path else None
        feed = None
        if window:
            require("bench", "--window")
            program.require_posix("--window", "an event loop that starts processes beside AMQP")
            from backpressure.dashboards.consumer_window import MessageFeed, opened_window

            feed = MessageFeed()
        engine = ConsumerEngine(
            transport,
            settings,
            clock,
            handler=handler,
            journal=journal,
            tracer=stack.enter_context(tracing(settings, "consumer", transport.destination)),
            on_progress=_print_progress if tells_progress(settings.consumer) else None,
            on_consumed=_watcher(verbose=settings.consumer.verbose, show=None if feed is None else feed.add),
        )
        if feed is not None:
            await stack.enter_async_context(opened_window(engine, feed))

        def on_started() -> None:
            announce(settings.process.announce_file, role="consumer", id=engine.id, api_url=engine.api_url)
            capacity = engine.report().capacity_per_s
            click.echo(
                f"consumer {engine.id}: takes {settings.queue.work} at {transport.address}"
                + (f", {capacity:g} msg/s" if capacity else "")
                + (f", control API {engine.api_url}" if engine.api_url else "")
            )

        async with serving(lambda: _app(engine), settings.api, settings.api.consumer_port, _DEFAULT_PORT) as url:
            engine.api_url = url
            if await run_engine(engine, on_started=on_started, status=ConsumerLine(engine.report), broker=transport):
                _print_totals(engine)


_DEFAULT_PORT = ApiSettings().consumer_port


def _app(engine: ConsumerEngine) -> object:
    from backpressure.api.consumer import consumer_app  # FastAPI is imported only where an API is served

    return consumer_app(engine)


def _watcher(*, verbose: bool, show: Callable[[Consumed], None] | None) -> Callable[[Consumed], None] | None:
    if show is None or not verbose:
        return _print_consumed if verbose else show

    def both(consumed: Consumed) -> None:
        _print_consumed(consumed)
        show(consumed)

    return both


def _print_consumed(consumed: Consumed) -> None:
    metadata = consumed.metadata
    age = "unknown" if consumed.queue_wait_s is None else f"{consumed.queue_wait_s * 1000:.1f}ms"
    sequence = "" if metadata.sequence is None else f" #{metadata.sequence}"
    message_id = printable(consumed.delivery.message.message_id or "unknown")
    sender = printable(metadata.producer_id or "unknown")
    click.echo(f"{consumed.outcome.name.lower()}{sequence} from={sender} waited={age} id={message_id}")


def _print_progress(report: ConsumerReport) -> None:
    click.echo(
        f"consumed={report.processed} held={report.held} duplicates={report.duplicates}"
        f" dead_lettered={report.dead_lettered} p99_wait={_ms(report.queue_wait.quantile_s(0.99))}"
    )


def _print_totals(engine: ConsumerEngine) -> None:
    report = engine.report()
    tally = engine.tally
    gaps = "unknown" if engine.gaps is None else engine.gaps
    seconds = 0.0 if tally.first_at is None or tally.last_at is None else tally.last_at - tally.first_at
    waits = report.queue_wait
    click.echo(
        f"consumed={report.processed}, time={seconds:.2f}s, duplicates={report.duplicates},"
        f" out_of_order={report.out_of_order}, gaps={gaps}, dead_lettered={report.dead_lettered},"
        f" p50_wait={_ms(waits.quantile_s(0.5))}, p99_wait={_ms(waits.quantile_s(0.99))}"
    )


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.1f}ms"
