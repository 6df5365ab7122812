"""One sample through a compiled net, with everything that a call needs at hand.

Checks that cost a microsecond each are made once; what a user may change between calls (arrays, activations,
parameters of activations) is compared with what it was when they were made, by identity where that suffices.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formulas import emit
from ..kernels import source as kernel_source
from ..tensor import Tensor
from . import cache, compiler
from .elementwise import NUMBERS

if TYPE_CHECKING:
    from ..net import Net

MOST_PARAMETERS = 4096  # beyond it, BLAS is faster than these loops


class Single:
    """The compiled form of a net as it is now. Raises CompileError."""

    def __init__(self, net: Net) -> None:
        self._lock = threading.Lock()
        self._tensors = [(tensor, tensor.data) for tensor in (*net.weights, *net.biases)]
        self._functions = [(f, dict(vars(f))) for f in (*net.activations, net.loss)]
        self._lists = (net.weights, net.biases, net.activations, net.reduction)
        self._signals = [*net.linear_outputs, *net.nonlinear_outputs]
        self._x = np.empty(net.sizes[0], net.dtype)
        self._layout(net)
        text = source(net)
        function = _shared(text, f"the net {'-'.join(map(str, net.sizes))} for one sample")
        parameters = [number for f in net.activations for number in f.parameters]
        parameters += net.loss.parameters
        self._numbers = np.array(parameters or [0.0], net.dtype)
        arrays = [data for _, data in self._tensors]
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        self._y = np.empty(net.sizes[-1], net.dtype) if net.loss.needs_target else None
        scale = 1.0
        if net.reduction == "mean" and net.loss.mean_over == "elements":
            scale = 1.0 / net.sizes[-1]
        self.x_shape, self.y_shape = self._x.shape, None if self._y is None else self._y.shape
        self._scale = np.array([scale], net.dtype)
        self._held = (pointers, arrays)
        self._call = function
        self._args = (
            self._x.ctypes.data,
            None if self._y is None else self._y.ctypes.data,
            ctypes.addressof(pointers),
            self._numbers.ctypes.data,
            self._scale.ctypes.data,
            self._out.ctypes.data,
        )

    def current(self, net: Net) -> bool:
        """Whether the net is still what was compiled."""
        weights, biases, activations, reduction = self._lists
        if net.weights is not weights or net.biases is not biases or net.reduction != reduction:
            return False
        if len(activations) + 1 != len(self._functions) or len(weights) + len(biases) != len(self._tensors):
            return False
        if [*net.linear_outputs, *net.nonlinear_outputs] != self._signals:
            return False
        for tensor, (known, data) in zip((*weights, *biases), self._tensors):
            if tensor is not known or tensor._data is not data:
                return False
        return all(
            f is known and f.__dict__ == state
            for f, (known, state) in zip((*net.activations, net.loss), self._functions)
        )

    def loss_and_grad(self, net: Net, x: np.ndarray, y: np.ndarray | None) -> Any:
        """Fill every gradient and signal of the net, and return the loss."""
        with self._lock:  # the buffers are shared by all threads
            self._x[:] = x
            if self._y is not None:
                self._y[:] = y
            self._call(*self._args)
            buffer = self._out.copy()  # what was handed out is never overwritten
        for tensor, later in zip(self._filled, self._specs):
            tensor._later = (buffer, *later)
        return buffer[0]

    def _layout(self, net: Net) -> None:
        """Where in the output buffer each tensor's data and gradient lie."""
        self._filled: list[Tensor] = []
        self._specs: list[tuple[slice | None, slice, tuple[int, ...]]] = []
        at = 1
        for t, z, n in zip(net.linear_outputs, net.nonlinear_outputs, net.sizes[1:]):
            for k, tensor in enumerate((t, z)):
                data, grad = at + k * n, at + (2 + k) * n
                self._filled.append(tensor)
                self._specs.append((slice(data, data + n), slice(grad, grad + n), (n,)))
            at += 4 * n
        for tensor, data in self._tensors:
            self._filled.append(tensor)
            self._specs.append((None, slice(at, at + data.size), data.shape))
            at += data.size
        self._out = np.empty(at, net.dtype)


def refuses(net: Net) -> str:
    """Why this net has no compiled form for one sample, "" if it has one."""
    if net.backend.on_gpu:
        return "it runs on the CPU"
    tensors = (*net.weights, *net.biases)
    if sum(a * b for a, b in zip(net.sizes, net.sizes[1:])) > MOST_PARAMETERS:
        return f"it has more than {MOST_PARAMETERS} weights"
    if not all(getattr(f, "is_formula", False) for f in (*net.activations, net.loss)):
        return "an activation or the loss is no formula"
    if any(isinstance(value, np.ndarray) for f in (*net.activations, net.loss) for value in vars(f).values()):
        return "a parameter of an activation or of the loss is an array, which may change in place"
    if net.reduction not in ("sum", "mean"):
        return "the reduction is unknown"
    for tensor in tensors:
        data = tensor.data
        if type(data) is not np.ndarray or data.dtype != net.dtype or not data.flags.c_contiguous:
            return "a parameter is no contiguous array of the net's dtype"
    return compiler.missing()


def source(net: Net) -> str:
    """C++ source of ``single(x, y, parameters, numbers, scale, out)`` for this net."""
    number, depth = NUMBERS[net.dtype.name], len(net.sizes) - 1
    null = f"({number}*)nullptr"
    places, total = [], 1  # of each layer's t; z, grad_t and grad_z follow it
    for n in net.sizes[1:]:
        places.append(total)
        total += 4 * n
    grad_weight, numbers = total, 0
    grad_bias = total + sum(a * b for a, b in zip(net.sizes, net.sizes[1:]))

    forward, backward = [], []
    for i, (inputs, n) in enumerate(zip(net.sizes, net.sizes[1:])):
        t = places[i]
        z, grad_t, grad_z = t + n, t + 2 * n, t + 3 * n
        previous = f"out + {places[i - 1] + inputs}" if i else "x"
        grad_previous = f"out + {places[i - 1] + 3 * inputs}" if i else null
        bias = f"parameters[{depth + i}]" if net.biases else null
        forward.append(
            f"  {number} slope{i}[{n}];\n"
            f"  bpx::forward_layer<F{i}, {n}, {inputs}, {number}>(\n"
            f"      parameters[{i}], {bias}, {previous}, numbers + {numbers}, out + {t}, out + {z}, slope{i});"
        )
        backward.append(
            f"  bpx::backward_layer<{n}, {inputs}, {number}>(\n"
            f"      parameters[{i}], {previous}, slope{i}, out + {grad_z}, out + {grad_t}, out + {grad_weight},\n"
            f"      {f'out + {grad_bias}' if net.biases else null}, {grad_previous});"
        )
        numbers += len(net.activations[i].parameters)
        grad_weight, grad_bias = grad_weight + n * inputs, grad_bias + n
    loss = (
        f"  out[0] = bpx::loss_and_grad<L, {n}, {number}>(out + {z}, y, numbers + {numbers}, *scale, out + {grad_z});"
    )

    structs = [emit.struct(f.formula, f"F{i}", ("t",)) for i, f in enumerate(net.activations)]
    structs.append(emit.struct(net.loss.kernel_formula, "L", ("z", "y")))
    entry = (
        f"BPX_ENTRY void single(const {number}* x, const {number}* y, const {number}* const* parameters,\n"
        f"                      const {number}* numbers, const {number}* scale, {number}* out) {{"
    )
    code = [entry, *forward, loss, *reversed(backward), "}", ""]
    return "\n".join([kernel_source("single.h"), *structs, *code])


def _shared(text: str, what: str) -> Any:
    """The compiled function, called without letting go of the interpreter: it takes about a microsecond."""
    library = ctypes.PyDLL(None, handle=cache.library(text, what)._handle)
    function = library.single
    function.argtypes = (ctypes.c_void_p,) * 6
    function.restype = None
    return function
