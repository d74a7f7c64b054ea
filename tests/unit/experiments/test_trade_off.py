"""The picture of a comparison: no name lies on a point or on another name."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from backpressure.experiments.report.trade_off import HEIGHT, WIDTH, Box, placed

FRAME = Box(0, 0, WIDTH, HEIGHT)
NAMES = ("unbounded", "bounded", "rate_limited", "threshold", "aimd", "vegas", "gradient2", "pid", "pace", "oracle")


@given(
    at=st.lists(
        st.tuples(st.floats(60, WIDTH - 60), st.floats(20, HEIGHT - 20)), min_size=len(NAMES), max_size=len(NAMES)
    )
)
def test_names_lie_on_nothing_wherever_the_points_are(at: list[tuple[float, float]]) -> None:
    points = [(x, y, name) for (x, y), name in zip(at, NAMES, strict=True)]
    names = [name.box for name in placed(points, FRAME)]
    assert not any(one.overlaps(other) for one, other in combinations(names, 2))
    assert all(name.within(FRAME) for name in names)
    dots = [Box(x - 6, y - 6, 12, 12) for x, y, _ in points]
    assert not any(name.overlaps(dot) for name in names for dot in dots)


def test_a_name_with_room_stands_beside_its_point_and_a_crowded_one_has_a_line_to_it() -> None:
    assert not placed([(300, 100, "pace")], FRAME)[0].far
    crowd = placed([(300, 100, name) for name in NAMES], FRAME)
    assert any(name.far for name in crowd)


def test_a_name_avoids_the_bars_of_the_runs() -> None:
    bar = Box(280, 99, 80, 2)
    [name] = placed([(300, 100, "pace")], FRAME, [bar])
    assert not name.box.overlaps(bar)
