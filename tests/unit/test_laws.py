"""Laws by name: those that are included, and those of installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

import backpressure
from backpressure import laws
from backpressure.core.controllers import LAWS, LawConfig
from backpressure.core.controllers.window_laws import AimdLaw
from backpressure.core.pacer import Pacer
from backpressure.errors import ConfigError


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "backpressure.core.controllers.window_laws:AimdLaw"
    found = EntryPoints([EntryPoint("window", path, laws.ENTRY_POINTS), EntryPoint("other", path, "others")])
    monkeypatch.setattr(laws, "entry_points", lambda group: found.select(group=group))


def test_a_law_that_a_package_offers_is_built_and_described_by_its_name() -> None:
    assert isinstance(laws.create("window", LawConfig()), AimdLaw)
    assert laws.law_names() == (*LAWS, "window")
    assert laws.describe("window").name == "window"
    assert laws.describe("window").parameters == AimdLaw.PARAMETERS


def test_shipped_names_and_paths_are_found_as_well() -> None:
    assert type(laws.create("pace")).__name__ == "PaceLaw"
    assert isinstance(laws.create("backpressure.core.controllers.window_laws:AimdLaw"), AimdLaw)


def test_an_unknown_law_is_refused_with_all_known_names() -> None:
    for ask in (laws.create, laws.describe):
        with pytest.raises(
            ConfigError, match=r"producer\.strategy = 'third'.*unbounded, .*pace, window, or package\.module"
        ):
            ask("third")


def test_a_pacer_takes_an_offered_law_as_an_object() -> None:
    law = backpressure.create_law("window")
    assert isinstance(Pacer(law, now=0.0)._law, AimdLaw)
