"""What a loss that is no number says: at which step, and where in the net it began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..backend import module_of
from ..tensor import tensors_of
from .batches import AnyBatch, Batch


class DivergedError(ArithmeticError):
    """The loss became NaN or infinite.

    The parameters are those before that step; after :func:`backprop_xp.training.fit` with early stopping, those of the
    best epoch, if one had ended.

    Attributes:
        history: of the run so far, None outside of :func:`backprop_xp.training.fit`.
        step: the step, from 1.
        layer: the first parameter or signal that isn't finite, "" if none was found.
        checkpoint: the last good one, None if there is none.
    """

    def __init__(self, message: str, step: int, layer: str, checkpoint: Path | None) -> None:
        super().__init__(message)
        self.history: Any = None
        self.step, self.layer, self.checkpoint = step, layer, checkpoint


def diverged(net: Any, batch: AnyBatch, step: int, loss: Any, checkpoint: Path | None) -> DivergedError:
    """The error for a loss that isn't finite at this step, for this batch."""
    layer, where = _find(net, batch.parts)
    good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint"
    return DivergedError(f"the loss became {float(loss):g} at step {step}: {where}; {good}", step, layer, checkpoint)


def check_parameters(net: Any, step: int, checkpoint: Path | None) -> None:
    """Raise DivergedError if a parameter or a buffer isn't finite after this step."""
    if name := _first((tensor.name, tensor.data) for tensor in tensors_of(net)):
        good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint"
        raise DivergedError(f"{name} is no longer finite after step {step}; {good}", step, name, checkpoint)


def _find(net: Any, parts: Mapping[str, Batch]) -> tuple[str, str]:
    """The name of what isn't finite first on the way from the batch to the loss, and a clause about it."""
    for of, (x, y, weight, *_) in parts.items():
        for what, data in (("the input x", x), ("the target y", y), ("sample_weight", weight)):
            if data is not None and _first((what, a) for a in (data.values() if isinstance(data, dict) else [data])):
                return "", f"{what} of its batch{of} isn't finite"
    if name := _first((tensor.name, tensor.data) for tensor in net.parameters):
        return name, f"the parameter {name} isn't finite"
    for of, batch in parts.items():
        if name := _first(_signals(net, batch.x)):
            return name, f"{name} is the first signal that isn't finite{of}"
    return "", "every signal is finite, but not the loss of the outputs"


def _signals(net: Any, x: Any) -> Iterable[tuple[str, Any]]:
    """Every value, in the order of computation; of nets that other trainers have none."""
    if hasattr(net, "signals"):
        net.forward(x, keep_signals=True)
        for name, tensor in net.signals.items():
            yield name, tensor.data


def _first(named: Iterable[tuple[str | None, Any]]) -> str:
    for name, array in named:
        xp = module_of(array)
        if not bool(xp.isfinite(xp.asarray(array)).all()):
            return name or "a parameter"
    return ""
