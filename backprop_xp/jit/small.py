"""A small batch through the fused pass in one call of C, on one thread: one chunk, whose sums are the gradients."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import forks, workspace
from ..losses import SoftmaxCrossEntropy
from ..tensor import Tensor
from . import fused, structs

if TYPE_CHECKING:
    from ..net import Net

#: Numbers in weights and biases. Chosen, not measured: beyond it (1 or 2 MiB) the memory that is kept from call to call
#: is too much for the microseconds that are saved.
MOST_PARAMETERS = 1 << 18
#: Multiply-adds of a forward pass on one thread: beyond it (about half a millisecond) sharing it out pays. Calculated.
MOST_MULTIPLY_ADDS = 1 << 24


def refuses(net: Net) -> str:
    """Why this net, which has a compiled form, has none for small batches; "" if it has one."""
    if max(net.sizes) > fused.MOST_WIDTH:
        return f"the net is wider than {fused.MOST_WIDTH}"
    if sum((a + 1) * b for a, b in zip(net.sizes, net.sizes[1:])) > MOST_PARAMETERS:
        return f"it has more than {MOST_PARAMETERS} parameters"
    return fused.too_deep(len(net.sizes) - 1)


def target(net: Net, y: Any) -> str:
    """What kind of target this is: "none", "values" or "classes"."""
    if y is None:
        return "none"
    takes_classes = type(net.loss) is SoftmaxCrossEntropy and getattr(y, "ndim", 0) == 1
    return "classes" if takes_classes else "values"


class Small:
    """The compiled form of a net for small batches with one kind of target. Raises CompileError."""

    def __init__(self, net: Net, tensors: list[tuple[Tensor, np.ndarray]], target: str) -> None:
        self._lock = forks.lock()
        self._dtype, self._features, self._outputs = net.dtype, net.sizes[0], net.sizes[-1]
        self._target = target
        self._wanted = target == "none" if not net.loss.needs_target else target != "none"
        if not self._wanted:
            return
        mean = net.reduction == "mean"
        self._parts = (net.sizes[-1] if net.loss.mean_over == "elements" else 1) if mean else 0
        if type(net.loss) is SoftmaxCrossEntropy:
            loss = "classes" if target == "classes" else "probabilities"
        else:
            loss = net.loss.kernel
        shape = _shape(net, loss, factors=mean)
        program = fused.program(shape, net.activations)
        self.most = shape.narrow_chunk
        if shape.wide:
            rows = program.bpx_wide_rows()
            self.most = fused.wide_chunk(shape.multiply_adds, 1, rows)
        parameters = _in_order(tensors, len(net.weights))
        self._out = np.empty(1 + shape.parameters, net.dtype)
        self._call = program.bpx_small
        self._fixed, self._held = _fixed(net, parameters, program, self._out)
        self._later: list[tuple[Tensor, slice, tuple[int, ...]]] = []
        at = 1
        for tensor, data in parameters:
            self._later.append((tensor, slice(at, at + data.size), data.shape))
            at += data.size

    def takes(self, x: np.ndarray, y: Any) -> bool:
        """Whether this is a call that needs no more checks."""
        n = len(x)
        if not self._wanted or not 0 < n <= self.most or x.dtype != self._dtype or x.shape[1] != self._features:
            return False
        if not x.flags.c_contiguous or not x.flags.aligned:
            return False
        if self._target == "none":
            return True
        if type(y) is not np.ndarray or not y.flags.c_contiguous or not y.flags.aligned:
            return False
        if self._target == "classes":
            return y.dtype == np.int64 and y.shape == (n,)
        return y.dtype == self._dtype and y.shape == (n, self._outputs)

    def loss_and_grad(self, net: Net, x: np.ndarray, y: np.ndarray | None) -> Any:
        """Fill every gradient of the net, and return the loss."""
        n = len(x)
        scale = 1.0 / self._parts / n if self._parts else 1.0
        at = x.__array_interface__["data"][0]
        y_at = None if y is None else y.__array_interface__["data"][0]
        with self._lock:  # the buffers are shared by all threads
            wrong = self._call(self._fixed, n, at, y_at, scale)
            buffer = self._out.copy()  # what was handed out is never overwritten
        if wrong >= 0:
            assert y is not None
            raise ValueError(f"class indices must be from 0 to {self._outputs - 1}, got {y[wrong]}")
        for tensor, grad, shape in self._later:
            tensor._later = (buffer, None, grad, shape)
        _drop_signals(net)
        return buffer[0]


class SmallForward:
    """The compiled form of a net for the outputs of small batches. Raises CompileError."""

    def __init__(self, net: Net, tensors: list[tuple[Tensor, np.ndarray]]) -> None:
        self._lock = forks.lock()
        self._dtype, self._features, self._outputs = net.dtype, net.sizes[0], net.sizes[-1]
        shape = _shape(net, None)
        self.most = MOST_MULTIPLY_ADDS // max(1, shape.parameters)
        program = fused.program(shape, net.activations)
        self._call = program.bpx_small_forward
        self._fixed, self._held = _fixed(net, _in_order(tensors, len(net.weights)), program, None)

    def takes(self, x: np.ndarray) -> bool:
        """Whether this is a call that needs no more checks."""
        if not 0 < len(x) <= self.most or x.dtype != self._dtype or x.shape[1] != self._features:
            return False
        return x.flags.c_contiguous and x.flags.aligned

    def forward(self, net: Net, x: np.ndarray) -> np.ndarray:
        """The outputs (n, out)."""
        output = np.empty((len(x), self._outputs), self._dtype)
        at, output_at = x.__array_interface__["data"][0], output.__array_interface__["data"][0]
        with self._lock:
            self._call(self._fixed, len(x), at, output_at)
        _drop_signals(net)
        return output


def _shape(net: Net, loss: Any, factors: bool = False) -> fused.Shape:
    texts = tuple(f.text for f in net.activations)
    return fused.Shape(net.sizes, bool(net.biases), net.dtype.name, texts, loss, factors)


def _fixed(
    net: Net, parameters: list[tuple[Tensor, np.ndarray]], program: Any, out: np.ndarray | None
) -> tuple[int, Any]:
    """The address of a ``bpx::Small``, and what must stay alive beside it."""
    arrays = [data for _, data in parameters]
    room = workspace.Room(program.bpx_small_memory() + sum(array.nbytes for array in arrays))
    memory = np.empty(program.bpx_small_memory() + 64, np.uint8)
    scalars = [number for f in (*net.activations, net.loss) for number in getattr(f, "parameters", ())]
    numbers = np.array(scalars or [0.0], net.dtype)
    pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    sizes = (ctypes.c_int64 * len(arrays))(*(array.size for array in arrays))
    packed = np.empty(sum(sizes), net.dtype)
    fixed = structs.SmallNet(
        ctypes.addressof(pointers), ctypes.addressof(sizes), len(arrays), packed.ctypes.data, numbers.ctypes.data,
        -(-memory.ctypes.data // 64) * 64, None if out is None else out.ctypes.data,
    )  # fmt: skip
    return ctypes.addressof(fixed), (room, arrays, memory, numbers, pointers, sizes, packed, fixed)


def _drop_signals(net: Net) -> None:
    """Forget the signals that an earlier call kept."""
    if net._kept is not None or net.linear_outputs[0].data is not None:
        net._keep(None, None)


def _in_order(tensors: list[tuple[Tensor, np.ndarray]], depth: int) -> list[tuple[Tensor, np.ndarray]]:
    """Weight and bias of every layer, as kernels take parameters."""
    pairs = zip(tensors[:depth], tensors[depth:]) if len(tensors) > depth else ((w,) for w in tensors)
    return [tensor for pair in pairs for tensor in pair]
