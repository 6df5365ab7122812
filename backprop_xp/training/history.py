"""What a run came to, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..axes import new
from ..numbers import any_real, real, whole


@dataclass
class Epoch:
    """What one epoch came to. Losses are averages over the samples, without penalties.

    A net with reduction="mean" averages by the samples' weights, one with "sum" divides by their number.

    Attributes:
        number: from 1.
        step: how many steps were made by its end.
        loss: over its batches, each before its step.
        validation_loss: at its end, None without validation data.
        seconds: it took, validation included; of a resumed epoch, since it was resumed.
        terms: of several point sets by their names the average loss of each; ``loss`` is then their weighted sum. None
            without such.
    """

    number: int
    step: int
    loss: float
    validation_loss: float | None
    seconds: float
    terms: dict[str, float] | None = None


@dataclass(repr=False)
class History:
    """What a run came to. It prints as one line; :meth:`plot` draws it.

    Attributes:
        epochs: all of them, those before it was resumed included.
        best: the epoch, from 1, whose parameters early stopping has put back; None without it, and if no epoch ended
            with a finite loss.
        stopped: why it ended before its last epoch, "" if it did not.
        seed: what the order of the rows depends on, also if it was drawn; None for an iterable of batches.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int | None = None
    stopped: str = ""
    seed: int | None = None

    @property
    def losses(self) -> np.ndarray:
        """(epochs,) the loss of every epoch."""
        return np.array([epoch.loss for epoch in self.epochs], np.float64)

    @property
    def validation_losses(self) -> np.ndarray:
        """(epochs,) the validation loss of every epoch, NaN without validation data."""
        found = [epoch.validation_loss for epoch in self.epochs]
        return np.array([np.nan if loss is None else loss for loss in found], np.float64)

    def plot(self, axes: Any = None) -> Any:
        """Draw the losses by epoch, with a mark at the best epoch, by matplotlib.

        Args:
            axes: what to draw on; by default those of a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        if axes is None:
            axes = new("a history")
        numbers = [epoch.number for epoch in self.epochs]
        curves = [("training", self.losses), ("validation", self.validation_losses)]
        shown = [(label, losses) for label, losses in curves if not np.isnan(losses).all()]
        for label, losses in shown:
            axes.plot(numbers, losses, label=label, marker="o" if len(numbers) == 1 else None)
        if self.best is not None:
            losses = shown[-1][1]
            axes.plot(self.best, losses[self.best - 1], "o", color="black", label=f"best, epoch {self.best}")
        if all((losses[np.isfinite(losses)] > 0).all() for _, losses in shown):
            axes.set_yscale("log")  # losses fall by factors
        axes.set(xlabel="epoch", ylabel="loss")
        axes.grid(alpha=0.3)
        if shown:
            axes.legend()
        return axes

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epochs)"
        said = [_count(len(self.epochs), "epoch"), f"loss {_course(self.losses)}"]
        if not np.isnan(self.validation_losses).all():
            said.append(f"validation loss {_course(self.validation_losses)}")
        if self.best is not None:
            said.append(f"best at epoch {self.best}")
        if self.stopped:
            said.append(f"stopped: {self.stopped}")
        return f"History({', '.join(said)})"

    def as_json(self) -> dict[str, Any]:
        """The same in plain numbers and texts."""
        return asdict(self)

    @classmethod
    def from_json(cls, state: dict[str, Any], epochs: int, step: int, seed: int | None) -> History:
        """What :meth:`as_json` made, of a run of ``epochs`` epochs and ``step`` steps with this seed.

        Raises:
            KeyError, TypeError, ValueError: it says anything else.
        """
        if len(state["epochs"]) != epochs:
            raise ValueError(f"its history must have {epochs} epochs, it has {len(state['epochs'])}")
        best = None if state["best"] is None else whole("best", state["best"], 1, epochs)
        if not isinstance(state["stopped"], str):
            raise ValueError(f"stopped must be a text, got {state['stopped']!r}")
        found = [_epoch(saved, number, step) for number, saved in enumerate(state["epochs"], 1)]
        return cls(found, best, state["stopped"], seed)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _course(losses: np.ndarray) -> str:
    """ "6.05 -> 0.7829", or the one there is."""
    ends = losses if len(losses) == 1 else losses[[0, -1]]
    return " -> ".join(f"{loss:.4g}" for loss in ends)


def _epoch(saved: dict[str, Any], number: int, step: int) -> Epoch:
    held_out, terms = saved["validation_loss"], saved.get("terms")
    return Epoch(
        whole("the number of an epoch", saved["number"], number, number),
        whole("the step of an epoch", saved["step"], number, step),
        any_real("the loss of an epoch", saved["loss"]),
        None if held_out is None else any_real("the validation loss of an epoch", held_out),
        real("the seconds of an epoch", saved["seconds"], 0),
        None if terms is None else {name: any_real(f"the loss of {name!r}", loss) for name, loss in terms.items()},
    )
