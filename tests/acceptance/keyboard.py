"""A page by keyboard alone: where the keyboard is, how it gets elsewhere, and whether it gets everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chromium import Chromium

__all__ = ["assert_all_can_be_reached", "here", "tab_to"]

MOST_STOPS = 150
HERE = """(() => {
    const at = document.activeElement;
    if (at === document.body || !at) return null;
    const name = at.ariaLabel || at.labels?.[0]?.textContent || at.textContent || at.id;
    const box = at.getBoundingClientRect();
    const style = getComputedStyle(at);
    window.stops ??= new Map();
    if (!window.stops.has(at)) window.stops.set(at, window.stops.size);
    return {
        number: window.stops.get(at),
        is: `${at.tagName.toLowerCase()} ${name.trim().replace(/\\s+/g, ' ').slice(0, 60)}`,
        seen: at.matches(':focus-visible') && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1
            && box.width > 0 && box.height > 0
            && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    };
})()"""
REACHABLE = """[...document.querySelectorAll(
    'a[href], button:enabled, input:enabled, select:enabled, summary, [tabindex="0"]')].filter((one) =>
    one.checkVisibility({ visibilityProperty: true }))"""


def here(chromium: Chromium) -> str:
    """Return what has the keyboard: its tag and name."""
    stop = chromium.run(HERE)
    return str(stop["is"]) if stop else ""


def tab_to(chromium: Chromium, start: str, *, shift: bool = False) -> None:
    """Press Tab until something whose tag and name begin with ``start`` has the keyboard."""
    visited = [here(chromium)]
    while not visited[-1].startswith(start):
        assert len(visited) < MOST_STOPS, f"Tab never reached {start!r}: {visited}"
        chromium.press("Tab", shift=shift)
        visited.append(here(chromium))


def assert_all_can_be_reached(chromium: Chromium) -> None:
    """Tab through the page, and back: every control in the order of the page, its focus visible, and no trap."""
    chromium.run(f"window.stops = new Map(), {REACHABLE}[0].focus()")
    stops = [chromium.run(HERE)]
    while len(stops) < MOST_STOPS:
        chromium.press("Tab")
        stop = chromium.run(HERE)
        if stop is None or stop["number"] == 0:  # past the end
            break
        stops.append(stop)
    names = [stop["is"] for stop in stops]
    numbers = [stop["number"] for stop in stops]
    assert numbers == sorted(set(numbers)), f"the keyboard is held, or goes back: {names}"
    unseen = [stop["is"] for stop in stops if not stop["seen"]]
    assert not unseen, f"not seen where the keyboard is: {unseen}"
    left = chromium.run(f"{REACHABLE}.filter((one) => !window.stops.has(one)).map((one) => one.outerHTML.slice(0, 99))")
    assert not left, f"never reached: {left}"
    for expected in (stops[-1], stops[-2]):
        chromium.press("Tab", shift=True)
        assert chromium.run(HERE)["number"] == expected["number"]
