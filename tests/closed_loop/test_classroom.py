"""The classroom's model in JavaScript behaves as the one in Python, message for message, under every law it has."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from backpressure.core.controllers import LAWS, LawConfig, create, traits
from backpressure.core.plant import Plant, PlantProducer, QueueBound, Workers
from backpressure.dashboards.classroom import assets

NODE = shutil.which("node")
TOLERANCE = 1e-6
Settings = dict[str, Any]
Story = list[tuple[float, Settings]]

DEFAULTS: Settings = {
    "law": "pace", "parameters": {}, "demandPerS": 1000.0, "consumers": 1, "ratePerS": 100.0, "distribution": "fixed",
    "prefetch": 5, "maxLength": None, "overflow": "reject-publish", "paused": False, "blocked": False, "seed": 7,
}  # fmt: skip
STORIES: dict[str, Story] = {
    "steps": [(10, {}), (10, {"ratePerS": 20.0}), (10, {"ratePerS": 300.0}), (10, {"ratePerS": 100.0})],
    "random service": [(20, {"distribution": "exponential"}), (20, {"distribution": "uniform", "ratePerS": 40.0})],
    "several consumers": [(10, {"consumers": 4}), (10, {"consumers": 1}), (15, {"consumers": 3, "prefetch": 20})],
    "pause and return": [(10, {"demandPerS": 150.0}), (6, {"paused": True}), (15, {"paused": False})],
    "a bound refuses": [(15, {"maxLength": 20, "distribution": "exponential", "ratePerS": 50.0})],
    "a bound drops": [(15, {"maxLength": 30, "overflow": "drop-head", "demandPerS": 130.0})],
    "less than the capacity": [(10, {"demandPerS": 60.0}), (10, {"demandPerS": 140.0}), (10, {"demandPerS": 30.0})],
    "blocked for a while": [(8, {}), (4, {"blocked": True}), (10, {"blocked": False})],
    "a burst": [(8, {"demandPerS": 80.0, "burst": 300}), (12, {})],
}
LAWS_OF_PAGE = [law for law in LAWS if law not in {"vegas", "gradient2"}]
SCRIPT = """
import { Plant } from %s;
let input = "";
for await (const chunk of process.stdin) input += chunk;
const { defaults, laws, stories } = JSON.parse(input);
function played(law, story) {
  const plant = new Plant({ ...defaults, law, ...story[0][1] });
  story.forEach(([durationS, { burst, ...changes }], index) => {
    if (index) plant.change(changes);
    if (burst) plant.burst(burst);
    plant.run(durationS);
  });
  return { samples: plant.samples, reason: plant.producer.decision.reason };
}
const all = {};
for (const law of laws) {
  all[law] = {};
  for (const [name, story] of Object.entries(stories)) all[law][name] = played(law, story);
}
process.stdout.write(JSON.stringify(all));
"""


def uniform_from(seed: int) -> Callable[[], float]:
    """Return the generator that the page uses (mulberry32)."""
    state = seed & 0xFFFFFFFF

    def draw() -> float:
        nonlocal state
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        t = ((state ^ (state >> 15)) * (state | 1)) & 0xFFFFFFFF
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
        return ((t ^ (t >> 14)) & 0xFFFFFFFF) / 4294967296

    return draw


def workers(settings: Settings) -> Workers:
    return Workers(
        count=settings["consumers"],
        rate_per_s=settings["ratePerS"],
        distribution=settings["distribution"],
        prefetch=settings["prefetch"],
        state="paused" if settings["paused"] else "working",
    )


def bound(settings: Settings) -> QueueBound:
    limited = traits(settings["law"]).queue_bound != "none"
    return QueueBound(
        max_length=settings["maxLength"] if limited else None,
        overflow=settings["overflow"],
        blocked=settings["blocked"],
    )


def in_python(law: str, story: Story) -> tuple[Plant, PlantProducer]:
    settings = DEFAULTS | {"law": law} | story[0][1]
    plant = Plant(
        uniform_from(settings["seed"]),
        service=uniform_from(settings["seed"] + 1),
        workers=workers(settings),
        queue=bound(settings),
    )
    producer = plant.add_producer(create(law, LawConfig()), settings["demandPerS"], retry=traits(law).retries)
    for number, (duration_s, changes) in enumerate(story):
        before, settings = settings, settings | changes
        if number and workers(before) != workers(settings):
            plant.set_workers(workers(settings))
        plant.set_queue(bound(settings))
        producer.demand_per_s = settings["demandPerS"]
        for _ in range(changes.get("burst", 0)):
            plant.queue.arrive(plant.now)
        plant.run(duration_s)
    return plant, producer


@cache
def in_javascript() -> dict[str, dict[str, Any]]:
    """Play every story under every law, in one process: `samples` and the last `reason`, by law and story."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--input-type=module", "--eval", SCRIPT % json.dumps(assets()["plant.js"].as_uri())],
        input=json.dumps({"defaults": DEFAULTS, "laws": LAWS_OF_PAGE, "stories": STORIES}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(NODE is None, reason="no node to run the page's model with")
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("law", LAWS_OF_PAGE)
def test_page_and_plant_agree_message_for_message(law: str, story: str) -> None:
    plant, producer = in_python(law, STORIES[story])
    told = in_javascript()[law][story]
    samples = told["samples"]
    assert len(samples) == len(plant.samples)
    for ours, theirs in zip(plant.samples, samples, strict=True):
        counts = (ours.depth, ours.ready, ours.arrived, ours.processed, ours.nacked, ours.rejected, ours.dropped)
        names = ("depth", "ready", "arrived", "processed", "nacked", "rejected", "dropped")
        assert counts == tuple(theirs[name] for name in names), f"at {ours.at_s} s"
        rate = ours.rates_per_s[0]  # JSON has no infinity
        assert theirs["ratePerS"] == (None if rate == float("inf") else pytest.approx(rate, rel=TOLERANCE))
    assert told["reason"] == producer.decision.reason
    waits = [wait for sample in samples for wait in sample["waits"]]
    assert waits == pytest.approx(list(plant.queue.waits_s)[: len(waits)], abs=TOLERANCE)
