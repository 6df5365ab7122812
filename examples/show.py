"""What the examples share: they are timed, measured against what is known, and drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

os.environ.setdefault("BACKPROP_XP_BACKEND", "numpy")  # where equations are compiled


def grid(first: tuple[float, float], second: tuple[float, float], count: int = 101) -> np.ndarray:
    """The points (count * count, 2) of a square grid over two intervals."""
    return np.stack(np.meshgrid(np.linspace(*first, count), np.linspace(*second, count), indexing="ij"), -1).reshape(
        -1, 2
    )


def edge(points: np.ndarray, axis: int, *values: float) -> np.ndarray:
    """The points of a grid where this coordinate has one of these values."""
    return points[np.isclose(points[:, axis, None], values).any(axis=1)]


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """The Euclidean norm of the difference, as a share of that of the exact values."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def run(file: str, solve: Callable[[], Any], points: np.ndarray, exact: np.ndarray) -> None:
    """Train, print time and error of the first output on a square grid, and draw it to a PNG beside the file."""
    started = perf_counter()
    net, history = solve()
    seconds, found = perf_counter() - started, net(points)[:, 0]
    losses = ", ".join(f"{name} {loss:.1e}" for name, loss in history.epochs[-1].terms.items())
    print(f"{Path(file).stem}: {seconds:.1f} s, relative error {relative(found, exact):.1e}; {losses}")
    draw(Path(file).with_suffix(".png"), points, {"the net": found, "its error": found - exact})


def draw(path: Path, points: np.ndarray, fields: dict[str, np.ndarray]) -> None:
    """One panel a field (n,) on a square grid (n, 2); nothing where matplotlib isn't installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no picture: pip install matplotlib")
        return
    count, (low, high) = round(len(points) ** 0.5), (points.min(axis=0), points.max(axis=0))
    figure = Figure(figsize=(4.4 * len(fields), 3.4), dpi=80, layout="constrained")
    for axes, (title, field) in zip(figure.subplots(1, len(fields)), fields.items()):
        image = axes.imshow(
            field.reshape(count, count).T, origin="lower", aspect="auto", cmap="RdBu_r",
            extent=(low[0], high[0], low[1], high[1]), vmin=-abs(field).max(), vmax=abs(field).max(),
        )  # fmt: skip
        axes.set_title(title)
        figure.colorbar(image)
    FigureCanvasAgg(figure).print_png(str(path))
