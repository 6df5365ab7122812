"""What chains and graphs have in common: settings, a loss, and parameters with gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from . import engines, inputs, workspace
from .backend import Array, Backend, get_backend
from .losses import Loss, averaged, get_loss
from .tensor import Tensor
from .threads import count
from .training.fit import fit

REDUCTIONS = ("sum", "mean")


class Model:
    """The part of :class:`backprop_xp.Net` and :class:`backprop_xp.GraphNet` that doesn't depend on the net's form."""

    def __init__(
        self,
        loss: str | Loss,
        dtype: Any,
        backend: str | Backend | None,
        reduction: str,
        engine: str,
        threads: int | None,
    ) -> None:
        self.loss = get_loss(loss)
        self.dtype = inputs.as_dtype(dtype)
        self.reduction = inputs.one_of("reduction", reduction, REDUCTIONS)
        self.engine = inputs.one_of("engine", engine, ("auto", *engines.ENGINES))
        self.threads = threads if threads is None else count(threads)
        self.backend = get_backend(backend)

    @property
    def parameters(self) -> list[Tensor]:
        """All tensors that are trained."""
        raise NotImplementedError

    fit = fit

    def save(self, path: str | PathLike[str]) -> None:
        """Write the net to a file, see :func:`backprop_xp.exchange.save`."""
        from .exchange import save  # it imports the classes of nets

        save(self, path)

    @staticmethod
    def load(path: str | PathLike[str], *, custom: Mapping[str, Any] | None = None, backend: Any = None) -> Any:
        """The net in a file, see :func:`backprop_xp.exchange.load`."""
        from .exchange import load

        return load(path, custom=custom, backend=backend)

    def __del__(self) -> None:
        workspace.clear()

    def _aim(self, call: Any, y: Any, sample_weight: Any, output_shape: tuple[int, ...]) -> None:
        """Give a call the loss and the targets for outputs of this shape."""
        call.loss = get_loss(self.loss)
        call.y = inputs.as_target(y, call.loss, output_shape, self.backend, self.dtype, call.whole)
        call.weight = inputs.as_sample_weight(sample_weight, output_shape[:-1], self.backend, self.dtype)
        if inputs.one_of("reduction", self.reduction, REDUCTIONS) == "mean":
            with self.backend.activate():
                call.scale, call.weight = averaged(call.loss, output_shape, call.weight)

    def _store(self, gradients: Iterable[Array], accumulate: bool) -> None:
        for tensor, grad in zip(self.parameters, gradients, strict=True):
            # a new array each time: one that was handed out is never overwritten
            tensor.grad = tensor.grad + grad if accumulate and tensor.grad is not None else grad

    def _move(self, backend: str | Backend) -> None:
        """All parameters, and their gradients, to this backend."""
        target = get_backend(backend)
        for tensor in self.parameters:
            tensor.data = target.take(tensor.data)
            tensor.grad = target.take(tensor.grad)
        self.backend = target
