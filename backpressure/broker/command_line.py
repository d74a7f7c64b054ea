"""The options of the embedded broker, declared once for the two programs that take them.

``pace broker`` reads them with click; ``python -m backpressure.broker``, for whose start every experiment waits, with
argparse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backpressure.broker.server import BrokerConfig


@dataclass(frozen=True, slots=True)
class BrokerOption:
    """One option.

    Attributes:
        flag: what is written on the command line.
        kind: what it takes; a switch takes nothing.
        help: its line in the help.
        default: its value when it is not given; it is shown unless it is false or None.
        name: the name of its value, "": the flag's.
        metavar: what the help shows in the place of the value.
        repeatable: it may be given several times, and its value is a sequence.
    """

    flag: str
    kind: Literal["text", "port", "count", "megabytes", "file", "folder", "switch"]
    help: str
    default: Any = None
    name: str = ""
    metavar: str | None = None
    repeatable: bool = False

    @property
    def value_name(self) -> str:
        """The name under which its value is passed on."""
        return self.name or self.flag.removeprefix("--").replace("-", "_")


OPTIONS = (
    BrokerOption(
        "--host", "text", "Address to listen on; beyond loopback only for users of your own (--user).", "127.0.0.1"
    ),
    BrokerOption("--port", "port", "AMQP port; 0: a free one.", 5672),
    BrokerOption("--management-port", "port", "HTTP port; 0: a free one.", 15672),
    BrokerOption("--memory-limit-mb", "megabytes", "Threshold of the memory alarm; 0: 40 % of memory.", 0.0),
    BrokerOption("--announce", "file", "Write its addresses to this file when it is ready."),
    BrokerOption("--max-connections", "count", "Maximum number of AMQP connections.", 1000),
    BrokerOption(
        "--data-dir",
        "folder",
        "Keep durable queues and persistent messages here; without it nothing survives a restart.",
    ),
    BrokerOption(
        "--fault",
        "text",
        "Start with a fault, e.g. nack_share=0.1 or memory_alarm=true (repeatable); see docs/embedded-broker.md.",
        name="faults",
        metavar="NAME=VALUE",
        repeatable=True,
    ),
    BrokerOption(
        "--definitions",
        "file",
        "Declare the queues, exchanges, bindings and policies in this file, as exported by RabbitMQ.",
    ),
    BrokerOption("--tls-cert", "file", "Listen with TLS too, with this certificate in PEM form."),
    BrokerOption("--tls-key", "file", "Its key; without this option it is in the certificate's file."),
    BrokerOption("--tls-port", "port", "AMQP with TLS; 0: a free one.", 5671),
    BrokerOption("--management-tls-port", "port", "HTTPS; 0: a free one.", 15671),
    BrokerOption(
        "--user",
        "text",
        "Another user than guest, beyond loopback instead of guest, for AMQP and the management API (repeatable).",
        name="users",
        metavar="NAME:PASSWORD",
        repeatable=True,
    ),
    BrokerOption(
        "--deny",
        "text",
        "Do not permit what RabbitMQ 4.3 denies: global_qos, transient_nonexcl_queues (repeatable).",
        name="denied",
        metavar="FEATURE",
        repeatable=True,
    ),
    BrokerOption(
        "--own-name",
        "switch",
        "Tell clients its own name and version instead of those of RabbitMQ 4.0, whose behaviour it has.",
    ),
)


def configuration(
    *,
    memory_limit_mb: float,
    faults: Sequence[str],
    users: Sequence[str],
    denied: Sequence[str],
    own_name: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_port: int,
    management_tls_port: int,
    **listening: Any,
) -> BrokerConfig:
    """Return what the values of the options, but ``announce``, mean; raises `PaceError` for what cannot be."""
    from backpressure.broker.declarations import parse_denied  # noqa: PLC0415 - help needs none of it
    from backpressure.broker.faults import FaultSettings, parse_fault  # noqa: PLC0415
    from backpressure.broker.handshake import SessionConfig, users_for  # noqa: PLC0415
    from backpressure.broker.server import BrokerConfig, TlsConfig  # noqa: PLC0415

    return BrokerConfig(
        memory_limit_bytes=int(memory_limit_mb * 1_000_000),
        faults=FaultSettings().updated(dict(map(parse_fault, faults))),
        session=SessionConfig(users=users_for(str(listening["host"]), users), own_name=own_name),
        denied=frozenset(map(parse_denied, denied)),
        tls=TlsConfig(tls_cert, tls_key, tls_port, management_tls_port) if tls_cert else None,
        **listening,
    )
