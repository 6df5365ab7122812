"""Throughput as a picture: over batch size, width or depth, ours and everybody else's."""

from __future__ import annotations

import io
from pathlib import Path

from backprop_xp.bench.report import Result, replace_file

X_OF = {
    "batch": ("samples in a batch, 5-10-4-12", lambda case: case.samples),
    "width": ("width of the hidden layers", lambda case: case.sizes[1]),
    "depth": ("layers of width 16", lambda case: len(case.sizes) - 1),
}


def throughput(path: Path, families: dict[str, list[Result]]) -> None:
    """One panel a family, logarithmic; written as PNG."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'backprop-xp[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(families), figsize=(6 * len(families), 4.5), squeeze=False)
    for axis, (family, results) in zip(axes[0], families.items()):
        label, x_of = X_OF[family]
        for name in dict.fromkeys(row.contender for result in results for row in result.rows):
            points = [
                (x_of(result.case), row.samples_per_second)
                for result in results
                for row in result.rows
                if row.contender == name
            ]
            axis.plot(*zip(*points), marker="o", markersize=4, label=name)
        axis.set(xscale="log", yscale="log", xlabel=label, ylabel="samples/s, loss and all gradients")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    replace_file(path, picture.getvalue())
