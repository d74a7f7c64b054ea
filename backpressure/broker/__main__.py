"""``python -m backpressure.broker``: the embedded broker in a process of its own.

It imports as little as possible, because every experiment waits for it to start. ``pace broker`` has the same options.
"""

from __future__ import annotations

import sys

from backpressure import program


def main(arguments: list[str] | None = None) -> int:
    """Parse the options, serve until a signal, and return the exit code."""
    import argparse  # noqa: PLC0415 - Ctrl-C meanwhile ends the process without a traceback
    from pathlib import Path  # noqa: PLC0415

    from backpressure.broker.declarations import parse_denied  # noqa: PLC0415
    from backpressure.broker.faults import FaultSettings, parse_fault  # noqa: PLC0415
    from backpressure.broker.handshake import RABBITMQ_VERSION, SessionConfig, users_for  # noqa: PLC0415
    from backpressure.broker.server import BrokerConfig, TlsConfig, serve  # noqa: PLC0415
    from backpressure.errors import PaceError  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m backpressure.broker", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5672, help="AMQP port, 0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--management-port", type=int, default=15672, help="HTTP port, 0 picks a free one (default: %(default)s)"
    )
    parser.add_argument("--announce", type=Path, metavar="FILE", help="write where it listens to FILE, as JSON")
    parser.add_argument(
        "--memory-limit-mb", type=float, default=0, help="queued megabytes that raise the alarm (0: 40%% of memory)"
    )
    parser.add_argument(
        "--max-connections", type=int, default=1000, help="further ones are closed at once (default: %(default)s)"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="keep durable queues and persistent messages in DIR (default: memory only)",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="start with a fault, such as nack_share=0.1 or memory_alarm=true; may be repeated",
    )
    parser.add_argument(
        "--definitions",
        type=Path,
        metavar="FILE",
        help="declare what FILE holds, as RabbitMQ exports it: queues, exchanges, bindings, policies",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="listen with TLS too; certificate in PEM form")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (default: in the certificate's file)")
    parser.add_argument("--tls-port", type=int, default=5671, help="AMQP with TLS (default: %(default)s)")
    parser.add_argument("--management-tls-port", type=int, default=15671, help="HTTPS (default: %(default)s)")
    parser.add_argument(
        "--user",
        action="append",
        default=[],
        metavar="NAME:PASSWORD",
        help="a user beside guest, beyond loopback instead of guest, for AMQP and the management API; may be repeated",
    )
    parser.add_argument(
        "--deny",
        action="append",
        default=[],
        metavar="FEATURE",
        help="do not permit a feature that RabbitMQ 4.3 denies: global_qos, transient_nonexcl_queues; may be repeated",
    )
    parser.add_argument(
        "--own-name",
        action="store_true",
        help="tell clients this broker's own name and version, not those of the RabbitMQ whose behaviour it has, "
        f"RabbitMQ {RABBITMQ_VERSION}",
    )
    options = parser.parse_args(arguments)
    try:
        users = users_for(options.host, options.user)
        denied = frozenset(map(parse_denied, options.deny))
        faults = FaultSettings().updated(dict(map(parse_fault, options.fault)))
    except PaceError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    config = BrokerConfig(
        host=options.host,
        port=options.port,
        management_port=options.management_port,
        memory_limit_bytes=int(options.memory_limit_mb * 1_000_000),
        max_connections=options.max_connections,
        data_dir=options.data_dir,
        faults=faults,
        definitions=options.definitions,
        denied=denied,
        tls=TlsConfig(options.tls_cert, options.tls_key, options.tls_port, options.management_tls_port)
        if options.tls_cert
        else None,
        session=SessionConfig(users=users, own_name=options.own_name),
    )
    try:
        with program.interruptible():
            program.run(serve(config, announce=options.announce))
    except KeyboardInterrupt:  # it was not listening yet
        return program.INTERRUPTED
    except PaceError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    program.prepare(program.INTERRUPTED)
    sys.exit(main())
