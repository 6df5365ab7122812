"""The line search: both of Wolfe's conditions, on functions that are steep, flat, kinked or not there."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp.training.line_search import CURVATURE, DECREASE, Point, strong_wolfe

FUNCTIONS = {
    "parabola": (lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
    "far": (lambda t: (t / 1000 - 3) ** 2, lambda t: (t / 1000 - 3) / 500),
    "near": (lambda t: (t * 1000 - 3) ** 2, lambda t: 2000 * (t * 1000 - 3)),
    "waves": (lambda t: math.sin(3 * t) - t / 2, lambda t: 3 * math.cos(3 * t) - 0.5 if t else -0.5),
    "well": (lambda t: -t / (t * t + 2), lambda t: (t * t - 2) / (t * t + 2) ** 2),
    "wall": (
        lambda t: -math.log(1 - t) - 2 * t if t < 1 else math.nan,
        lambda t: 1 / (1 - t) - 2 if t < 1 else math.nan,
    ),
}


def search(name, first):
    f, slope = FUNCTIONS[name]
    tried = []

    def evaluate(t):
        tried.append(t)
        value = f(t)
        return Point(t, value if math.isfinite(value) else math.inf, slope(t), None)

    start = Point(0.0, f(0.0), slope(0.0), None)
    found, count = strong_wolfe(evaluate, start, first, 1.0, 1e-9)
    assert count == len(tried) <= 27 and (found.t in tried or found.t == 0)
    return start, found


@settings(deadline=None)
@given(name=st.sampled_from([name for name in FUNCTIONS if name != "waves"]), first=st.floats(1e-3, 10))
def test_both_conditions_hold(name, first):
    start, found = search(name, first)
    assert found.value <= start.value + DECREASE * found.t * start.slope
    assert abs(found.slope) <= -CURVATURE * start.slope


@settings(deadline=None)
@given(first=st.floats(1e-3, 10))
def test_it_never_goes_up(first):
    start, found = search("waves", first)
    assert found.value <= start.value


def test_a_step_that_is_right_at_once_is_taken():
    _, found = search("parabola", 3.0)
    assert found.t == 3.0


@pytest.mark.parametrize("value", [math.inf, 1.0])
def test_where_nothing_is_lower_it_stays(value):
    start = Point(0.0, 0.0, -1.0, None)
    found, count = strong_wolfe(lambda t: Point(t, value, math.nan, None), start, 1.0, 1.0, 1e-9)
    assert found == start and count <= 27
