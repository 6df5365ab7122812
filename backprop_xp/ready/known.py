"""A net on a CUDA device as it was, to be compared with what it is in a few microseconds."""

from __future__ import annotations

from ..plan.net import AnyNet
from .chain import why_not_functions


class Known:
    """By identity, where that suffices: numbers in arrays may change."""

    def __init__(self, net: AnyNet) -> None:
        self._settings = (net.engine, net.precision, net.dtype, net.backend)
        self._parameters, _, functions, self._reduction = net._now()
        self._functions = [(f, dict(vars(f))) for f in functions]
        self._tensors = [*net._places(), *net.buffers.values()]
        self.look_again()

    def look_again(self) -> None:
        """Take the arrays for known that tensors have now."""
        self._arrays = [(tensor, tensor.data, tensor.data.shape, tensor.data.strides) for tensor in self._tensors]

    def holds(self, net: AnyNet) -> bool:
        """Whether nothing has changed but numbers in arrays."""
        if (net.engine, net.precision, net.dtype, net.backend) != self._settings:
            return False
        parameters, _, functions, reduction = net._now()
        if parameters != self._parameters or reduction != self._reduction or len(functions) != len(self._functions):
            return False
        for tensor, data, shape, strides in self._arrays:
            if tensor.data is not data or data.shape != shape or data.strides != strides:
                return False
        return all(f is known and f.__dict__ == state for f, (known, state) in zip(functions, self._functions))


def as_it_is(net: AnyNet) -> Known | None:
    """The net as it is now; None if something may change without becoming another object."""
    return None if why_not_functions(net._now()[2]) else Known(net)
