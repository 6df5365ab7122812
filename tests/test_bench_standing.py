"""What is claimed is what the rounds say: wins, losses, close ones, and what supports no claim."""

import pytest
from backprop_xp.bench.standing import Point, sentence
from hypothesis import given
from hypothesis import strategies as st

EAGER, JAX = "PyTorch eager", "JAX"


def test_the_fastest_everywhere():
    points = [Point("a", [1.0, 1.1], {EAGER: [2.0, 2.2], JAX: [3.0, 3.0]}), Point("b", [1.0], {EAGER: [1.0]})]
    assert sentence(points, "cases") == "backprop_xp is the fastest in 2 of 2 cases"


def test_everybody_who_is_faster_somewhere_is_named():
    points = [
        Point("1 sample", [1.0, 1.0, 1.0], {EAGER: [0.5, 0.5, 0.6], JAX: [0.8, 0.8, 0.8]}),
        Point("4 samples", [1.0, 1.0, 1.0], {EAGER: [2.0, 2.0, 2.0], JAX: [0.9, 0.9, 1.2]}),
        Point("16 samples", [1.0, 1.0, 1.0], {EAGER: [2.0, 2.0, 2.0], JAX: [2.0, 2.0, 2.0]}),
    ]
    assert sentence(points, "points over batch") == (
        "backprop_xp is the fastest in 1 of 3 points over batch; PyTorch eager is faster in: 1 sample (2.00 times); "
        "JAX is faster in: 1 sample (1.25 times), 4 samples (1.11 times, not in every round)"
    )


def test_a_close_win_is_called_close():
    points = [Point("a", [1.0, 1.0, 1.0], {EAGER: [0.9, 1.1, 1.2]}), Point("b", [1.0], {EAGER: [2.0]})]
    assert sentence(points, "cases") == "backprop_xp is the fastest in 2 of 2 cases (not in every round: a)"


@pytest.mark.parametrize(
    "point, why",
    [
        (Point("a", [], {EAGER: [1.0]}), "without a rival or a speed"),
        (Point("a", [1.0]), "without a rival or a speed"),
        (Point("a", [1.0], {EAGER: [760.0]}, busy=True), "measured while the machine was busy"),
    ],
)
def test_what_supports_no_claim(point, why):
    assert sentence([point, point], "cases") == f"backprop_xp: no claim about cases; not counted: 2 {why}"
    beside = Point("b", [1.0], {EAGER: [2.0]})
    assert sentence([point, beside], "cases") == f"backprop_xp is the fastest in 1 of 1 cases; not counted: 1 {why}"


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10), st.booleans()), min_size=1, max_size=6))
def test_the_count_is_that_of_the_wins(found):
    points = [Point(f"point {k}", [ours], {EAGER: [theirs]}, busy) for k, (ours, theirs, busy) in enumerate(found)]
    text = sentence(points, "points")
    quiet = [point for point in points if not point.busy]
    won = [point for point in quiet if point.ours[0] <= point.rivals[EAGER][0]]
    if quiet:
        assert text.startswith(f"backprop_xp is the fastest in {len(won)} of {len(quiet)} points")
    for point in points:
        assert (f"{point.what} (" in text) == (point in quiet and point not in won)
    assert ("no claim" in text) == (not quiet)
