"""When a run of an estimator ends: MLPClassifier's rules, on the training loss or on the score of held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..training.history import Epoch


class Convergence:
    """Called after every epoch with (net, Epoch): True once more than ``patience`` epochs brought no gain of ``tol``.

    Args:
        tol: by how much the loss must fall below the lowest so far, or the score rise above the best.
        patience: epochs; may be infinite.
        score: of the held-out rows, a function without arguments; None looks at the training loss.
        verbose: whether to print a line an epoch.

    Attributes:
        losses, scores: of the epochs, one each.
        stopped: why the run ended early, "" if it did not.
    """

    def __init__(self, tol: float, patience: float, score: Callable[[], float] | None, verbose: bool) -> None:
        self.tol, self.patience, self.score, self.verbose = tol, patience, score, verbose
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.stopped = ""
        self._best = -math.inf  # the score, or the loss with its sign turned
        self._waited = 0
        self._parameters: list[Any] | None = None

    def __call__(self, net: Any, epoch: Epoch) -> bool:
        self.losses.append(epoch.loss)
        if self.verbose:
            print(f"Iteration {len(self.losses)}, loss = {epoch.loss:.8f}")
        value = -epoch.loss if self.score is None else self.score()
        if self.score is not None:
            self.scores.append(value)
            if self.verbose:
                print(f"Validation score: {value:.6f}")
        self._note(value, net)
        if self._waited > self.patience:
            what = "Training loss" if self.score is None else "Validation score"
            self.stopped = (
                f"{what} did not improve more than tol={self.tol:f} for {self.patience:g} consecutive epochs."
            )
            if self.verbose:
                print(f"{self.stopped} Stopping.")
        return bool(self.stopped)

    def put_back_the_best(self, net: Any) -> bool:
        """Give the net the parameters that had the best score; False if there was none."""
        if self._parameters is None:
            return False
        for tensor, data in zip(net.parameters, self._parameters):
            tensor.data = data
        return True

    def _note(self, value: float, net: Any) -> None:
        self._waited = 0 if value >= self._best + self.tol else self._waited + 1
        if value > self._best:
            self._best = value
            if self.score is not None:
                self._parameters = [tensor.data.copy() for tensor in net.parameters]
