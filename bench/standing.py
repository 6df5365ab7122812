"""Who is the fastest where, in words: a claim is computed from the rounds of the run that prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

OURS = "backprop_xp"


@dataclass(frozen=True)
class Point:
    """One case of a table.

    Attributes:
        what: its name.
        ours: seconds of backprop_xp, round by round; empty if no speed is shown.
        rivals: the same of everybody else, in the same rounds.
        busy: whether the machine was; such a point supports no claim.
    """

    what: str
    ours: Sequence[float]
    rivals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    busy: bool = False

    def ratios(self, rival: str) -> np.ndarray:
        """How many times the rival's time is ours, round by round."""
        return np.array(self.rivals[rival]) / np.array(self.ours)


def sentence(points: Sequence[Point], where: str) -> str:
    """What may be claimed of these points, called ``where`` (a plural, such as "cases"), and what may not."""
    shown = [point for point in points if point.ours and point.rivals]
    quiet = [point for point in shown if not point.busy]
    left_out = [
        (len(points) - len(shown), "without a rival or a speed"),
        (len(shown) - len(quiet), "measured while the machine was busy"),
    ]
    parts = [_fastest(quiet, where)] if quiet else [f"{OURS}: no claim about {where}"]
    for rival in dict.fromkeys(name for point in quiet for name in point.rivals):
        faster = [_named(point, rival) for point in quiet if rival in point.rivals and _median(point, rival) < 1]
        if faster:
            parts.append(f"{rival} is faster in: {', '.join(faster)}")
    parts += [f"not counted: {number} {why}" for number, why in left_out if number]
    return "; ".join(parts)


def _fastest(points: Sequence[Point], where: str) -> str:
    won = [point for point in points if all(_median(point, rival) >= 1 for rival in point.rivals)]
    close = [point.what for point in won if any(point.ratios(rival).min() < 1 for rival in point.rivals)]
    text = f"{OURS} is the fastest in {len(won)} of {len(points)} {where}"
    return text + (f" (not in every round: {', '.join(close)})" if close else "")


def _named(point: Point, rival: str) -> str:
    ratios = 1 / point.ratios(rival)
    every = "" if ratios.min() > 1 else ", not in every round"
    return f"{point.what} ({np.median(ratios):.2f} times{every})"


def _median(point: Point, rival: str) -> float:
    return float(np.median(point.ratios(rival)))
