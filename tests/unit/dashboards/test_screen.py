"""A frame replaces the last one on a terminal of any height: it covers all of it, and nothing scrolls."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from backpressure.core.snapshot import Snapshot
from backpressure.dashboards import screen
from backpressure.dashboards.screen import Cards, _Screenful


@pytest.mark.parametrize("height", [3, 12, 40, 90])
@pytest.mark.parametrize("width", [60, 200])
def test_a_screenful_covers_every_line_once_and_ends_on_the_last(
    snapshot: Callable[..., Snapshot], width: int, height: int
) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(_Screenful(Cards(snapshot())), end="", crop=False)
    home, text = file.getvalue()[:3], file.getvalue()[3:]
    assert home == "\x1b[H"
    assert [len(line) for line in text.split("\n")] == [width] * height


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    snapshot: Callable[..., Snapshot], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.StringIO()
    dumb = Console(file=file, force_terminal=True, _environ={"TERM": "dumb"})
    monkeypatch.setattr(screen, "new_console", lambda: dumb)

    async def story() -> None:
        stopping = asyncio.Event()

        def once() -> Snapshot:
            stopping.set()
            return snapshot()

        await screen.show(once, 1.0, stopping)

    asyncio.run(story())
    assert "work.queue depth=45" in capsys.readouterr().out
    assert file.getvalue() == ""
