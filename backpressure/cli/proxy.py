"""``pace proxy``: stand between clients and their broker, and pace what they publish."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from backpressure.cli import options
from backpressure.cli.options import setting
from backpressure.cli.process import run_engine, serving, settings_from
from backpressure.core.addresses import bracketed, plain_host
from backpressure.engines.clock import Clock
from backpressure.errors import ConfigError
from backpressure.proxy.engine import ProxyConfig, ProxyEngine
from backpressure.proxy.listener import ListenAddress
from backpressure.proxy.routing import KnownBinding
from backpressure.proxy.view import HoldLimits
from backpressure.settings import ApiSettings, Settings
from backpressure.telemetry.own_process import announce
from backpressure.transports.factory import connect


@click.command()
@click.option(
    "--listen",
    default="127.0.0.1:5673",
    show_default=True,
    metavar="HOST:PORT",
    help="Where clients connect; port 0: a free one.",
)
@setting(
    "--upstream",
    key="broker.url",
    help="The broker, amqp[s]://user:password@host:port/vhost; the login is for the proxy's own probe and reports",
)
@options.login
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    help="Pace this queue, or those that match a pattern such as 'orders.*' (repeatable). Without it: each queue that "
    "messages lead to and that has a consumer.",
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="EXCHANGE/KEY=QUEUE",
    help="A binding that neither passes nor is listed by the management API; the key may have * and # (repeatable).",
)
@setting("--strategy", key="producer.strategy")
@setting("--target-wait", key="control.target_wait_ms")
@click.option(
    "--prefetch",
    type=click.Choice(["as-asked", "auto"]),
    default="as-asked",
    show_default=True,
    help="auto: give consumers no more prefetch than keeps them busy, whatever they ask for.",
)
@click.option("--dry-run", is_flag=True, help="Hold nothing; only tell what the law would allow.")
@click.option(
    "--hold-messages",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="Messages that may wait in one channel; beyond it the client's socket is not read.",
)
@click.option(
    "--hold-bytes",
    type=click.IntRange(1, 1 << 30),
    default=1 << 20,
    show_default=True,
    help="The same in bytes.",
)
@click.option(
    "--receive-buffer",
    type=click.IntRange(1, 1 << 26),
    default=64 * 1024,
    show_default=True,
    metavar="BYTES",
    help="SO_RCVBUF of clients' sockets: what a client without confirms has written may wait there, unseen.",
)
@click.option("--max-connections", type=click.IntRange(1), default=1000, show_default=True, help="Clients at a time.")
@click.option(
    "--drain-timeout",
    type=options.FiniteRange(0, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="When stopped, let what waits go at its pace for this long, then at once.",
)
@click.option(
    "--tls-cert", type=click.Path(dir_okay=False, path_type=Path), help="Listen with TLS: certificate in PEM."
)
@click.option(
    "--tls-key", type=click.Path(dir_okay=False, path_type=Path), help="Its key; without it, in the certificate's file."
)
@options.management_url
@setting("--name", key="producer.producer_id", help="Name in reports and in the monitor; empty: from host and process")
@options.control_api("api.producer_port")
@options.no_wait
@options.logs
@click.pass_context
def proxy(context: click.Context, /, **given: Any) -> None:
    """Pace any AMQP 0-9-1 producer to any consumer: clients change the port in their URL and nothing else.

    Every frame passes as it came. A message to a paced queue whose consumers are slower waits here, then in the
    client's socket. Deliveries and acknowledgements that pass are counted and reported, so consumers need not report
    themselves. Ctrl-C lets go what waits, and closes.
    """
    settings = settings_from(context)
    host, port = _address(given["listen"])
    config = ProxyConfig(
        listen=ListenAddress(
            host,
            port,
            _tls(given["tls_cert"], given["tls_key"]),
            receive_buffer_bytes=given["receive_buffer"],
            max_connections=given["max_connections"],
        ),
        queues=given["queues"],
        routes=[_route(text) for text in given["routes"]],
        limits=HoldLimits(given["hold_messages"], given["hold_bytes"]),
        dry_run=given["dry_run"],
        prefetch_auto=given["prefetch"] == "auto",
        drain_timeout_s=given["drain_timeout"],
    )
    asyncio.run(serve(settings, config))


async def serve(settings: Settings, config: ProxyConfig) -> None:
    """Run one proxy process until it is stopped; raises `PaceError`."""
    if not settings.broker.full_url().startswith("amqp"):
        allowed = "expected amqp:// or amqps://: Kafka's clients pace with the library (docs/kafka.md)"
        raise ConfigError("--upstream", settings.broker.address(), allowed)
    clock = Clock(settings.process.clock_anchor_ns)
    transport = connect(settings)
    engine = ProxyEngine(transport, settings, config, clock)

    def on_started() -> None:
        url = f"{'amqps' if config.listen.tls else 'amqp'}://{bracketed(config.listen.host)}:{engine.port}"
        announce(settings.process.announce_file, role="proxy", id=engine.id, url=url, api_url=engine.api_url)
        paced = ", ".join(config.queues) or "every queue with a consumer"
        mode = "dry run, nothing is held" if config.dry_run else f"law {settings.producer.strategy}"
        click.echo(
            f"proxy {engine.id}: {url} → {settings.broker.address()}, paces {paced}, {mode}"
            + (f", control API {engine.api_url}" if engine.api_url else "")
        )

    async with serving(lambda: _app(engine), settings.api, settings.api.producer_port, _DEFAULT_PORT) as url:
        engine.api_url = url
        if await run_engine(engine, on_started=on_started, broker=transport):
            published = sum(queue.published for queue in engine.view.paced.values())
            click.echo(f"connections={engine.listener.accepted}, paced messages={published}")


_DEFAULT_PORT = ApiSettings().producer_port


def _app(engine: ProxyEngine) -> object:
    from backpressure.api.proxy import proxy_app  # FastAPI is imported only where an API is served

    return proxy_app(engine)


def _address(text: str) -> tuple[str, int]:
    allowed = "expected host:port, with an IPv6 address in brackets, for example 127.0.0.1:5673"
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
        host = plain_host(parts.hostname or "")
    except ValueError:
        raise ConfigError("--listen", text, allowed) from None
    if not host or port is None or parts.path or parts.username is not None:
        raise ConfigError("--listen", text, allowed)
    return host, port


def _route(text: str) -> KnownBinding:
    source, separator, rest = text.partition("/")
    key, equals, queue = rest.rpartition("=")
    if not (separator and equals and queue and source):
        raise ConfigError("--route", text, "expected EXCHANGE/KEY=QUEUE, for example events/order.#=orders")
    return KnownBinding(source, queue, key)


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise ConfigError("--tls-key", str(key), "give --tls-cert too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        reason = (
            "no certificate and key in PEM form that belong together"
            if isinstance(error, ssl.SSLError)
            else error.strerror
        )
        raise ConfigError("--tls-cert", str(certificate), f"cannot be used: {reason}") from None
    return context
