"""What chains and graphs have in common: settings, a loss, and parameters with gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from . import engines, inputs, workspace
from .backend import Array, Backend, get_backend
from .losses import Loss, averaged, check_outputs, get_loss, product, resolved
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
        """All tensors that are trained, each once, wherever it stands in the net."""
        return list(dict.fromkeys(self._places()))

    def _places(self) -> list[Tensor]:
        """The tensor of every place that has one, in the order of engines' gradients."""
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
        loss = get_loss(self.loss) if call.loss is None else call.loss
        check_outputs(loss, output_shape[-1])
        y = inputs.as_target(y, loss, output_shape, self.backend, self.dtype, call.whole)
        weight = inputs.as_sample_weight(sample_weight, output_shape[:-1], self.backend, self.dtype)
        with self.backend.activate():
            call.loss, call.y, factor, counts = resolved(loss, y, output_shape, self.dtype)
            call.weight, counts = (product(weight, self._placed(each)) for each in (factor, counts))
            if inputs.one_of("reduction", self.reduction, REDUCTIONS) == "mean":
                call.scale, call.weight = averaged(call.loss, output_shape, call.weight, counts)

    def _placed(self, weights: Array | None) -> Array | None:
        """Weights of targets that may have stayed on the host."""
        return None if weights is None else self.backend.asarray(weights, self.dtype, "the weights of classes")

    def _needs_whole_batch(self) -> str:
        """A clause about what needs the whole batch at once, "" if nothing does; see :mod:`backprop_xp.scope`."""
        raise NotImplementedError

    def _store(self, gradients: Iterable[Array], accumulate: bool) -> None:
        total: dict[Tensor, Array] = {}
        for tensor, grad in zip(self._places(), gradients, strict=True):
            total[tensor] = total[tensor] + grad if tensor in total else grad
        for tensor, grad in total.items():
            # a new array each time: one that was handed out is never overwritten
            tensor.grad = tensor.grad + grad if accumulate and tensor.grad is not None else grad

    def _move(self, backend: str | Backend) -> None:
        """All parameters, and their gradients, to this backend."""
        target = get_backend(backend)
        for tensor in self.parameters:
            tensor.data = target.take(tensor.data)
            tensor.grad = target.take(tensor.grad)
        self.backend = target
