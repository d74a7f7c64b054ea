"""The settings themselves: each declared with unit and reason, each within its limits."""

from __future__ import annotations

import getpass
import os
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from backpressure.config import replaced
from backpressure.errors import ConfigError
from backpressure.settings import (
    ApiSettings,
    BrokerSettings,
    ConsumerSettings,
    ControlSettings,
    MonitorSettings,
    ProducerSettings,
    QueueSettings,
    Settings,
)

EVERY_SETTING = {
    f"{section}.{name}": field
    for section, model in ((name, field.annotation) for name, field in Settings.model_fields.items())
    for name, field in model.model_fields.items()  # type: ignore[union-attr]  # every field of Settings is a section
}
UNITS = {"_s": "s", "_ms": "ms", "_ns": "ns", "_bytes": "bytes", "_per_s": "msg/s", "_percent": "%"}


@pytest.mark.parametrize("key", EVERY_SETTING)
def test_every_setting_says_in_one_line_why_it_exists(key: str) -> None:
    reason = EVERY_SETTING[key].description
    assert reason
    assert "\n" not in reason
    assert not reason.endswith(".")


def unit_in_name(key: str) -> str | None:
    return next((UNITS[suffix] for suffix in sorted(UNITS, key=len, reverse=True) if key.endswith(suffix)), None)


@pytest.mark.parametrize("key", [key for key in EVERY_SETTING if unit_in_name(key)])
def test_a_unit_in_a_name_is_the_unit_declared(key: str) -> None:
    declared: FieldInfo = EVERY_SETTING[key]
    assert declared.json_schema_extra == {"unit": unit_in_name(key)}


def test_all_defaults_are_valid() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()


def test_the_defaults_are_the_classic_mismatch() -> None:
    settings = Settings()
    assert (settings.producer.rate, settings.consumer.rate, settings.producer.batch_size) == (1000, 100, 50)
    assert (settings.queue.max_length, settings.queue.overflow) == (10_000, "reject-publish")
    assert (settings.monitor.depth_threshold, settings.monitor.memory_threshold_percent) == (5_000, 80)
    assert (settings.monitor.latency_threshold_ms, settings.control.target_wait_ms) == (1_000, 20)
    assert (settings.monitor.port, settings.api.producer_port, settings.api.consumer_port) == (8000, 5000, 8001)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="rat"):
        ProducerSettings.model_validate({"rat": 5})


def test_a_setting_stays_validated_when_it_is_changed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.producer.rate = -1
    assert settings.producer.rate == 1000


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1])
def test_a_rate_is_finite_and_not_negative(rate: float) -> None:
    with pytest.raises(ValidationError):
        ConsumerSettings(rate=rate)


@pytest.mark.parametrize(("given", "prefetch"), [("auto", "auto"), (1, 1), ("65535", 65535)])
def test_prefetch_is_a_number_or_auto(given: object, prefetch: object) -> None:
    assert ConsumerSettings.model_validate({"prefetch": given}).prefetch == prefetch


@pytest.mark.parametrize("given", [0, 65536, "0", "many", "", "٣", 2.5, True, None])
def test_any_other_prefetch_is_refused_with_one_sentence(given: object) -> None:
    with pytest.raises(ValidationError, match="expected a whole number ≥ 1 and ≤ 65535, or auto") as caught:
        ConsumerSettings.model_validate({"prefetch": given})
    assert caught.value.error_count() == 1


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="quorum queue is always durable"):
        QueueSettings(type="quorum", durable=False)
    with pytest.raises(ValidationError, match="processing_max_ms must not be below"):
        ConsumerSettings(processing_min_ms=20, processing_max_ms=10)
    with pytest.raises(ValidationError, match="reconnect_max_s must not be below"):
        BrokerSettings(reconnect_min_s=20)
    with pytest.raises(ValidationError, match="floor_per_s must not be above ceiling_per_s"):
        ControlSettings(floor_per_s=20, ceiling_per_s=10)


def test_the_broker_url_is_put_together_from_its_parts() -> None:
    broker = BrokerSettings(host="mq", port=5673, username="a@b", password=SecretStr("p/w"), virtual_host="lab")
    assert broker.full_url() == "amqp://a%40b:p%2Fw@mq:5673/lab"
    assert BrokerSettings().full_url() == "amqp://guest:guest@localhost:5672/%2F"
    assert BrokerSettings(host="::1").full_url() == "amqp://guest:guest@[::1]:5672/%2F"


@pytest.mark.parametrize("section", [BrokerSettings, ApiSettings, MonitorSettings])
@pytest.mark.parametrize(
    ("given", "host"),
    [("[::1]", "::1"), ("::1", "::1"), ("[fe80::1%eth0]", "fe80::1%eth0"), ("mq_1.example", "mq_1.example")],
)
def test_a_host_may_be_an_address_in_the_brackets_of_a_url(section: Any, given: str, host: str) -> None:
    assert section(host=given).host == host


@pytest.mark.parametrize("section", [BrokerSettings, ApiSettings, MonitorSettings])
@pytest.mark.parametrize(
    "given",
    [
        "[::1", "::1]", "[]", "[localhost]", "localhost:5672", "http://localhost", "a b", "a/b", "me@mq", "a..b",
        "x" * 64, "\x1b[2J", "::1::2", "1.2.3.4:5", "%41",
    ],
)  # fmt: skip
def test_what_is_not_a_host_is_refused_with_an_example(section: Any, given: str) -> None:
    with pytest.raises(ValidationError, match=r"expected a host name or an address .* example localhost"):
        section(host=given)


@pytest.mark.parametrize("url", ["amqp://[::1", "amqp://::1:5672/", "amqp://::1/", "amqp://a:b/", "amqp://x]:1/"])
def test_a_url_whose_host_cannot_be_read_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValidationError, match=r"IPv6 address in brackets, for example \[::1\]:5672"):
        BrokerSettings(url=url)
    with pytest.raises(ValidationError, match=r"IPv6 address in brackets, for example \[::1\]:5672"):
        BrokerSettings(management_url=url.replace("amqp", "http"))


@pytest.mark.parametrize(
    ("section", "field", "most"),
    [
        (QueueSettings, "work", 200), (QueueSettings, "exchange", 200), (QueueSettings, "routing_key", 200),
        (ConsumerSettings, "name", 200), (BrokerSettings, "virtual_host", 255),
    ],
)  # fmt: skip
def test_names_are_counted_in_octets(section: Any, field: str, most: int) -> None:
    for name in ("n" * most, "é" * (most // 2)):
        assert getattr(section(**{field: name}), field) == name
    for name in ("n" * (most + 1), "é" * (most // 2 + 1)):
        with pytest.raises(ValidationError, match=f"expected at most {most} octets in UTF-8"):
            section(**{field: name})


def test_the_virtual_host_of_a_url_is_counted_in_octets() -> None:
    assert BrokerSettings(url=f"amqp://mq/{'%C3%A9' * 127}")
    with pytest.raises(ValidationError, match="at most 255 octets"):
        BrokerSettings(url=f"amqp://mq/{'%C3%A9' * 128}")


def test_a_url_wins_over_the_parts() -> None:
    assert BrokerSettings(url="amqps://u:p@mq/v", host="other").full_url() == "amqps://u:p@mq/v"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("", "amqp://localhost:5672"),
        ("amqp://u:secret@mq/", "amqp://mq:5672"),
        ("amqp://u:secret@mq/%2F", "amqp://mq:5672"),
        ("amqps://u:secret@mq:999/lab", "amqps://mq:999/lab"),
        ("amqps://mq", "amqps://mq:5671"),
        ("kafka://mq", "kafka://mq:9092"),
        ("amqp://u:secret@[::1]:1", "amqp://[::1]:1"),
    ],
)
def test_the_address_to_show_has_a_port_and_no_password(url: str, address: str) -> None:
    assert BrokerSettings(url=url).address() == address


@pytest.mark.parametrize(
    "url",
    [
        "http://mq", "mq:5672", "localhost", "amqp://mq:99999/", "amqp://mq:x/", "kafka://", "kafka://one,,two",
        "kafka://one:99999", "kafka://one:0", "kafka://one:x,two", "kafka://one two", "kafka://user:pw@",
    ],
)  # fmt: skip
def test_a_url_that_leads_to_no_broker_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        BrokerSettings(url=url)


@pytest.mark.parametrize("key", EVERY_SETTING)
def test_an_error_shows_every_value_but_those_of_secrets(key: str) -> None:
    is_secret = EVERY_SETTING[key].annotation is SecretStr
    assert ("hunter2" in str(ConfigError(key, "hunter2", "refused"))) != is_secret


@pytest.mark.parametrize("between", "/?#")
@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("broker.url", "amqp://ann:5ecr{}e7@host:5672/"), ("broker.url", "kafka://ann:5ecr{}e7@host:9092"),
        ("lab.kafka_url", "kafka://ann:5ecr{}e7@host:9092"), ("broker.management_url", "http://ann:5ecr{}e7@host:1"),
    ],
)  # fmt: skip
def test_a_password_that_cuts_its_url_in_two_is_refused_and_no_part_of_it_shown(
    setting: str, url: str, between: str
) -> None:
    with pytest.raises(ConfigError, match=r"/ is written as %2F") as caught:
        replaced(Settings(), {setting: url.format(between)})
    assert "5ecr" not in str(caught.value)
    assert "e7" not in str(caught.value)


def test_secrets_do_not_show_in_a_printout() -> None:
    assert "hunter2" not in repr(BrokerSettings(password=SecretStr("hunter2")))


def test_a_producer_is_called_after_its_user_unless_it_is_named() -> None:
    assert ProducerSettings().identity() == getpass.getuser()
    assert ProducerSettings(producer_id="alice").identity() == "alice"


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("no username"), ImportError("pwd")])
def test_a_user_without_a_name_is_called_by_the_number(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert ProducerSettings().identity() == f"user-{os.getuid()}"


def test_the_mean_work_follows_from_the_distribution() -> None:
    assert ConsumerSettings(rate=50).mean_service_s == 0.02
    uniform = ConsumerSettings(distribution="uniform", processing_min_ms=10, processing_max_ms=30)
    assert uniform.mean_service_s == 0.02


def test_consumers_of_two_hosts_have_two_names_though_both_are_process_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr("socket.gethostname", lambda: "c0ffee")
    assert ConsumerSettings().identity() == "consumer-c0ffee-1"
    assert ConsumerSettings(name="mine").identity() == "mine"
