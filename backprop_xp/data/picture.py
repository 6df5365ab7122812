"""A training run as a picture: the losses, where the answers are wrong, how sure they are, and what they depend on."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from ..axes import short
from ..files import replacing
from . import calibration, importance
from .cells import Series
from .sets import need
from .targets import Amount, Classes
from .trained import Trained

MOST_WRITTEN = 15  # classes, up to which every cell of the confusion matrix has its number
MOST_NAMED = 40  # classes, up to which each has its name
MOST_COLUMNS = 15  # by importance
MOST_TARGETS = 6
WIDTH, HEIGHT = 11, 4.6  # inches, of the picture and of a row of panels
MOST_LINEAR = 10  # how many times the lowest the highest value may be on a linear axis
MANY_POINTS = 2000  # from which on they are drawn small and thin


def draw(trained: Trained, path: str | os.PathLike[str]) -> None:
    """Write a PNG: losses by epoch and importance of columns; below, for each target, what was said of held-out rows.

    Of classes that is the confusion matrix, and how often answers are right by how probable they are said to be; of
    amounts the residuals, and the mean truth by the answer.
    """
    need("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = trained.model.target
    parts = target.parts(trained.outputs, trained.held_out)[:MOST_TARGETS]
    figure = Figure(figsize=(WIDTH, HEIGHT * (1 + len(parts))), layout="constrained")
    panels = figure.subplots(1 + len(parts), 2)
    _losses(panels[0][0], trained)
    _importance(panels[0][1], trained)
    for (left, right), (member, outputs, truth) in zip(panels[1:], parts):
        if isinstance(member, Classes):
            _confusion(figure, left, member, member.confusion(outputs, truth))
            _sureness(right, member, outputs, truth)
        else:
            _residuals(left, member, outputs, truth)
            _means(right, member, outputs, truth)
    figure.suptitle(_title(trained), fontsize="large")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    with replacing(path) as file:
        file.write(picture.getbuffer())


def _title(trained: Trained) -> str:
    target = trained.model.target
    if len(target.columns) == 1:
        return f"{short(target.columns[0], 40)}: {trained.describe_score()}"
    return f"{len(target.columns)} targets, {target.scored} {trained.score:.4f} on {len(trained.held_out)} rows"


def _losses(axes: Any, trained: Trained) -> None:
    epochs = trained.history.epochs
    losses = [epoch.loss for epoch in epochs]
    axes.plot([epoch.number for epoch in epochs], losses, label="training", color="C0")
    shown = list(losses)
    for fold in trained.folds:
        numbers, values = fold.held_out_losses()
        axes.plot(numbers, values, color="C1", alpha=0.3, linewidth=0.8)
        shown += values.tolist()
    if trained.counts.held or trained.counts.deciding:
        numbers, values = trained.held_out_losses()
        what = "rows that decide the end" if trained.counts.deciding else "held out"
        axes.plot(numbers, values, label=f"{what}{', mean of the folds' if trained.folds else ''}", color="C1")
        shown += values.tolist()
        if np.isfinite(values).any():
            best = int(np.nanargmin(values))
            label = f"lowest, {values[best]:.3g} after epoch {numbers[best]}"
            axes.plot(numbers[best], values[best], "o", color="C1", label=label)
    axes.set(xlabel="epoch", ylabel=trained.model.net.loss.name.replace("_", " "), title="loss")
    _readable(axes, np.array(shown, np.float64))
    axes.grid(alpha=0.3)
    axes.legend()


def _readable(axes: Any, values: np.ndarray) -> None:
    """Powers of ten on the y axis where the values span more than one, with plain numbers at 1, 2 and 5 of each."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = values[np.isfinite(values)]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if not len(values) or values.min() <= 0 or values.max() < MOST_LINEAR * values.min():
        return
    axes.set_yscale("log")
    few = values.max() < 1e4 * values.min()
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if few else (1,), numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _importance(axes: Any, trained: Trained) -> None:
    found = importance.importance(trained)[:MOST_COLUMNS]
    scored = trained.model.target.scored
    axes.set_title("importance of columns")
    if not found:
        _say(axes, "not computed: no rows held out, or too many columns")
        return
    places = range(len(found))
    axes.barh(places, [each.lost for each in found], xerr=[each.spread for each in found], color="C2", ecolor="gray")
    axes.set_yticks(places, [short(each.column) for each in found])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"{scored} lost where the column is shuffled")
    axes.grid(alpha=0.3, axis="x")


def _confusion(figure: Any, axes: Any, target: Classes, counts: np.ndarray) -> None:
    known = len(target.labels)
    matrix = counts[:, :known]
    shares = matrix / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    bar = figure.colorbar(drawn, ax=axes, format=lambda value, _: f"{value:.0%}")
    bar.set_label("of the class's rows")
    axes.set(xlabel=f"answer, {short(target.column)}", ylabel="truth", title="answers to held-out rows")
    if known <= MOST_NAMED:
        labels = [short(label, 12) for label in target.labels]
        size = None if known <= MOST_WRITTEN else "x-small"
        turn = 45 if known > MOST_WRITTEN or max(map(len, labels)) > 3 else 0
        axes.set_xticks(range(known), labels, rotation=turn, ha="right" if turn else "center", fontsize=size)
        axes.set_yticks(range(known), labels, fontsize=size)
    if known <= MOST_WRITTEN:
        for i, j in zip(*matrix.nonzero()):
            axes.text(
                j, i, str(matrix[i, j]), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black"
            )


def _sureness(axes: Any, target: Classes, outputs: np.ndarray, truth: Series) -> None:
    bins = calibration.sureness(target, outputs, truth)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="as often as said")
    axes.plot(
        [each.said for each in bins], [each.found for each in bins], "o-", color="C3", label="answers, and how many"
    )
    for each in bins:
        axes.annotate(
            str(each.rows),
            (each.said, each.found),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize="x-small",
        )
    low = max(0.0, 1 / len(target.labels) - 0.05)
    percent = lambda value, _: f"{value:.0%}"  # noqa: E731
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    axes.set(
        xlim=(low, 1.02),
        ylim=(-0.02, 1.08),
        xlabel="probability of the answer",
        ylabel="share of right answers",
        title=f"calibration (off by {calibration.off(bins):.1%} on average)",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if low < 0.5 else "upper left")


def _residuals(axes: Any, target: Amount, outputs: np.ndarray, truth: Series) -> None:
    said, true = target.amounts(outputs), target.truth(truth)
    axes.axhline(0, color="black", linewidth=0.8)
    many = len(said) > MANY_POINTS
    axes.scatter(said, true - said, s=4 if many else 14, alpha=0.2 if many else 0.7, linewidths=0)
    name = short(target.column)
    axes.set(xlabel=f"answer, {name}", ylabel="truth - answer", title="residuals of held-out rows")
    axes.grid(alpha=0.3)


def _means(axes: Any, target: Amount, outputs: np.ndarray, truth: Series) -> None:
    bins = calibration.means(target, outputs, truth)
    ends = [value for each in bins for value in (each.said, each.found)]
    if not ends:
        _say(axes, "no finite answers")
        return
    axes.plot(
        [min(ends), max(ends)], [min(ends), max(ends)], color="black", linewidth=0.8, linestyle="--", label="equal"
    )
    spread = [each.spread for each in bins]
    axes.errorbar(
        [each.said for each in bins],
        [each.found for each in bins],
        yerr=spread,
        fmt="o-",
        color="C3",
        label="mean truth",
    )
    name = short(target.column)
    axes.set(xlabel=f"mean answer, {name}", ylabel="mean truth", title="calibration (bars: standard deviation)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
