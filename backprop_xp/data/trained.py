"""What came of a training: the model, how it went, and what it says of rows that it never saw."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..training import History
from .frames import Frame
from .model import Model
from .settings import Recipe


@dataclass(frozen=True)
class Counts:
    """How many rows are for what: read, to train on, to decide when training ends, and held out."""

    read: int
    trained: int
    deciding: int
    held: int


@dataclass(repr=False)
class Trained:
    """What came of it.

    Attributes:
        model: the net and all that belongs to it.
        history: its losses by epoch, in training and on the rows that were held out, or that decided when it ended.
        held_out: the rows that were held out, and their ``outputs``; where ranks had the table in parts, their targets.
        sample: (m, width) inputs of those of them that show which columns matter.
        notes: sentences about what was odd in the table, and about what was chosen.
        recipe: with what was chosen.
        counts: of rows.
        baseline: (outputs,) outputs that say the commonest class, or the mean, of the training rows.
        folds: what came of every fold, if rows were held out in turn; ``outputs`` are then theirs, in the target's
            units of ``model``, and ``history`` is that of ``model``, which was trained on all rows.
    """

    model: Model
    history: History
    held_out: Frame
    outputs: np.ndarray
    sample: np.ndarray
    notes: list[str]
    recipe: Recipe
    counts: Counts
    baseline: np.ndarray
    folds: list[Trained] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Trained({self.model.net!r}, {self.history!r}, {self.describe_score()})"

    @property
    def score(self) -> float:
        """On the held-out rows: the share of right answers, or R^2; of several targets the mean."""
        return self.model.target.score(self.outputs, self.model.target.of(self.held_out))

    @property
    def baseline_score(self) -> float:
        """What always saying the commonest class, or the mean, gets on the held-out rows."""
        same = np.tile(self.baseline, (len(self.held_out), 1))
        return self.model.target.score(same, self.model.target.of(self.held_out))

    @property
    def runs(self) -> list[Trained]:
        """The trainings that had rows held out: those of the folds, or this one."""
        return self.folds or [self]

    def describe_score(self) -> str:
        said = self.model.target.describe_score(self.outputs, self.model.target.of(self.held_out))
        if not self.folds:
            return said
        scores = [fold.score for fold in self.folds if np.isfinite(fold.score)]  # R^2 of one row is no number
        of_each = f" ({self.model.target.scored} {min(scores):.4f} to {max(scores):.4f})" if scores else ""
        return f"{said}, each held out once in {len(self.folds)} folds{of_each}"

    def describe_baseline(self) -> str:
        """What it takes to be better than a constant."""
        said = self.model.target.describe_baseline(self.baseline, self.model.target.of(self.held_out))
        return f"{said}: the net is no better" if self.score <= self.baseline_score else said

    def held_out_losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Epochs, and the loss after each of them on the rows that were not trained on; of folds the mean."""
        curves = [[epoch.validation_loss for epoch in run.history.epochs] for run in self.runs]
        shortest = min(map(len, curves))
        losses = np.array([curve[:shortest] for curve in curves], np.float64).mean(axis=0)
        return np.arange(1, shortest + 1), losses
