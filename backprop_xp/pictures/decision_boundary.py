"""What a net of two features answers where: classes and their borders, or amounts and their level lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import axes as drawing
from ..backend import NUMPY
from ..keywords import known_options
from ..losses import BCEWithLogits
from ..numbers import whole

SIDE = 201  # points of the grid on each axis
MARGIN = 0.08  # of the points' extent, added on every side
LEVELS = 9  # lines of a surface of amounts
MOST_LISTED = 12  # classes, up to which a legend has them
PALEST, STRONGEST = 0.12, 0.6  # opacity of a class's colour, from undecided to sure


@known_options
def decision_boundary(
    net: Any,
    x: Any = None,
    y: Any = None,
    *,
    limits: Any = None,
    classes: bool | None = None,
    output: int = 0,
    level: float | None = None,
    features: Sequence[str] = ("x[0]", "x[1]"),
    labels: Sequence[str] | None = None,
    answer: str | None = None,
    units: Callable[[np.ndarray], np.ndarray] | None = None,
    axes: Any = None,
) -> Any:
    """Draw what a net with two features answers, on a grid over them, with a line where its decision changes.

    Under softmax cross-entropy every class has its colour, the stronger the surer the answer. Under binary
    cross-entropy the colour is the probability sigmoid(z), with a line at one half. Everything else is a surface of
    amounts with its level lines. ``axes.figure.savefig("boundary.svg")`` keeps it, as a PNG, SVG or PDF.

    Args:
        net: a Net or a GraphNet whose inputs have two features together.
        x: (n, 2) points to draw.
        y: (n,) what the points are: classes, one-hot rows (n, classes), or amounts. They have the answers' colours.
        limits: ((low, high), (low, high)) of both features; by default the points' extent and a margin, without
            points -1 to 1.
        classes: whether the largest output is the answer; by default under softmax cross-entropy.
        output: which one is drawn where outputs are amounts or logits.
        level: of an amount the value at which the decision changes, such as 0 for targets of -1 and 1.
        features: what the two are called.
        labels: what the classes are called, by their indices; by default "class 0" and so on.
        answer: what the amount or the probability is called, by default "output" or "probability".
        units: a function from amounts, as the net and ``y`` have them, to those that are drawn, such as
            ``lambda z: mean + scale * z`` for a net that was trained on (y - mean) / scale. ``level`` is one of these.
        axes: what to draw on; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ValueError, TypeError: another number of features, or arrays or options that don't fit. ImportError: matplotlib
            is not installed.
    """
    inputs = net._plan().inputs
    if sum(inputs.values()) != 2:
        raise ValueError(f"a decision boundary is drawn of a net with 2 features, got {net!r}")
    if len(features) != 2:
        raise ValueError(f"features must be the names of two, got {features!r}")
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"answer must be a text, what the amount or the probability is called, got {answer!r}")
    if units is not None and not callable(units):
        raise TypeError(f"units must be a function from amounts to those that are drawn, got {units!r}")
    x, y = _points(x, y)
    limits = _limits(x, limits)
    grid = np.stack(np.meshgrid(*(np.linspace(low, high, SIDE) for low, high in limits)), -1).reshape(-1, 2)
    given = grid if len(inputs) == 1 else dict(zip(inputs, np.hsplit(grid, 2)))
    z = NUMPY.take(net.forward(given)).astype(np.float64).reshape(SIDE, SIDE, -1)
    loss = net.loss
    axes = drawing.new("a decision boundary") if axes is None else axes
    if getattr(loss, "takes_indices", False) if classes is None else classes:
        _classes(axes, z, limits, x, _labels(y, z.shape[-1]), labels)
    else:
        z = z[..., whole("output", output, 0, z.shape[-1] - 1)]
        y = None if y is None else y.reshape(len(y), -1)[:, output if y.ndim > 1 and y.shape[1] > 1 else 0]
        called = None if answer is None else drawing.short(answer, 40)
        if isinstance(loss, BCEWithLogits):
            with np.errstate(over="ignore"):
                z = 1 / (1 + np.exp(-z))
            _surface(axes, z, limits, x, y, 0.5 if level is None else level, (0.0, 1.0), called or "probability")
        else:
            if units is not None:
                z, y = _in_units(units, z), None if y is None else _in_units(units, y)
            _surface(axes, z, limits, x, y, level, None, called or ("output" if output == 0 else f"output {output}"))
    axes.set(
        xlim=limits[0], ylim=limits[1], xlabel=drawing.short(features[0], 40), ylabel=drawing.short(features[1], 40)
    )
    return axes


def _in_units(units: Callable[[np.ndarray], np.ndarray], amounts: np.ndarray) -> np.ndarray:
    found = np.asarray(units(amounts), np.float64)
    if found.shape != amounts.shape:
        raise ValueError(f"units must give as many amounts as it is given, {amounts.shape}, got {found.shape}")
    return found


def _points(x: Any, y: Any) -> tuple[Any, Any]:
    """x as (n, 2), y with a row for each, both on the host."""
    if x is None:
        if y is not None:
            raise ValueError("y says what the points x are: give x too")
        return None, None
    x = np.asarray(NUMPY.take(x) if hasattr(x, "shape") else x, np.float64)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x must be (n, 2), got the shape {x.shape}")
    if y is not None:
        y = np.asarray(NUMPY.take(y) if hasattr(y, "shape") else y)
        if not 1 <= y.ndim <= 2 or len(y) != len(x):
            raise ValueError(f"y must have a row for each of the {len(x)} points of x, got the shape {y.shape}")
        if y.dtype.kind not in "biuf":
            raise ValueError(f"y must be numbers, classes by their index, got {y.dtype}")
    return x, y


def _limits(x: Any, limits: Any) -> list[tuple[float, float]]:
    if limits is not None:
        found = np.asarray(limits, np.float64)
        if found.shape != (2, 2) or not np.isfinite(found).all() or (found[:, 0] >= found[:, 1]).any():
            raise ValueError(f"limits must be ((low, high), (low, high)), got {limits!r}")
        return [(float(low), float(high)) for low, high in found]
    finite = None if x is None else x[np.isfinite(x).all(axis=1)]
    if finite is None or not len(finite):
        return [(-1.0, 1.0)] * 2
    low, high = finite.min(axis=0), finite.max(axis=0)
    room = np.where(high > low, MARGIN * (high - low), np.maximum(1.0, abs(high)))
    return [(float(a), float(b)) for a, b in zip(low - room, high + room)]


def _labels(y: Any, count: int) -> Any:
    """Classes (n,) of class indices or of one row of shares a point."""
    if y is None:
        return None
    if y.ndim == 2 and y.shape[1] == count:
        return y.argmax(axis=1)
    if y.size != len(y) or not (y == np.rint(y)).all():
        raise ValueError(f"y must be class indices, or (n, {count}), got the shape {y.shape}")
    return y.reshape(-1).astype(np.int64)


def _classes(
    axes: Any, z: np.ndarray, limits: list[tuple[float, float]], x: Any, labels: Any, called: Sequence[str] | None
) -> None:
    from matplotlib import colormaps

    count = z.shape[-1]
    if called is not None and len(called) != count:
        raise ValueError(f"labels must name each of {count} classes, got {len(called)}")
    colours = colormaps["tab10"](range(count)) if count <= 10 else colormaps["turbo"](np.linspace(0, 1, count))
    known = np.isfinite(z).all(axis=-1)
    z = np.where(known[..., None], z, 0.0)
    shares = np.exp(z - z.max(axis=-1, keepdims=True))
    surest = 1 / shares.sum(axis=-1)
    image = np.empty((*z.shape[:2], 4))
    image[..., :3] = colours[z.argmax(axis=-1), :3]
    image[..., 3] = np.where(known, PALEST + (STRONGEST - PALEST) * (surest - 1 / count) / (1 - 1 / max(count, 2)), 0)
    axes.imshow(image, extent=[*limits[0], *limits[1]], origin="lower", aspect="auto")
    sides = [np.linspace(low, high, SIDE) for low, high in limits]
    for k in range(count if count > 1 else 0):
        ahead = np.where(known, z[..., k] - np.delete(z, k, axis=-1).max(axis=-1), np.nan)
        if np.nanmin(ahead, initial=0.0) < 0 < np.nanmax(ahead, initial=0.0):
            axes.contour(*sides, ahead, levels=[0], colors="black", linewidths=1)
    if x is not None and labels is None:
        axes.scatter(*x.T, s=22, color="white", edgecolors="black", linewidths=0.6)
    present = set() if labels is None else set(np.unique(labels).tolist())
    shown = sorted(present if called is None else present | set(range(count)))
    for k in shown:
        points, colour = x[labels == k] if k in present else np.empty((0, 2)), colours[k] if 0 <= k < count else "black"
        name = drawing.short(called[k]) if called is not None and 0 <= k < count else f"class {k}"
        axes.scatter(*points.T, s=22, color=[colour], edgecolors="white", linewidths=0.6, label=name)
    if 0 < len(shown) <= MOST_LISTED:
        axes.legend(framealpha=0.9)


def _surface(
    axes: Any, z: np.ndarray, limits: list[tuple[float, float]], x: Any, y: Any, level: Any, span: Any, what: str
) -> None:
    finite = z[np.isfinite(z)]
    if span is None:
        ends = np.concatenate([finite, np.empty(0) if y is None else y[np.isfinite(y)]])
        span = (float(ends.min()), float(ends.max())) if len(ends) else (0.0, 1.0)
    style = {"cmap": "viridis" if level is None else "RdBu_r", "vmin": span[0], "vmax": span[1]}
    alpha = 1.0 if level is None else 0.7
    extent = [*limits[0], *limits[1]]
    image = axes.imshow(
        np.ma.masked_invalid(z),
        extent=extent,
        origin="lower",
        aspect="auto",
        alpha=alpha,
        interpolation="bilinear",
        **style,
    )
    axes.figure.colorbar(image, ax=axes, label=what)
    sides = [np.linspace(low, high, SIDE) for low, high in limits]
    if len(finite) and finite.min() < finite.max():
        levels = LEVELS if level is None else [level]
        if level is None or finite.min() < level < finite.max():
            colour, wide = ("white", 0.7) if level is None else ("black", 1.6)
            lines = axes.contour(
                *sides, np.ma.masked_invalid(z), levels=levels, colors=colour, linewidths=wide, linestyles="solid"
            )
            axes.clabel(lines, fontsize="x-small", fmt="%g")
    if x is not None:
        filled = {"color": "white"} if y is None else {"c": y, **style}
        axes.scatter(*x.T, s=22, edgecolors="black", linewidths=0.6, **filled)
