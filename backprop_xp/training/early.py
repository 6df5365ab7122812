"""Ending a run that no longer improves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..backend import Array


@dataclass
class EarlyStopping:
    """Ends a run after ``patience`` epochs whose loss was not below the best by more than ``min_delta``.

    Attributes:
        best: the parameters of the best epoch, all in one array; None before the first.
        epoch: the best epoch, from 1.
        value: its loss.
        waited: how many epochs since.
    """

    patience: int = 10
    min_delta: float = 0.0
    best: Array | None = field(default=None, init=False, repr=False)
    epoch: int = field(default=0, init=False, repr=False)
    value: float = field(default=math.inf, init=False, repr=False)
    waited: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or self.patience < 1 or not self.min_delta >= 0:
            raise ValueError(
                f"early stopping needs a patience of at least 1 epoch and a min_delta of at least 0, got "
                f"{self.patience!r} and {self.min_delta!r}"
            )

    def begin(self) -> None:
        """Forget an earlier run."""
        self.best, self.epoch, self.value, self.waited = None, 0, math.inf, 0

    def restore(self, best: Array | None, epoch: float, value: float, waited: float) -> None:
        """Go on where a run was interrupted."""
        self.best, self.epoch, self.value, self.waited = best, int(epoch), value, int(waited)

    def no_longer(self, value: float, epoch: int, parameters: Array) -> bool:
        """Note an epoch's loss, and say whether it is time to end."""
        if value < self.value - self.min_delta:
            self.best, self.epoch, self.value, self.waited = parameters.copy(), epoch, value, 0
            return False
        self.waited += 1
        return self.waited >= self.patience
