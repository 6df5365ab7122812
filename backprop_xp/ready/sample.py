"""One sample through a compiled net, with everything that a call needs at hand; every signal and gradient is kept."""

from __future__ import annotations

import ctypes
import threading
from itertools import pairwise
from typing import Any

import numpy as np

from .. import forks, workspace
from ..dtypes import C_NAMES
from ..formulas import emit
from ..kernels import source as kernel_source
from ..losses import terms
from ..plan.net import AnyNet
from ..programs import fused
from ..tensor import Tensor
from ..toolchain import cache
from .chain import Chain

#: Weights: beyond it, BLAS is faster than these loops. No figures were kept.
MOST_PARAMETERS = 4096


class Single:
    """The compiled form of a net as it is now. Raises CompileError."""

    def __init__(self, net: AnyNet, chain: Chain) -> None:
        self._lock = forks.lock(threading.RLock)
        self._layout(net, chain)
        self._room = workspace.Room(self._out.nbytes)
        text = source(net, chain)
        self._call = _shared(text, f"the net {'-'.join(map(str, chain.sizes))} for one sample")
        parameters = [number for f in chain.activations for number in f.parameters]
        parameters += net.loss.parameters
        self._numbers = np.array(parameters or [0.0], net.dtype)
        arrays = [data for _, data in chain.tensors]
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        self._y = np.empty(chain.sizes[-1], net.dtype) if net.loss.needs_target else None
        scale = 1.0 / terms(net.loss, chain.sizes[-1]) if net.reduction == "mean" else 1.0
        self._scale = np.array([scale], net.dtype)
        self._held = (pointers, arrays)
        self._kept = net._call(self._x, True, False)  # what a backward pass starts from, but for the sample
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

    def loss_and_grad(self, net: AnyNet, x: np.ndarray, y: np.ndarray | None) -> Any:
        """Fill every gradient and signal of the net, and return the loss."""
        with self._lock:  # the buffers are shared by all threads
            self._x[:] = x
            if self._y is not None:
                self._y[:] = y
            self._call(*self._args)
            buffer = self._out.copy()  # what was handed out is never overwritten
        for tensor, later in zip(self._filled, self._specs):
            tensor._later = (buffer, *later)
        kept = buffer[self._x_at]
        if self._input is not None:
            self._input.data, self._input.grad = kept, None
        net._kept = (self._kept, kept)
        return buffer[0]

    def _layout(self, net: AnyNet, chain: Chain) -> None:
        """Where in the output buffer each tensor's data and gradient lie."""
        self._input = chain.input
        self._filled: list[Tensor] = []
        self._specs: list[tuple[slice | None, slice, tuple[int, ...]]] = []
        at = 1
        for t, z, n in zip(chain.linear, chain.nonlinear, chain.sizes[1:]):
            for k, tensor in enumerate((t, z)):
                first, grad = at + k * n, at + (2 + k) * n
                if tensor is not None:
                    self._filled.append(tensor)
                    self._specs.append((slice(first, first + n), slice(grad, grad + n), (n,)))
            at += 4 * n
        for tensor, data in chain.tensors:
            self._filled.append(tensor)
            self._specs.append((None, slice(at, at + data.size), data.shape))
            at += data.size
        self._x_at = slice(at, at + chain.sizes[0])  # x is copied with the results: a backward pass may need it
        self._out = np.empty(self._x_at.stop, net.dtype)
        self._x = self._out[self._x_at]


def why_not(net: AnyNet) -> str:
    """Why this net, which has a compiled form, has none for one sample; "" if it has one."""
    if not net._plan().chain:
        return "the graph is no chain"
    sizes = net._plan().sizes
    if sum(a * b for a, b in pairwise(sizes)) > MOST_PARAMETERS:
        return f"it has more than {MOST_PARAMETERS} weights"
    if deep := fused.too_deep(len(sizes) - 1):
        return deep
    return "" if net.loss.is_formula else "the loss is no formula"


def source(net: AnyNet, chain: Chain) -> str:
    """C++ source of ``single(x, y, parameters, numbers, scale, out)`` for this net."""
    number, sizes, bias_at = C_NAMES[net.dtype.name], chain.sizes, len(chain.sizes) - 1
    null = f"({number}*)nullptr"
    places, total = [], 1  # of each layer's t; z, grad_t and grad_z follow it
    for n in sizes[1:]:
        places.append(total)
        total += 4 * n
    grad_weight, numbers = total, 0
    grad_bias = total + sum(a * b for a, b in pairwise(sizes))

    forward, backward = [], []
    for i, (inputs, n, has_bias) in enumerate(zip(sizes, sizes[1:], chain.bias)):
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
        numbers += len(chain.activations[i].parameters)
        grad_weight += n * inputs
        grad_bias, bias_at = grad_bias + n * has_bias, bias_at + has_bias
    loss = (
        f"  out[0] = bpx::loss_and_grad<L, {n}, {number}>(out + {z}, y, numbers + {numbers}, *scale, out + {grad_z});"
    )

    structs = [emit.struct(f.formula, f"F{i}", ("t",)) for i, f in enumerate(chain.activations)]
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
