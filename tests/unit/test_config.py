"""Where settings come from, which source wins, and the message for a wrong value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from backpressure.catalogue import allowed, find_field, render
from backpressure.config import as_environment, load, replaced
from backpressure.errors import ConfigError
from backpressure.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder: neither this project's config.py nor anybody's .env counts."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ=environ or {})
    return str(caught.value)


def test_without_any_source_the_defaults_hold() -> None:
    assert load(environ={}) == Settings()


@pytest.mark.parametrize("text", ["caf\udce9", "\ud800"])
def test_what_is_not_text_is_refused_wherever_it_comes_from(text: str) -> None:
    assert "producer.text" in refused(environ={"PACE_PRODUCER__TEXT": text})
    message = refused({"producer.text": text})
    assert "is not text" in message
    message.encode()  # a terminal can show it


def test_the_config_file_of_this_project_is_what_pace_init_writes() -> None:
    assert (ROOT / "config.py").read_text(encoding="utf-8") == render()


def test_a_written_config_file_says_nothing_but_the_defaults(folder: Path) -> None:
    (folder / "config.py").write_text(render(), encoding="utf-8")
    assert load(environ={}) == Settings()


def test_each_source_is_stronger_than_the_one_before(folder: Path) -> None:
    assert load(environ={}).broker.host == "localhost"
    (folder / "config.py").write_text('class broker:\n    host = "file"\n', encoding="utf-8")
    assert load(environ={}).broker.host == "file"
    environ = {"RABBITMQ_HOST": "rabbitmq-host"}
    assert load(environ=environ).broker.host == "rabbitmq-host"
    environ["PACE_BROKER__HOST"] = "pace"
    assert load(environ=environ).broker.host == "pace"
    assert load({"broker.host": "flag"}, environ=environ).broker.host == "flag"


def test_the_common_names_reach_their_settings() -> None:
    settings = load(
        environ={
            "RABBITMQ_HOST": "mq",
            "RABBITMQ_PORT": "5673",
            "RABBITMQ_USER": "u",
            "RABBITMQ_PASS": "p",
            "LOG_LEVEL": "debug",
        }
    )
    assert settings.broker.full_url() == "amqp://u:p@mq:5673/%2F"
    assert settings.log.level == "DEBUG"


def test_an_empty_common_name_counts_as_absent() -> None:
    assert load(environ={"RABBITMQ_PORT": ""}) == Settings()


def test_the_dotenv_file_counts_as_environment_that_the_real_one_overrides(folder: Path) -> None:
    (folder / ".env").write_text("PACE_PRODUCER__RATE=7\nRABBITMQ_HOST=mq\nOTHER_PROGRAM=1\n", encoding="utf-8")
    assert load(environ={}).producer.rate == 7
    assert load(environ={}).broker.host == "mq"
    assert load(environ={"PACE_PRODUCER__RATE": "8"}).producer.rate == 8


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_dotenv_file_in_another_encoding_is_named(folder: Path, encoding: str) -> None:
    (folder / ".env").write_text("PACE_PRODUCER__TEXT=café\n", encoding=encoding)
    assert refused() == "environment = '.env': is not UTF-8 text: save it in that encoding"


def test_a_dotenv_file_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / ".env").write_text("PACE_PRODUCER__TEXT=café\n", encoding="utf-8-sig")
    assert load(environ={}).producer.text == "café"


INJECTED = {  # what Kubernetes sets for the services rabbitmq, pace, pace-broker and pace-monitor-metrics
    f"{service}_{suffix}": value
    for service, port in (("RABBITMQ", 5672), ("PACE", 80), ("PACE_BROKER", 5672), ("PACE_MONITOR_METRICS", 8000))
    for suffix, value in {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": str(port),
        "SERVICE_PORT_MAIN_PORT": str(port),
        "PORT": f"tcp://10.0.0.1:{port}",
        f"PORT_{port}_TCP": f"tcp://10.0.0.1:{port}",
        f"PORT_{port}_TCP_PROTO": "tcp",
        f"PORT_{port}_TCP_PORT": str(port),
        f"PORT_{port}_TCP_ADDR": "10.0.0.1",
    }.items()
}
LINKED = {"PACE_BROKER_PORT": "tcp://172.17.0.2:5672", "PACE_BROKER_NAME": "/web/broker", "PACE_BROKER_ENV_LANG": "C"}


@pytest.mark.parametrize("section", list(Settings.model_fields))
def test_what_an_orchestrator_injects_for_a_service_is_not_a_setting(section: str) -> None:
    named = {name.replace("PACE_BROKER", f"PACE_{section.upper()}"): value for name, value in INJECTED.items()}
    assert load(environ=named) == Settings()


def test_what_docker_links_inject_is_not_a_setting() -> None:
    assert load(environ=LINKED) == Settings()


def test_settings_beside_injected_variables_count() -> None:
    own = {"RABBITMQ_HOST": "mq", "PACE_BROKER__PORT": "5673", "PACE_BROKER__HEARTBEAT_S": "7"}
    broker = load(environ=INJECTED | own).broker
    assert (broker.host, broker.port, broker.heartbeat_s) == ("mq", 5673, 7)


def test_a_misspelled_setting_is_not_taken_for_injected() -> None:
    assert "PACE_BROKER_PORT" in refused(environ={"PACE_BROKER_PORT": "5672"})
    assert "PACE_BROKER_NAME" in refused(environ={"PACE_BROKER_NAME": "mq"})
    assert "rabbit" in refused(environ={"RABBITMQ_PORT": "rabbit"})


def test_a_value_that_a_stronger_source_overrides_stops_nothing(folder: Path) -> None:
    (folder / "config.py").write_text("class producer:\n    rate = 'fast'\nclass broker:\n    port = 'amqp'\n")
    environ = {"PACE_CONTROL__PARAMETERS": "{", "RABBITMQ_PORT": "none", "LOG_LEVEL": "chatty"}
    flags = {"producer.rate": 5, "control.parameters": {}, "log.level": "INFO", "broker.url": "amqp://mq/"}
    settings = load(flags, environ=environ)
    assert (settings.producer.rate, settings.broker.address()) == (5, "amqp://mq:5672")


def test_the_host_still_counts_beside_a_url_that_names_none() -> None:
    assert "broker.port" in refused({"broker.url": "amqp:///orders"}, {"RABBITMQ_PORT": "none"})


def test_a_url_stops_for_a_wrong_port_of_its_own_source() -> None:
    assert "broker.port" in refused({"broker.url": "amqp://mq/", "broker.port": 99999})


def test_the_dotenv_file_may_name_the_config_file(folder: Path) -> None:
    (folder / ".env").write_text("PACE_CONFIG=mine.py\n", encoding="utf-8")
    (folder / "mine.py").write_text("class producer:\n    rate = 3\n", encoding="utf-8")
    assert load(environ={}).producer.rate == 3


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PACE_PRODUCER__RATE", "12")
    assert load().producer.rate == 12


def test_a_stronger_host_is_not_hidden_by_a_weaker_url(folder: Path) -> None:
    (folder / "config.py").write_text('class broker:\n    url = "amqp://file/"\n', encoding="utf-8")
    assert load(environ={}).broker.address() == "amqp://file:5672"
    assert load(environ={"RABBITMQ_HOST": "mq"}).broker.address() == "amqp://mq:5672"
    assert load({"broker.port": 1}, environ={"PACE_BROKER__URL": "amqp://mq/"}).broker.address() == "amqp://localhost:1"
    assert load({"broker.url": "amqp://flag/"}, environ={"RABBITMQ_HOST": "mq"}).broker.address() == "amqp://flag:5672"


def test_pace_config_names_another_file_and_the_argument_yet_another(folder: Path) -> None:
    for rate in (1, 2, 3):
        (folder / f"{rate}.py").write_text(f"class producer:\n    rate = {rate}\n", encoding="utf-8")
    (folder / "1.py").rename(folder / "config.py")
    assert load(environ={}).producer.rate == 1
    assert load(environ={"PACE_CONFIG": "2.py"}).producer.rate == 2
    assert load(environ={"PACE_CONFIG": "2.py"}, config_file=folder / "3.py").producer.rate == 3
    assert load(environ={"PACE_CONFIG": ""}).producer.rate == 1000


@pytest.mark.parametrize(("text", "value"), [("none", None), ("None", None), ("5", 5)])
def test_none_unsets_what_may_be_unset(text: str, value: int | None) -> None:
    assert load(environ={"PACE_QUEUE__MAX_LENGTH": text}).queue.max_length == value


def test_none_is_a_text_like_any_other_where_a_text_is_expected() -> None:
    assert load(environ={"PACE_PRODUCER__TEXT": "none"}).producer.text == "none"


def test_a_table_is_given_as_json() -> None:
    settings = load(environ={"PACE_CONTROL__PARAMETERS": '{"aimd": {"backoff": 0.9}}'})
    assert settings.control.parameters == {"aimd": {"backoff": 0.9}}


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_as_fast_as_can_be_is_zero_or_max_wherever_it_comes_from(role: str, folder: Path) -> None:
    key, name = f"{role}.rate", f"PACE_{role.upper()}__RATE"
    loaded = [load({key: value}, environ={}) for value in (0, "max", "MAX")]
    loaded += [load(environ={name: value}) for value in ("0", "max")]
    for value in ("0", '"max"'):
        (folder / "config.py").write_text(f"class {role}:\n    rate = {value}\n", encoding="utf-8")
        loaded.append(load(environ={}))
    assert [getattr(settings, role).rate for settings in loaded] == [0.0] * 7
    assert loaded[0].producer.offered_per_s == (inf if role == "producer" else 1000)
    assert loaded[0].consumer.mean_service_s == (0 if role == "consumer" else 0.01)
    assert load(environ=as_environment(loaded[0])) == loaded[0]


def test_what_has_become_a_parameter_of_a_law_is_read_under_its_former_name_with_a_notice(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = "class control:\n    rate_limit = 50\n    depth_threshold = 9\n"
    (folder / "config.py").write_text(file, encoding="utf-8")
    environ = {"PACE_CONTROL__REDUCTION_FACTOR": "0.5", "PACE_CONTROL__PARAMETERS": '{"aimd": {"backoff": 0.7}}'}
    assert load({"control.rate_limit": 70}, environ=environ).control.parameters == {
        "aimd": {"backoff": 0.7},
        "rate_limited": {"rate_per_s": 70},
        "threshold": {"reduction_factor": 0.5, "pressure_depth": 9},
    }
    assert sorted(caplog.messages) == [
        "control.depth_threshold (from config.py) is read; its name is now control.parameters.threshold.pressure_depth",
        "control.rate_limit (from command line) is read; its name is now control.parameters.rate_limited.rate_per_s",
        (
            "control.reduction_factor (from environment, PACE_CONTROL__REDUCTION_FACTOR) is read; its name is now "
            "control.parameters.threshold.reduction_factor"
        ),
    ]


def test_between_a_parameter_and_its_former_name_the_stronger_source_wins(folder: Path) -> None:
    (folder / "config.py").write_text("class control:\n    rate_limit = 50\n", encoding="utf-8")
    present = '{"rate_limited": {"rate_per_s": 7}}'
    assert load(environ={"PACE_CONTROL__PARAMETERS": present}).control.parameters["rate_limited"] == {"rate_per_s": 7}
    (folder / "config.py").write_text(f"class control:\n    parameters = {present}\n", encoding="utf-8")
    assert load(environ={"PACE_CONTROL__RATE_LIMIT": "8"}).control.parameters["rate_limited"] == {"rate_per_s": 8}
    changed = replaced(load(environ={}), {"control.rate_limit": 9})
    assert replaced(changed, {"control.rate_limit": 10}).control.parameters == {"rate_limited": {"rate_per_s": 10}}


@pytest.mark.parametrize(
    ("key", "value"),
    [("control.rate_limit", 0), ("control.reduction_factor", 1.5), ("control.depth_threshold", "deep")],
)
def test_a_wrong_value_under_a_former_name_is_named_by_it(key: str, value: object) -> None:
    assert refused({key: value}).startswith(f"{key} = {value!r} (from command line): expected a number ≥ ")


MISTAKES = {
    "a number too small, from a flag": (
        {"producer.rate": -1},
        {},
        "producer.rate = -1 (from command line): expected a number ≥ 0 and ≤ 10000000, or max (msg/s)",
    ),
    "a number too large, from the environment": (
        {},
        {"PACE_PRODUCER__PAYLOAD_BYTES": "99999999"},
        (
            "producer.payload_bytes = '99999999' (from environment, PACE_PRODUCER__PAYLOAD_BYTES): "
            "expected a whole number ≥ 0 and ≤ 16777216 (bytes)"
        ),
    ),
    "no number, under a common name": (
        {},
        {"RABBITMQ_PORT": "abc"},
        "broker.port = 'abc' (from environment, RABBITMQ_PORT): expected a whole number ≥ 0 and ≤ 65535",
    ),
    "none of the choices": (
        {},
        {"LOG_LEVEL": "loud"},
        "log.level = 'loud' (from environment, LOG_LEVEL): expected DEBUG or INFO or WARNING or ERROR",
    ),
    "what may be unset": (
        {},
        {"PACE_QUEUE__MAX_LENGTH": "0"},
        (
            "queue.max_length = '0' (from environment, PACE_QUEUE__MAX_LENGTH): "
            "expected a whole number ≥ 1 or none (messages)"
        ),
    ),
    "a switch": (
        {},
        {"PACE_BROKER__WAIT": "maybe"},
        "broker.wait = 'maybe' (from environment, PACE_BROKER__WAIT): expected true or false",
    ),
    "a misspelled setting": (
        {"producer.rat": 5},
        {},
        "producer.rat = 5 (from command line): unknown setting; did you mean rate?",
    ),
    "a misspelled section": (
        {},
        {"PACE_PRODUCE__RATE": "5"},
        "produce.rate = '5' (from environment, PACE_PRODUCE__RATE): unknown setting; did you mean producer or process?",
    ),
    "a setting without its section": (
        {},
        {"PACE_RATE": "5"},
        "rate = '5' (from environment, PACE_RATE): unknown setting; did you mean producer.rate or consumer.rate?",
    ),
    "settings that contradict each other, each from elsewhere": (
        {"queue.type": "quorum"},
        {"PACE_QUEUE__DURABLE": "false", "PACE_QUEUE__WORK": "w"},
        (
            "queue = {'queue.durable': 'false', 'queue.type': 'quorum'} "
            "(from environment, PACE_QUEUE__DURABLE; command line): "
            "a quorum queue is always durable: set durable = True or another type"
        ),
    ),
}


@pytest.mark.parametrize(("flags", "environ", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_key_value_source_and_what_is_allowed(
    flags: Mapping[str, Any], environ: Mapping[str, str], text: str
) -> None:
    assert refused(flags, environ) == text


def test_broken_json_is_one_clear_message() -> None:
    text = refused(environ={"PACE_CONTROL__PARAMETERS": "{aimd"})
    assert text.startswith(
        "control.parameters = '{aimd' (from environment, PACE_CONTROL__PARAMETERS): expected a table"
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (5, "expected a table"),
        ({"aimd": 5}, "aimd: input should be a valid dictionary"),
        ({"aimd": {"backoff": "x"}}, "aimd.backoff: input should be a valid number"),
    ],
)
def test_a_table_of_the_wrong_shape_is_named_by_its_setting_and_by_what_is_wrong_in_it(
    value: object, problem: str
) -> None:
    text = refused({"control.parameters": value})
    assert text.startswith("control.parameters = ")
    assert problem in text


def test_a_mistake_in_the_file_names_the_file(folder: Path) -> None:
    (folder / "config.py").write_text("class consumer:\n    prefetch = 0\n", encoding="utf-8")
    assert refused() == "consumer.prefetch = 0 (from config.py): expected a whole number ≥ 1 and ≤ 65535, or auto"


def test_an_unknown_class_in_the_file_is_named(folder: Path) -> None:
    (folder / "config.py").write_text("class prodcer:\n    rate = 1\n", encoding="utf-8")
    assert "prodcer = 'class' (from config.py): unknown setting; did you mean producer or process?" in refused()


@pytest.mark.parametrize("content", ["class producer\n", "1 / 0\n", "import nowhere_to_be_found\n"])
def test_a_file_that_cannot_be_run_is_one_clear_message(content: str, folder: Path) -> None:
    (folder / "config.py").write_text(content, encoding="utf-8")
    assert refused().startswith("config = 'config.py': cannot be read: ")


def test_the_config_file_may_compute_and_import(folder: Path) -> None:
    content = (
        "from pathlib import Path\nfrom math import sqrt\n\nBASE = 50\n\nclass producer:\n    rate = BASE * sqrt(4)\n"
    )
    (folder / "config.py").write_text(content, encoding="utf-8")
    assert load(environ={}).producer.rate == 100


def test_a_file_that_is_not_there_is_named() -> None:
    assert refused(environ={"PACE_CONFIG": "mine.py"}) == "config = 'mine.py': no such file"


@pytest.mark.parametrize(
    "environ",
    [
        {"PACE_BROKER__PASWORD": "hunter2"},
        {"PACE_API__TOKENS": "hunter2"},
        {"PACE_BROKER__URL": "http://guest:hunter2@mq/"},
        {"PACE_BROKER__PASSWORD": "hunter2", "PACE_BROKER__RECONNECT_MIN_S": "99"},
        {"RABBITMQ_PASS": "hunter2", "RABBITMQ_PORT": "x"},
    ],
)
def test_no_mistake_reveals_a_secret(environ: Mapping[str, str]) -> None:
    assert "hunter2" not in refused(environ=environ)


def test_variables_that_are_not_settings_are_left_alone() -> None:
    assert load(environ={"PACE_REQUIRE_BROKERS": "rabbitmq", "PATH": "/bin", "PACEMAKER": "1"}) == Settings()


@pytest.mark.parametrize(
    ("strategy", "bound"),
    [("unbounded", (None, "drop-head")), ("bounded", (7, "reject-publish")), ("rate_limited", (7, "drop-head"))],
)
def test_a_strategy_brings_its_bound_over_that_of_a_weaker_source(
    strategy: str, bound: tuple[int | None, str], folder: Path
) -> None:
    file = 'class queue:\n    max_length = 7\n    overflow = "drop-head"\n'
    (folder / "config.py").write_text(file, encoding="utf-8")
    by_flag = load({"producer.strategy": strategy}, environ={}).queue
    by_environment = load(environ={"PACE_PRODUCER__STRATEGY": strategy}).queue
    assert (by_flag.max_length, by_flag.overflow) == bound
    assert by_environment == by_flag


def test_the_strategy_bounded_has_a_bound_where_none_is_set() -> None:
    environ = {"PACE_QUEUE__MAX_LENGTH": "none"}
    assert load({"producer.strategy": "bounded"}, environ=environ).queue.max_length == 10_000


def test_a_bound_stated_as_strongly_as_the_strategy_holds(folder: Path) -> None:
    assert load({"producer.strategy": "unbounded", "queue.max_length": 5}, environ={}).queue.max_length == 5
    environ = {"PACE_PRODUCER__STRATEGY": "unbounded", "PACE_QUEUE__MAX_LENGTH": "10000"}
    assert load(environ=environ).queue.max_length == 10_000
    file = 'class producer:\n    strategy = "unbounded"\nclass queue:\n    max_length = 500\n'
    (folder / "config.py").write_text(file, encoding="utf-8")
    assert load(environ={}).queue.max_length == 500


def test_the_strategy_in_a_config_file_brings_its_bound_although_the_file_states_every_default(
    folder: Path,
) -> None:
    (folder / "config.py").write_text(render().replace('strategy = "pace"', 'strategy = "unbounded"'), encoding="utf-8")
    assert load(environ={}).queue.max_length is None


def test_replacing_changes_all_or_nothing() -> None:
    before = load({"producer.rate": 5}, environ={})
    after = replaced(before, {"consumer.rate": 7})
    assert (after.producer.rate, after.consumer.rate, before.consumer.rate) == (5, 7, 100)
    with pytest.raises(ConfigError, match=r"consumer\.rate = -1 \(from request\)"):
        replaced(before, {"producer.rate": 6, "consumer.rate": -1})
    assert before == load({"producer.rate": 5}, environ={})


# A NUL cannot be in an environment variable, nor a lone surrogate.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "producer.rate": st.floats(1e-6, 1e7),
        "producer.text": TEXT | st.sampled_from(["none", "{", "[1]", "'", " "]),
        "producer.purge": st.booleans(),
        "producer.processing_time_s": st.none() | st.floats(0, 10),
        "consumer.prefetch": st.just("auto") | st.integers(1, 65535),
        "queue.max_length": st.none() | st.integers(1, 10**9),
        "queue.type": st.sampled_from(["classic", "lazy"]),
        "broker.password": TEXT,
        "broker.url": st.sampled_from(["", "amqp://u:p@h:1/v"]),
        "control.parameters": st.dictionaries(TEXT, st.dictionaries(TEXT, st.floats(-5, 5)), max_size=2),
        "process.seed": st.none() | st.integers(0),
    },
)


@given(CHANGES)
@hypothesis_settings(  # the folder is only read
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_another_process_gets_exactly_these_settings_through_its_environment(changes: dict[str, Any]) -> None:
    settings = load(changes, environ={"PACE_CONFIG": ""})
    assert load(environ=as_environment(settings)) == settings


def test_handed_on_settings_overrule_the_other_process_own_surroundings(folder: Path) -> None:
    (folder / ".env").write_text("PACE_PRODUCER__RATE=7\nRABBITMQ_HOST=mq\n", encoding="utf-8")
    (folder / "config.py").write_text("class consumer:\n    rate = 7\n", encoding="utf-8")
    assert load(environ=as_environment(Settings())) == Settings()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("producer.rate", "a number ≥ 0 and ≤ 10000000, or max (msg/s)"),
        ("consumer.prefetch", "a whole number ≥ 1 and ≤ 65535 or auto (messages)"),
        ("queue.work", "text"),
        ("broker.password", "text"),
        ("queue.durable", "true or false"),
        ("control.floor_per_s", "a number > 0 or none (msg/s)"),
        ("queue.type", "classic or quorum or lazy"),
        ("control.parameters", "a table"),
    ],
)
def test_what_is_allowed_is_said_in_words(key: str, text: str) -> None:
    assert allowed(find_field(key)) == text


def _is_named(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> bool:
    asked: list[bool] = []

    def discover(_settings: Settings, named: bool) -> dict[str, Any]:
        asked.append(named)
        return {} if named else {"broker.url": "amqp://found/"}

    found = load(flags, environ=environ or {}, discover=discover)
    assert (found.broker.url == "amqp://found/") == (not asked[0])
    return asked[0]


def test_without_a_broker_in_any_source_one_may_be_found(folder: Path) -> None:
    assert not _is_named()
    assert not _is_named(environ={"PACE_BROKER__URL": "", "RABBITMQ_HOST": "", "RABBITMQ_USER": "me"})
    (folder / "config.py").write_text(render())  # every setting, at its default
    assert not _is_named()


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ({"broker.url": "kafka://mq"}, {}),
        ({"broker.host": "localhost"}, {}),
        ({"broker.port": 5672}, {}),
        ({}, {"RABBITMQ_HOST": "localhost"}),
        ({}, {"PACE_BROKER__PORT": "5672"}),
        ({}, {"PACE_BROKER__URL": "amqp://mq/"}),
    ],
)
def test_a_source_that_names_a_broker_is_obeyed(flags: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    assert _is_named(flags, environ)


def test_a_config_file_with_another_broker_names_it(folder: Path) -> None:
    (folder / "config.py").write_text("class broker:\n    port = 5673\n")
    assert _is_named()


def test_a_predeclared_queue_is_reached_by_the_default_exchange_unless_one_was_chosen() -> None:
    plain = load({"queue.predeclared": True, "queue.work": "orders"}, environ={"PACE_CONFIG": ""}).queue
    assert (plain.exchange, plain.key) == ("", "orders")
    chosen = {"PACE_CONFIG": "", "PACE_QUEUE__EXCHANGE": "direct.exchange", "PACE_QUEUE__ROUTING_KEY": "order"}
    named = load({"queue.predeclared": True}, environ=chosen).queue
    assert (named.exchange, named.key) == ("direct.exchange", "order")


def test_a_default_written_by_pace_init_chooses_no_exchange_for_a_predeclared_queue(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text(render(), encoding="utf-8")
    assert load({"queue.predeclared": True}, config_file=file, environ={}).queue.exchange == ""
    file.write_text(render().replace('"direct.exchange"', '"shop"'), encoding="utf-8")
    assert load({"queue.predeclared": True}, config_file=file, environ={}).queue.exchange == "shop"


def test_a_strategy_states_no_bound_for_a_predeclared_queue() -> None:
    flags = {"queue.predeclared": True, "producer.strategy": "unbounded"}
    assert load(flags, environ={"PACE_CONFIG": ""}).queue.max_length == Settings().queue.max_length


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"queue.exchange": ""}, "predeclared"), ({"queue.predeclared": True, "queue.auditing": True}, "auditing")],
)
def test_settings_that_need_a_declaration_and_none_at_once_are_refused(changes: dict[str, Any], named: str) -> None:
    assert named in refused(changes)
