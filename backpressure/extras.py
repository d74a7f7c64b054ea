"""Which optional libraries belong to which extra, and what is said where one is missing.

The core of the package needs none of them. A module that does calls `require` before it imports the library, so that
whoever misses it reads one line instead of a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from backpressure.errors import MissingExtraError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "bench": ("fastapi", "fastapi_swagger", "httpx", "rich", "starlette", "uvicorn"),
    "kafka": ("confluent_kafka",),
    "aio-pika": ("aio_pika",),
    "aiokafka": ("aiokafka", "confluent_kafka"),
    "celery": ("celery",),
    "dramatiq": ("dramatiq",),
    "faststream": ("faststream.rabbit",),
    "faststream-kafka": ("faststream.kafka", "confluent_kafka"),
    "kombu": ("kombu",),
    "taskiq": ("taskiq", "taskiq_aio_pika"),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}
"""Extra → the packages it brings, as they are imported."""


def lacks(extra: str) -> bool:
    """Return whether a library of ``extra`` is not installed; imports none."""
    return not all(map(_is_installed, EXTRAS[extra]))


def require(extra: str, feature: str) -> None:
    """Raise `MissingExtraError`, which says that ``feature`` needs it, unless ``extra`` is installed."""
    if lacks(extra):
        raise MissingExtraError(extra, feature)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package it would be in is missing, too
        return False
    except ValueError:  # it is imported, and loads its parts when they are used, as kombu does: it has no specification
        return True
