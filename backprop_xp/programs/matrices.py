"""The pass of kernels/matrices.h, which is compiled once for nets of all widths, and the functions a net gives it.

Three kinds of libraries, each compiled once for a dtype and kept: the pass itself, with the steps of training
around it; one for each activation; and one for each loss. A net that was never seen needs no compiler if its
activations and its loss were.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import precision as precisions
from ..activations import Identity
from ..dtypes import C_NAMES
from ..formulas import emit
from ..kernels import source as kernel_source
from ..toolchain import cache as kernel_cache
from ..toolchain import compiler
from . import structs
from .fused import WRITTEN_OUT, loss_source, same_registers
from .structs import INT, POINTER, Function, Matrices, MatrixLayer, Sweep, Training

#: The halves of a call, ``bpx::both_halves`` and so on of kernels/matrix_call.h.
BOTH, UP, DOWN = 0, 1, 2
#: Seconds after which a call comes back to Python, where an interrupt is seen.
SECONDS = 0.1
#: Multiply-adds of the forward pass that are worth a thread. Measured on Zen 4: to wake one takes some 15 us, in which
#: another does as much.
WORTH_A_THREAD = 1.5e6
#: Samples whose products are never rounded: they wait for the weights, which are float32. ``bpx::few_samples``.
FEW_SAMPLES = 24
#: The one precision that processors have, and what Linux calls it.
ROUNDED, FEATURE = "bfloat16", "avx512_bf16"


class Pass(structs.Holder):
    """The pass for one net: its arrays, activations and loss.

    Args:
        layers: (weight (out, in), bias (out,) or None, activation) of each layer; arrays of one dtype, contiguous.
        loss: the loss, None for outputs alone.
        loss_key: what :func:`backprop_xp.programs.arguments.loss_key` calls it.
        precision: that products are allowed, see :mod:`backprop_xp.precision`.

    Attributes:
        args: what is handed over; a caller sets the fields of its batch.
        parameters: how many numbers the weights and biases hold; ``args.grads`` has room for them, layer by layer.
        layers: what is handed over of each.
        slices: of each gradient in them, and its shape, in their order.

    Raises:
        CompileError: something can't be compiled here.
    """

    def __init__(
        self,
        layers: Sequence[tuple[np.ndarray, np.ndarray | None, Any]],
        loss: Any,
        loss_key: Any,
        precision: str = "float32",
    ) -> None:
        super().__init__(dtype := layers[0][0].dtype)
        self.core, self.parameters = core(dtype.name), 0
        self.slices: list[tuple[slice, tuple[int, ...]]] = []
        self.layers = (MatrixLayer * len(layers))()
        for at, (weight, bias, f) in zip(self.layers, layers):
            at.outputs, at.inputs = weight.shape
            at.weight, at.grad = self.address(weight), self._room(weight.shape)
            if bias is not None:
                at.bias, at.bias_grad = self.address(bias), self._room(bias.shape)
            at.f = Function(*activation(f, dtype.name), self.scalars(f.parameters))
        self.args = Matrices(depth=len(layers), layers=ctypes.addressof(self.layers), scale=1.0, time=SECONDS)
        self.args.worth_a_thread = WORTH_A_THREAD
        if loss is not None:
            self.args.loss, self.args.loss_p = loss_function(loss_key, dtype.name), self.scalars(parameters(loss))
        self.pointer = ctypes.addressof(self.args)
        self._rounds = not why_not_rounded(ROUNDED, [(w.shape[1], w.shape[0]) for w, _, _ in layers], dtype)
        self.allow(precision)

    def allow(self, precision: str) -> None:
        """Have the products of calls from now on as precise as this."""
        self.args.bfloat16 = self._rounds and precision == ROUNDED

    def put_weights_first(self) -> None:
        """Have the gradients of all weights before those of the biases, as a net's parameters stand."""
        slices, self.parameters, self.slices = iter(self.slices), 0, []
        shapes = [(next(slices)[1], next(slices)[1] if at.bias else None) for at in self.layers]
        for at, (weight, _) in zip(self.layers, shapes):
            at.grad = self._room(weight)
        for at, (_, bias) in zip(self.layers, shapes):
            if bias is not None:
                at.bias_grad = self._room(bias)

    def numbers(self) -> int:
        """Of the memory that this call wants, with room to begin at a multiple of 64 bytes."""
        return self.core.bpx_matrices_memory(self.pointer) + 16

    def use(self, memory: np.ndarray) -> None:
        """Work in this array, of the pass's dtype."""
        self.args.memory = structs.aligned(memory)

    def run(self) -> None:
        """Do what ``args`` says. When a signal's handler raises an exception, no thread is at work any more."""
        self.args.next, self.args.total = 0, 0.0
        while not self.core.bpx_matrices_run(self.pointer):
            pass

    def _room(self, shape: tuple[int, ...]) -> int:
        """Where a gradient of this shape goes: behind the others."""
        start, self.parameters = self.parameters, self.parameters + math.prod(shape)
        self.slices.append((slice(start, self.parameters), shape))
        return start


def parameters(loss: Any) -> Sequence[float]:
    """The numbers of a loss; one without a formula has none."""
    return getattr(loss, "parameters", ())


def why_not_rounded(precision: str, products: Sequence[tuple[int, int]], dtype: np.dtype) -> str:
    """Why products of these (inputs, outputs) are float32 where a net is allowed this precision, "" if they have it."""
    if precision != ROUNDED:
        return f"processors round to {ROUNDED} alone"
    return precisions.why_not(products, dtype, lacking())


def lacking() -> str:
    """Why this processor rounds nothing, "" if it does."""
    return "" if FEATURE in compiler.cpu_features() else "the processor has no AVX-512 BF16"


def core(dtype: str) -> Any:
    """The library with the pass. Raises CompileError."""
    return _core(dtype, compiler.find())


# What is kept is kept by compiler: one of other flags may give code for other registers, and libraries work together.
@cache
def _core(dtype: str, cxx: compiler.Compiler) -> Any:
    number = C_NAMES[dtype]
    text = kernel_source("training_cpu.h") + f"BPX_MATRICES({number})\nBPX_TRAINING({number})\n"
    library = kernel_cache.library(text, f"the pass for nets of any widths in {dtype}")
    structs.check(library, MatrixLayer, Matrices, Sweep, Training)
    for function in (library.bpx_matrices_memory, library.bpx_matrices_run, library.bpx_train):
        function.argtypes, function.restype = (POINTER,), INT
    library.bpx_matrices_wrong_class.argtypes, library.bpx_matrices_wrong_class.restype = (POINTER, INT, INT), INT
    library.bpx_share_out.argtypes, library.bpx_share_out.restype = (POINTER, POINTER, INT), None
    return library


def activation(f: Any, dtype: str) -> tuple[int | None, int | None]:
    """The addresses of an activation's ``both`` and ``value``; None for the identity. Raises CompileError."""
    if f.text == Identity.text:
        return None, None
    return _activation(f.text, f.formula, f.name, dtype, compiler.find())


@cache
def _activation(text: Any, formula: Any, called: str, dtype: str, cxx: compiler.Compiler) -> tuple[int, int]:
    name, code = WRITTEN_OUT.get(text), ""
    if name is None:
        name, code = "Activation", emit.struct(formula, "Activation", ("t",))
    number = C_NAMES[dtype]
    entries = (
        f"BPX_ENTRY void bpx_both(bpx::i64 n, const {number}* t, {number}* z, {number}* slope, const {number}* p) {{\n"
        f"  bpx::activation_both<{name}>(n, t, z, slope, p);\n}}\n"
        f"BPX_ENTRY void bpx_value(bpx::i64 n, const {number}* t, {number}* z, const {number}* p) {{\n"
        f"  bpx::activation_value<{name}>(n, t, z, p);\n}}\n"
    )
    library = _functions(code + entries, f"the activation {called} in {dtype}", dtype)
    return structs.address_of(library.bpx_both), structs.address_of(library.bpx_value)


def loss_function(key: Any, dtype: str) -> int:
    """The address of a loss's function of a block. Raises CompileError."""
    return structs.address_of(_loss(key, dtype, compiler.find()).bpx_loss)


def tile_loss(key: Any, dtype: str) -> int:
    """The address of a loss's function of a tile, see kernels/narrow_cpu.h. Raises CompileError."""
    return structs.address_of(_loss(key, dtype, compiler.find()).bpx_tile_loss)


@cache
def _loss(key: Any, dtype: str, cxx: compiler.Compiler) -> Any:
    name, code = loss_source(key)
    number = C_NAMES[dtype]
    entries = (
        "BPX_ENTRY void bpx_loss(const bpx::LossBlock* block, void* memory) {\n"
        f"  bpx::loss_block<{name}>(*block, ({number}*)memory);\n}}\n"
        f"BPX_ENTRY void bpx_tile_loss(bpx::i64 outputs, {number}* z, const {number}* y, const {number}* p, "
        f"const {number}* factor, {number}* losses) {{\n"
        f"  bpx::tile_loss<{name}>(outputs, z, y, p, factor, losses);\n}}\n"
    )
    what = f"the loss of {key} in {dtype}" if isinstance(key, str) else f"a loss in {dtype}"
    return _functions("\n".join(code) + entries, what, dtype)


def _functions(code: str, what: str, dtype: str) -> Any:
    """A library around kernels/matrix_functions.h, for registers as wide as those of the pass: blocks depend on it."""
    library = kernel_cache.library(kernel_source("matrix_functions.h") + code, what)
    same_registers(library, core(dtype), what)
    return library
