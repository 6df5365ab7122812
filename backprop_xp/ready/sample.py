"""One sample through a compiled net, with everything that a call needs at hand; every signal and gradient is kept."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import forks, workspace
from ..formulas import emit
from ..kernels import source as kernel_source
from ..passes.article import Layer
from ..programs import fused
from ..programs.elementwise import NUMBERS
from ..tensor import Tensor
from ..toolchain import cache

if TYPE_CHECKING:
    from ..net import Net

#: Weights: beyond it, BLAS is faster than these loops. No figures were kept.
MOST_PARAMETERS = 4096


class Single:
    """The compiled form of a net as a snapshot shows it. Raises CompileError."""

    def __init__(self, net: Net, tensors: list[tuple[Tensor, np.ndarray]]) -> None:
        self._lock = forks.lock(threading.RLock)
        self._layout(net, tensors)
        self._room = workspace.Room(self._out.nbytes)
        text = source(net)
        self._call = _shared(text, f"the net {'-'.join(map(str, net.sizes))} for one sample")
        parameters = [number for f in net.activations for number in f.parameters]
        parameters += net.loss.parameters
        self._numbers = np.array(parameters or [0.0], net.dtype)
        arrays = [data for _, data in tensors]
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        self._y = np.empty(net.sizes[-1], net.dtype) if net.loss.needs_target else None
        scale = 1.0
        if net.reduction == "mean" and net.loss.mean_over == "elements":
            scale = 1.0 / net.sizes[-1]
        self._scale = np.array([scale], net.dtype)
        self._held = (pointers, arrays)
        biases = iter(arrays[len(net.weights) :])
        self._layers = [
            Layer(w, next(biases) if has else None, f) for w, has, f in zip(arrays, net.bias, net.activations)
        ]
        self._args = (
            self._x.ctypes.data,
            None if self._y is None else self._y.ctypes.data,
            ctypes.addressof(pointers),
            self._numbers.ctypes.data,
            self._scale.ctypes.data,
            self._out.ctypes.data,
        )

    def takes(self, x: np.ndarray, y: Any, keep_signals: bool | None) -> bool:
        """Whether this is a call that needs no more checks."""
        if forks.never_open(self._lock):
            return False
        if x.shape != self._x.shape or x.dtype.kind != "f" or keep_signals is False:
            return False
        if self._y is None:
            return y is None
        return type(y) is np.ndarray and y.shape == self._y.shape and y.dtype.kind == "f"

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
        net._kept = (self._layers, buffer[self._x_at])
        return buffer[0]

    def _layout(self, net: Net, tensors: list[tuple[Tensor, np.ndarray]]) -> None:
        """Where in the output buffer each tensor's data and gradient lie."""
        self._filled: list[Tensor] = []
        self._specs: list[tuple[slice | None, slice, tuple[int, ...]]] = []
        at = 1
        for t, z, n in zip(net.linear_outputs, net.nonlinear_outputs, net.sizes[1:]):
            for k, tensor in enumerate((t, z)):
                first, grad = at + k * n, at + (2 + k) * n
                self._filled.append(tensor)
                self._specs.append((slice(first, first + n), slice(grad, grad + n), (n,)))
            at += 4 * n
        for tensor, data in tensors:
            self._filled.append(tensor)
            self._specs.append((None, slice(at, at + data.size), data.shape))
            at += data.size
        self._x_at = slice(at, at + net.sizes[0])  # x is copied with the results: a backward pass may need it
        self._out = np.empty(self._x_at.stop, net.dtype)
        self._x = self._out[self._x_at]


def refuses(net: Net) -> str:
    """Why this net, which has a compiled form, has none for one sample; "" if it has one."""
    if sum(a * b for a, b in zip(net.sizes, net.sizes[1:])) > MOST_PARAMETERS:
        return f"it has more than {MOST_PARAMETERS} weights"
    if deep := fused.too_deep(len(net.sizes) - 1):
        return deep
    return "" if net.loss.is_formula else "the loss is no formula"


def source(net: Net) -> str:
    """C++ source of ``single(x, y, parameters, numbers, scale, out)`` for this net."""
    number, bias_at = NUMBERS[net.dtype.name], len(net.sizes) - 1
    null = f"({number}*)nullptr"
    places, total = [], 1  # of each layer's t; z, grad_t and grad_z follow it
    for n in net.sizes[1:]:
        places.append(total)
        total += 4 * n
    grad_weight, numbers = total, 0
    grad_bias = total + sum(a * b for a, b in zip(net.sizes, net.sizes[1:]))

    forward, backward = [], []
    for i, (inputs, n, has_bias) in enumerate(zip(net.sizes, net.sizes[1:], net.bias)):
        t = places[i]
        z, grad_t, grad_z = t + n, t + 2 * n, t + 3 * n
        previous = f"out + {places[i - 1] + inputs}" if i else "x"
        grad_previous = f"out + {places[i - 1] + 3 * inputs}" if i else null
        bias = f"parameters[{bias_at}]" if has_bias else null
        forward.append(
            f"  {number} slope{i}[{n}];\n"
            f"  bpx::forward_layer<F{i}, {n}, {inputs}, {number}>(\n"
            f"      parameters[{i}], {bias}, {previous}, numbers + {numbers}, out + {t}, out + {z}, slope{i});"
        )
        backward.append(
            f"  bpx::backward_layer<{n}, {inputs}, {number}>(\n"
            f"      parameters[{i}], {previous}, slope{i}, out + {grad_z}, out + {grad_t}, out + {grad_weight},\n"
            f"      {f'out + {grad_bias}' if has_bias else null}, {grad_previous});"
        )
        numbers += len(net.activations[i].parameters)
        grad_weight += n * inputs
        grad_bias, bias_at = grad_bias + n * has_bias, bias_at + has_bias
    loss = (
        f"  out[0] = bpx::loss_and_grad<L, {n}, {number}>(out + {z}, y, numbers + {numbers}, *scale, out + {grad_z});"
    )

    structs = [emit.struct(f.formula, f"F{i}", ("t",)) for i, f in enumerate(net.activations)]
    structs.append(emit.struct(net.loss.kernel.formula, "L", ("z", "y"), per_output=net.loss.kernel.per_output))
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
