"""Throughput as a picture: over batch size, width or depth, ours and everybody else's."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from backprop_xp.bench.cases import Case
from backprop_xp.bench.report import BUSY, Result, replace_file

#: Of each family: what varies, and its value in a case.
X_OF: dict[str, tuple[str, Callable[[Case], int]]] = {
    "batch": ("samples in a batch", lambda case: case.samples),
    "width": ("width of the hidden layers", lambda case: case.sizes[1]),
    "depth": ("layers", lambda case: len(case.sizes) - 1),
}


def throughput(path: Path, families: dict[str, list[Result]], about: str) -> None:
    """One panel a family, logarithmic; written as PNG.

    Args:
        about: the line over all panels: machine, threads, date.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'backprop-xp[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(families), figsize=(6 * len(families), 4.5), squeeze=False)
    for axis, (family, results) in zip(axes[0], families.items()):
        x_of = X_OF[family][1]
        for name in dict.fromkeys(row.contender for result in results for row in result.rows):
            points = [
                (x_of(result.case), row.samples_per_second)
                for result in results
                for row in result.rows
                if row.contender == name
            ]
            axis.plot(*zip(*points), marker="o", markersize=4, label=name)
        axis.set(
            xscale="log", yscale="log", xlabel=x_label(family, results), ylabel="samples/s, loss and all gradients"
        )
        axis.set_title(title(family, results), fontsize="medium")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.suptitle(about, fontsize="medium")
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    replace_file(path, picture.getvalue())


def x_label(family: str, results: list[Result]) -> str:
    """What varies, and the net in which it does."""
    case = results[0].case
    net = {
        "batch": "-".join(map(str, case.sizes)),
        "width": f"w-w-w-{case.sizes[-1]}",
        "depth": f"{case.sizes[0]} wide",
    }
    return f"{X_OF[family][0]}, {net[family]}"


def title(family: str, results: list[Result]) -> str:
    """The family, its dtype and activations, and whether a busy machine spoiled it."""
    case = results[-1].case  # the deepest has all activations
    activations = ", ".join(dict.fromkeys(case.activations))
    busy = f" ({BUSY})" if any(result.busy for result in results) else ""
    return f"over {family}: {case.dtype}, {activations}{busy}"
