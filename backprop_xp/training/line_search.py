"""A line search for the strong Wolfe conditions, by cubic interpolation (Nocedal and Wright, 2006, section 3.5).

Along a direction d from x, a step t is long and short enough where

    f(x + t d) <= f(x) + 1e-4 t slope(0)        |slope(t)| <= 0.9 |slope(0)|

It is that of PyTorch's LBFGS, but that steps to where f isn't finite are halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

DECREASE, CURVATURE = 1e-4, 0.9
MOST_EVALUATIONS = 25


class Point(NamedTuple):
    """Where a step leads: its length t, f there, the slope of f along the direction, and the gradient (n,)."""

    t: float
    value: float
    slope: float
    grad: Any


def strong_wolfe(
    evaluate: Callable[[float], Point], start: Point, t: float, longest: float, tolerance: float
) -> tuple[Point, int]:
    """A point that meets both conditions, or the best that was found, and how often f was evaluated.

    Args:
        start: with t = 0.
        t: the step to try first.
        longest: the largest number in the direction, of either sign.
        tolerance: an interval in which no number changes by more isn't searched.
    """

    def too_high(point: Point) -> bool:
        return not point.value <= start.value + DECREASE * point.t * start.slope

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    last, new, tried = start, evaluate(t), 1
    while True:  # until the two enclose such a point
        if too_high(new) or (tried > 2 and new.value >= last.value):
            break
        if flat(new):
            return new, tried
        if new.slope >= 0:
            break
        if tried > MOST_EVALUATIONS:
            last = start
            break
        t = _minimum(last, new, new.t + 0.01 * (new.t - last.t), 10 * new.t)
        last, new, tried = new, evaluate(t), tried + 1

    low, high = (last, new) if last.value <= new.value else (new, last)
    if not math.isfinite(new.value):
        low, high = last, new
    slow = False
    while tried <= MOST_EVALUATIONS and abs(high.t - low.t) * longest >= tolerance:
        least, most = sorted((low.t, high.t))
        t = _minimum(low, high, least, most)
        margin, slow_before, slow = 0.1 * (most - least), slow, False
        if min(most - t, t - least) < margin:
            if slow_before or t in (least, most):
                t = most - margin if most - t < t - least else least + margin
            else:
                slow = True
        new, tried = evaluate(t), tried + 1
        if too_high(new) or new.value >= low.value:
            high = new
            if high.value < low.value:
                low, high = high, low
            continue
        if flat(new):
            return new, tried
        if new.slope * (high.t - low.t) >= 0:
            high = low
        low = new
    return low, tried


def _minimum(a: Point, b: Point, least: float, most: float) -> float:
    """Where the cubic through two points has its minimum, between two steps; half way where it has none."""
    a, b = sorted((a, b), key=lambda point: point.t)
    if not all(map(math.isfinite, (a.value, b.value, a.slope, b.slope))) or a.t == b.t:
        return (least + most) / 2
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    divisor = b.slope - a.slope + 2 * math.sqrt(max(square, 0.0))
    if square < 0 or divisor == 0:
        return (least + most) / 2
    return min(max(b.t - (b.t - a.t) * (b.slope + math.sqrt(square) - d1) / divisor, least), most)
