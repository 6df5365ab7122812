"""Ending a run that no longer improves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..backend import Array, module_of
from ..numbers import real, whole


@dataclass
class EarlyStopping:
    """Ends a run after ``patience`` epochs whose loss was not below the best by more than ``min_delta``.

    With an optimiser that maximizes, it must be above the best by as much. An epoch whose loss is NaN or infinite, or
    that ends with such parameters, is never the best.

    Attributes:
        best: the parameters and buffers of the best epoch, all in one array; None before the first.
        epoch: the best epoch, from 1; 0 before the first.
        value: its loss.
        waited: how many epochs since.
        not_finite: in how many of these the loss was NaN or infinite.
    """

    patience: int = 10
    min_delta: float = 0.0
    best: Array | None = field(default=None, init=False, repr=False)
    epoch: int = field(default=0, init=False, repr=False)
    value: float = field(default=math.inf, init=False, repr=False)
    waited: int = field(default=0, init=False, repr=False)
    not_finite: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.patience = whole("patience of early stopping", self.patience, 1)
        self.min_delta = real("min_delta of early stopping", self.min_delta, 0)

    def begin(self) -> None:
        """Forget an earlier run."""
        self.restore(None, 0, math.inf, 0, 0)

    def restore(self, best: Array | None, epoch: int, value: float, waited: int, not_finite: int) -> None:
        """Go on where a run was interrupted."""
        self.best, self.epoch, self.value, self.waited, self.not_finite = best, epoch, value, waited, not_finite

    def no_longer(self, value: float, epoch: int, parameters: Array, maximize: bool = False) -> bool:
        """Note an epoch's loss, and say whether it is time to end; ``parameters`` are copied if it is the best."""
        gain = value - self.value if maximize else self.value - value
        better = math.isfinite(value) and (not self.epoch or gain > self.min_delta)
        if better and bool(module_of(parameters).isfinite(parameters).all()):
            self.restore(parameters.copy(), epoch, value, 0, 0)
            return False
        self.waited += 1
        self.not_finite += not math.isfinite(value)
        return self.waited >= self.patience

    def reason(self, what: str) -> str:
        """Why it is time to end, in words; ``what`` is the loss that it looked at."""
        since = f"no better for {self.waited} epochs"
        if not self.not_finite:
            return since
        epochs = "all" if self.not_finite == self.waited else str(self.not_finite)
        return f"{since}: the {what} was NaN or infinite in {epochs} of them"
