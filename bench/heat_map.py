"""The grid of widths by batches as a picture: how many times as fast as the fastest rival, point by point."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from backprop_xp.bench import grid
from backprop_xp.bench.first_call import ONCE, FirstCall
from backprop_xp.bench.report import BUSY, Result, replace_file
from backprop_xp.bench.standing import OURS

MOST = 4.0  # the ratio at which the colours end, on either side of 1
LEAST_ROWS = 5  # of a panel with fewer widths, or with bars


def beside(path: Path) -> Path:
    """The picture's file beside that of another picture."""
    return path.with_stem(f"{path.stem}-grid")


def draw(path: Path, grids: Mapping[str, Sequence[Result]], first_calls: Sequence[FirstCall], about: str) -> None:
    """A panel for each part of the grid, two in a row, and one of first calls; written as PNG.

    White is as fast as the fastest rival, blue faster, red slower; a slower point says who was faster.

    Args:
        grids: the results of each part, by its family.
        about: the line over all panels: machine, threads, date.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.cm import ScalarMappable

    panels: list[tuple[str, Sequence[Any]]] = [(family, results) for family, results in grids.items() if results]
    panels += [("first calls", first_calls)] if first_calls else []
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    heights = [max(LEAST_ROWS, *(len(_widths(some)) for name, some in row if name in grids), 0) for row in rows]
    figure, axes = pyplot.subplots(
        len(rows), 2, figsize=(17, 1.0 + sum(0.5 * height + 1.0 for height in heights)), squeeze=False,
        layout="constrained", height_ratios=heights,
    )  # fmt: skip
    colours = ScalarMappable(pyplot.Normalize(-math.log2(MOST), math.log2(MOST)), "RdBu")
    for row, beside_each_other in zip(rows, axes):
        for axis in beside_each_other[len(row) :]:
            axis.axis("off")
        for (name, some), axis in zip(row, beside_each_other):
            if name in grids:
                _points(axis, name, some, colours)
            else:
                _bars(axis, some)
    bar = figure.colorbar(colours, ax=axes, shrink=0.5, extend="both", ticks=[-2, -1, 0, 1, 2])
    bar.ax.set_yticklabels(["1/4", "1/2", "1", "2", "4"])
    everybody = "PyTorch eager, JAX and, in some points, torch.compile"
    figure.suptitle(f"speed over that of the fastest of {everybody}: {about}", fontsize="medium")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    replace_file(path, picture.getvalue())


def _points(axis: Any, family: str, results: Sequence[Result], colours: Any) -> None:
    """Ratios, width by batch; a star where the machine was busy."""
    widths, batches = _widths(results), sorted({result.case.samples for result in results})
    ratios = np.full((len(widths), len(batches)), np.nan)
    axis.set_facecolor("0.93")
    for result in results:
        y, x = widths.index(result.case.sizes[0]), batches.index(result.case.samples)
        ratio = grid.ratio_of(result, grid.FASTEST)
        text, weight = "refused" if result.refused else "-", 0.0
        if ratio is not None:
            ratios[y, x], weight = math.log2(ratio), abs(math.log2(ratio))
            text = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
            text += "*" * bool(result.busy) + (f"\n{_fastest(result)}" if ratio < 1 else "")
        axis.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if weight > 1.4 else "black")
    axis.imshow(ratios, cmap=colours.cmap, norm=colours.norm, aspect="auto")
    axis.set_xticks(range(len(batches)), [f"{n:,}" for n in batches])
    axis.set_yticks(range(len(widths)), widths)
    busy = f" (*: {BUSY})" if any(result.busy for result in results) else ""
    axis.set(xlabel="samples in a batch", ylabel="width w of w-w-w-10", title=f"{family}{busy}")


def _bars(axis: Any, calls: Sequence[FirstCall]) -> None:
    """Seconds of first calls, net by net."""
    nets = list(dict.fromkeys(call.net for call in calls if call.contender != ONCE))
    who = [name for name in dict.fromkeys(call.contender for call in calls) if name != ONCE]
    breadth = 0.8 / max(1, len(who))
    for k, name in enumerate(who):
        seconds = {nets.index(call.net): call.seconds for call in calls if call.contender == name}
        places = [i + (k - (len(who) - 1) / 2) * breadth for i in seconds]
        axis.bar(places, list(seconds.values()), breadth, label=name)
    for call in calls:
        if call.contender == ONCE:
            axis.axhline(call.seconds, color="0.4", linestyle="--", label=ONCE)
    axis.set_xticks(range(len(nets)), [net.partition("-")[0] for net in nets])
    axis.set(yscale="log", xlabel="width w of w-w-w-10", ylabel="seconds", title="first call, compiling included")
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def _widths(results: Sequence[Result]) -> list[int]:
    return sorted({result.case.sizes[0] for result in results})


def _fastest(result: Result) -> str:
    rivals = [row for row in result.rows if not row.contender.startswith(OURS)]
    return max(rivals, key=lambda row: row.samples_per_second).contender.removeprefix("PyTorch ")
