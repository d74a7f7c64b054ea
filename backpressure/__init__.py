"""Pace matching: hold a queue short, lose nothing, waste no capacity.

Parts for services of your own (``docs/library.md`` shows each in use):

- `Paced`, `SyncPaced`: publish with the client library that you have, at the pace of the consumers, in one line.
- `Limiter`: the same around a call of your own.
- `Pacer`: a law, its view of the loop and a token bucket in one, without I/O, for your own producer.
- `Reporter`: what producers need to know of your own consumer.
- `TokenBucket`, `ConfirmWindow`, `RetryPolicy`, `OrderTracker`: pure state; time is passed in.
- `create_law`, `SignalBoard`, `OwnState`: a rate-control law, and the view of the loop that it decides on.
- `load_settings`, `connect`, `ProducerEngine`, `ConsumerEngine`: whole processes on a broker, with your handler.

Everything that is not in ``__all__`` may change. Names are imported when they are first used, so that
``import backpressure`` costs nothing, and the embedded broker starts without a client library.
"""

from __future__ import annotations

from backpressure.version import __version__

TYPE_CHECKING = False  # `typing` is not imported for it: every program begins here, before it can handle Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from backpressure.config import load as load_settings
    from backpressure.core.board import OwnState, SignalBoard
    from backpressure.core.controllers import LAWS, LawConfig, LawTraits, Parameter
    from backpressure.core.ledger import OrderTracker
    from backpressure.core.limiters import ConfirmWindow, TokenBucket
    from backpressure.core.message import Delivery, Message, Metadata
    from backpressure.core.pacer import Pacer
    from backpressure.core.schedule import RetryPolicy
    from backpressure.core.signals import Decision, Law, Signals
    from backpressure.engines.clock import Clock
    from backpressure.engines.consumer import ConsumerEngine
    from backpressure.engines.producer import ProducerEngine
    from backpressure.engines.work import Handler
    from backpressure.errors import BackpressureError, ConfigError, FeedbackError, PaceError, TransportError
    from backpressure.integrations.limiter import Limiter, PaceStatus
    from backpressure.integrations.paced import Paced, SyncPaced
    from backpressure.laws import create as create_law
    from backpressure.settings import Settings
    from backpressure.transports.factory import connect
    from backpressure.transports.rabbitmq.reporter import Reporter

__all__ = [
    "LAWS",
    "BackpressureError",
    "Clock",
    "ConfigError",
    "ConfirmWindow",
    "ConsumerEngine",
    "Decision",
    "Delivery",
    "FeedbackError",
    "Handler",
    "Law",
    "LawConfig",
    "LawTraits",
    "Limiter",
    "Message",
    "Metadata",
    "OrderTracker",
    "OwnState",
    "PaceError",
    "PaceStatus",
    "Paced",
    "Pacer",
    "Parameter",
    "ProducerEngine",
    "Reporter",
    "RetryPolicy",
    "Settings",
    "SignalBoard",
    "Signals",
    "SyncPaced",
    "TokenBucket",
    "TransportError",
    "__version__",
    "connect",
    "create_law",
    "load_settings",
]

_HOMES = {
    "LAWS": "core.controllers",
    "BackpressureError": "errors",
    "Clock": "engines.clock",
    "ConfigError": "errors",
    "ConfirmWindow": "core.limiters",
    "ConsumerEngine": "engines.consumer",
    "Decision": "core.signals",
    "Delivery": "core.message",
    "FeedbackError": "errors",
    "Handler": "engines.work",
    "Law": "core.signals",
    "LawConfig": "core.controllers",
    "LawTraits": "core.controllers",
    "Limiter": "integrations.limiter",
    "Message": "core.message",
    "Metadata": "core.message",
    "OrderTracker": "core.ledger",
    "OwnState": "core.board",
    "PaceError": "errors",
    "PaceStatus": "integrations.limiter",
    "Paced": "integrations.paced",
    "Pacer": "core.pacer",
    "Parameter": "core.controllers",
    "ProducerEngine": "engines.producer",
    "Reporter": "transports.rabbitmq.reporter",
    "RetryPolicy": "core.schedule",
    "Settings": "settings",
    "SignalBoard": "core.board",
    "Signals": "core.signals",
    "SyncPaced": "integrations.paced",
    "TokenBucket": "core.limiters",
    "TransportError": "errors",
    "connect": "transports.factory",
    "create_law": "laws:create",
    "load_settings": "config:load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see TYPE_CHECKING

    module, _, attribute = _HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute or name)
    return value


def __dir__() -> list[str]:
    return __all__
