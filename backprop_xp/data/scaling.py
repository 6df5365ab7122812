"""Numbers of a column as a net takes them: around 0 with a spread of 1, and none of them far away.

A slip of the pen, 58.9 for 5.89, or 999999 for a missing number, would be tens or thousands of spreads away. Trained
on, it takes the scale from all other rows; met later on, it is answered by extrapolation. So what lies beyond Tukey's
outer fences has no say about the scale, and from :data:`FAR` spreads on numbers count by their logarithm: a larger one
is still larger. What float32 can't hold is no measurement, and stays as it is: it gets no answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..exchange.container import ModelFileError, number
from .errors import DataError
from .wording import quoted

FENCE = 3.0  # times the distance between the quartiles
FAR = 5.0  # spreads: in a table of normally distributed numbers hardly one is as far away
LARGEST = float(np.finfo(np.float32).max)


class Scaling(NamedTuple):
    """(x - mean) / scale, and beyond ``far`` the logarithm of what is beyond; older files have none."""

    mean: float
    scale: float
    far: float = float("inf")

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The same shape, float64; NaN stays NaN."""
        scaled = (values - self.mean) / self.scale
        beyond = np.abs(scaled) - self.far
        return np.where(
            (beyond > 0) & (beyond < LARGEST), np.copysign(self.far + np.log1p(np.maximum(beyond, 0)), scaled), scaled
        )

    def describe(self) -> dict[str, Any]:
        return {"mean": self.mean, "scale": self.scale} | ({"far": self.far} if np.isfinite(self.far) else {})


def learn(values: np.ndarray, name: str) -> Scaling | None:
    """From a column's values, (n,); None if what isn't missing is all one value, or nothing.

    Raises:
        DataError: they are too large to be scaled, or too close together.
    """
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return None
    with np.errstate(all="ignore"):
        usual = np.clip(values, *_fences(values))
        mean, scale = float(usual.mean()), float(usual.std())
    if not (np.isfinite(mean) and np.isfinite(scale) and scale > 0):
        raise DataError(
            f"column {quoted(name)}: its numbers, {values.min():g} to {values.max():g}, can't be standardised"
        )
    return Scaling(mean, scale, FAR)


def build(saved: dict[str, Any]) -> Scaling:
    """What :meth:`Scaling.describe` described; from a file, which may hold anything."""
    far = number(saved, "far") if "far" in saved else float("inf")
    if not far > 0:
        raise ModelFileError(f"'far' of its description must be positive, got {far:g}")
    return Scaling(number(saved, "mean"), number(saved, "scale"), far)


def _fences(values: np.ndarray) -> tuple[float, float]:
    """Tukey's outer ones; where half of the values are one number, around that and the fences of the others."""
    lower, middle, upper = np.quantile(values, (0.25, 0.5, 0.75))
    if lower < upper:
        return lower - FENCE * (upper - lower), upper + FENCE * (upper - lower)
    others = values[values != middle]
    lower, upper = np.quantile(others, (0.25, 0.75))
    reach = FENCE * (upper - lower) if lower < upper else np.inf  # as of two numbers, such as 0 and 1
    return min(middle, lower - reach), max(middle, upper + reach)
