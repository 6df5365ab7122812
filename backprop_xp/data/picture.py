"""A training run as a picture: the losses, and where the answers are wrong."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from ..files import replacing
from .recipe import Trained
from .sets import need
from .targets import Amount, Classes

MOST_WRITTEN = 15  # classes, up to which every cell has its number


def draw(trained: Trained, path: str | os.PathLike[str]) -> None:
    """Write a PNG: loss by epoch, and the confusion matrix or the residuals of the held-out rows."""
    need("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _losses(left, trained)
    target, truth = trained.model.target, trained.held_out[trained.model.target.column]
    if isinstance(target, Classes):
        _confusion(right, target, target.said(trained.outputs), target.encode(truth))
    else:
        _residuals(right, target, target.amounts(trained.outputs), target.truth(truth))
    figure.suptitle(f"{target.column}: {trained.describe_score()}")
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    with replacing(path) as file:
        file.write(picture.getbuffer())


def _losses(axes: Any, trained: Trained) -> None:
    epochs = trained.history.epochs
    numbers = [epoch.number for epoch in epochs]
    axes.plot(numbers, [epoch.loss for epoch in epochs], label="training")
    axes.plot(numbers, [epoch.validation_loss for epoch in epochs], label="held out")
    axes.set(xlabel="epoch", ylabel=trained.model.net.loss.name.replace("_", " "), yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()


def _confusion(axes: Any, target: Classes, said: np.ndarray, true: np.ndarray) -> None:
    count = len(target.labels)
    matrix = np.zeros((count, count), np.int64)
    answered = said < count
    np.add.at(matrix, (true[answered], said[answered]), 1)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="answer", ylabel="truth", title="held-out rows")
    if count <= MOST_WRITTEN:
        labels = [label[:12] for label in target.labels]
        axes.set_xticks(range(count), labels, rotation=45 if max(map(len, labels)) > 3 else 0)
        axes.set_yticks(range(count), labels)
        for i, j in zip(*matrix.nonzero()):
            axes.text(
                j, i, str(matrix[i, j]), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black"
            )


def _residuals(axes: Any, target: Amount, said: np.ndarray, true: np.ndarray) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    axes.scatter(said, true - said, s=14, alpha=0.7)
    axes.set(xlabel=f"answer, {target.column}", ylabel="truth - answer", title="held-out rows")
    axes.grid(alpha=0.3)
