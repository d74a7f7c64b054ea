"""``pace producer``, also ``fast_producer.py``: run one producer."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import click

from backpressure import program
from backpressure.cli import options
from backpressure.cli.local_brokers import discovered
from backpressure.cli.options import setting, switch
from backpressure.cli.process import run_engine, serving, settings_from
from backpressure.cli.status_lines import ProducerLine, tells_progress
from backpressure.core.reports import ProducerReport
from backpressure.engines.clock import Clock
from backpressure.engines.payloads import PayloadSource
from backpressure.engines.producer import ProducerEngine
from backpressure.errors import UndeliveredError
from backpressure.settings import ApiSettings, Settings
from backpressure.telemetry.journal_file import JournalWriter
from backpressure.telemetry.own_process import announce
from backpressure.telemetry.tracing import tracing
from backpressure.transports.factory import connect


@click.command()
@options.connection
@options.management_url
@options.queue
@setting(
    "--audit-queue",
    key="queue.audit",
    assign=lambda name: {"queue.audit": name, "queue.auditing": True},
    help="Copy every message to this queue as well (switches auditing on)",
)
@options.publishing_to
@setting(
    "--consumer-group", key="queue.consumer_group", help="Kafka: keep pace with this group, whoever its consumers are"
)
@setting("--template", key="producer.template")
@setting("--handler", key="producer.handler", metavar="MODULE:FUNCTION")
@setting("--profile", key="producer.profile")
@setting("--count", key="producer.limit", help="Stop after this many messages; 0: endless")
@setting("--rate", key="producer.rate")
@setting("--strategy", key="producer.strategy")
@setting("--batch-size", key="producer.batch_size")
@switch("--purge", {"producer.purge": True})
@setting("--progress-every", key="producer.progress_every")
@setting("--producer-id", key="producer.producer_id")
@setting("--text", key="producer.text")
@setting("--payload-bytes", key="producer.payload_bytes")
@setting("--weight", key="producer.weight")
@options.control_api("api.producer_port")
@options.logs
@click.pass_context
def producer(context: click.Context, /, **_: object) -> None:
    """Send messages at the pace the consumer can take.

    It is offered --rate messages per second, sends as many as the law (--strategy) allows, and keeps each until the
    broker has confirmed it. Ctrl-C waits for outstanding confirms and prints the totals: of the messages published, how
    many were confirmed, rejected (given up) and returned (no queue is bound for them). A job with an end (--count) of
    which messages were returned, or none was taken, ends with exit code 4.

    On a terminal it says every five seconds how it is doing; elsewhere it prints a line of totals at every
    --progress-every messages.
    """
    program.run(produce(settings_from(context, discovered)))


async def produce(settings: Settings) -> None:
    """Run one producer process from connecting to the closing line; raises `PaceError`."""
    clock = Clock(settings.process.clock_anchor_ns)
    transport = connect(settings)
    source = PayloadSource.load(settings.producer.handler) if settings.producer.handler else None
    with ExitStack() as stack:
        path = settings.process.journal_file
        journal = stack.enter_context(JournalWriter(Path(path))) if path else None
        tracer = stack.enter_context(tracing(settings, "producer", transport.destination))
        told = _print_progress if tells_progress(settings.producer) else None
        engine = ProducerEngine(
            transport, settings, clock, journal=journal, tracer=tracer, on_progress=told, source=source
        )
        started = time.monotonic()

        def on_started() -> None:
            nonlocal started
            started = time.monotonic()
            announce(settings.process.announce_file, role="producer", id=engine.id, api_url=engine.api_url)
            click.echo(
                f"producer {engine.id}: offers {_offer(settings)} to {settings.queue.work}"
                f" at {transport.address}, law {settings.producer.strategy}"
                + (f", control API {engine.api_url}" if engine.api_url else "")
            )

        async with serving(lambda: _app(engine), settings.api, settings.api.producer_port, _DEFAULT_PORT) as url:
            engine.api_url = url
            status = ProducerLine(engine.report, lambda: engine.depth)
            if await run_engine(engine, on_started=on_started, status=status, broker=transport):
                _print_totals(engine, time.monotonic() - started)
                _check_delivered(engine)


_DEFAULT_PORT = ApiSettings().producer_port


def _app(engine: ProducerEngine) -> object:
    from backpressure.api.producer import producer_app  # FastAPI is imported only where an API is served

    return producer_app(engine)


def _offer(settings: Settings) -> str:
    rate = settings.producer.rate
    return f"{rate:g} msg/s" if rate else "as much as may be sent"


def _print_progress(report: ProducerReport) -> None:
    click.echo(
        f"published={report.published} confirmed={report.confirmed} rejected={report.rejected}"
        f" in_flight={report.in_flight} allowed={report.pacing_rate_per_s:.0f} msg/s"
    )


def _check_delivered(engine: ProducerEngine) -> None:
    """Raise `UndeliveredError` if a job has ended of which messages came to no queue, or none was taken.

    That some are rejected is what strategies are for that let a full queue refuse messages.
    """
    report = engine.report()
    if not engine.job_done:
        return
    if report.returned:
        raise UndeliveredError(
            f"{report.returned} of {report.published} messages were returned: no queue is bound for them; see the "
            "exchange, the routing key and the queue"
        )
    if report.published and not report.confirmed:
        raise UndeliveredError(f"none of {report.published} messages was taken: {report.rejected} were rejected")


def _print_totals(engine: ProducerEngine, seconds: float) -> None:
    report, reading = engine.report(), engine.queue_reading
    ready = "?" if reading is None else reading.ready
    rate = report.confirmed / seconds if seconds > 0 else 0.0
    click.echo(
        f"published={report.published}, in_queue_ready≈{ready}, confirmed={report.confirmed},"
        f" rejected={report.rejected}, returned={report.returned}, time={seconds:.2f}s, {rate:.1f} msg/s"
    )
