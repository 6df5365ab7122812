"""The passes of kernels/stack.h and twice.h for losses with derivatives, and what a net and an equation give them.

Three kinds of libraries, each compiled once for a dtype and kept: the passes themselves, for nets of any widths; one
for each activation and set of derivatives; and one for each equation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import workspace
from ..activations import Identity
from ..derivatives.chain_rule import Rules
from ..derivatives.equation import Equation, Text, parse
from ..derivatives.of_activation import slopes
from ..derivatives.stacked import Skip
from ..derivatives.ways import Twice, cheapest
from ..dtypes import C_NAMES
from ..formulas import Formula, emit
from ..kernels import source as kernel_source
from ..passes.article import Layer
from ..toolchain import cache as kernel_cache
from ..toolchain import compiler
from . import matrices, stack_source, structs
from .fused import WRITTEN_OUT, same_registers
from .structs import INT, POINTER

#: Floating-point operations of a wave of chunks, and bytes of its partial sums, at most; but each thread has a chunk.
#: Chosen, not measured: as in narrow.py.
WAVE_FLOPS, WAVE_BYTES = 5e9, 8 << 20


class StackPass(structs.Holder):
    """The pass for one net and equation: one call of it.

    Args:
        layers: (weight (out, in), bias (out,) or None, activation) of each layer; arrays of one dtype, contiguous.
        skips: what is added to each.
        equation: its residuals.

    Attributes:
        args: what is handed over; a caller sets the fields of its batch.
        parameters: how many numbers the gradients have: of each layer's weight, then of its bias.

    Raises:
        CompileError: something can't be compiled here.
    """

    def __init__(self, layers: Sequence[Layer], skips: Sequence[Skip | None], equation: Equation) -> None:
        super().__init__(dtype := layers[0][0].dtype)
        way, cxx = equation.reads.way, compiler.find()
        self._core = _core(dtype.name, cxx)
        self._layers = (structs.StackLayer * len(layers))()
        for at, (weight, bias, f), skip in zip(self._layers, layers, skips):
            at.skip, at.before = (-2, False) if skip is None else skip
            at.outputs, at.inputs = weight.shape
            at.weight, at.bias = self.address(weight), None if bias is None else self.address(bias)
            if f.text != Identity.text and isinstance(way, Twice):
                at.slopes = _slopes(f.text, f.formula, f.name, dtype.name, cxx)
            elif f.text != Identity.text:
                at.forward, at.backward = _activation(f.text, f.formula, f.name, way.carried, dtype.name, cxx)
            at.p = self.scalars(f.parameters)
        stack = way.carried.stack
        axes = [along[0] if isinstance(along, tuple) and len(along) == 1 else -1 for along in stack]
        self.args = structs.Stack(
            depth=len(layers),
            signals=len(axes),
            output=way.output if isinstance(way, Twice) else -1,
            layers=ctypes.addressof(self._layers),
            axes=self.address(np.array(axes, np.int64)),
            targets=len(equation.targets),
            scale=1.0,
            equation=_function_of(equation.text, dtype.name, cxx),
            equation_p=self.scalars(equation.parameters),
            packed=self.address(np.empty(2 * sum(weight.size for weight, _, _ in layers), dtype)),
        )
        self._core.bpx_stack_prepare(ctypes.addressof(self.args))
        self.parameters = self.args.parameters

    def run(self, workers: int, total: np.ndarray) -> float:
        """The sum of the points' losses, without ``args.scale``; ``total`` (parameters,) gets the gradients."""
        args, wave = self.args, self._wave(workers)
        workers = min(workers, wave)
        with workspace.recycled():
            memory = workspace.empty((workers * args.numbers + 16,), self.dtype)
            sums, losses = workspace.empty((wave, self.parameters), self.dtype), np.empty(wave)
            used = self._chunks().bit_length()  # of the tree's levels
            levels, level_losses = workspace.empty((used, self.parameters), self.dtype), np.empty(used)
            args.memory = structs.aligned(memory)
            args.sums, args.losses = structs.address(sums), structs.address(losses)
            tree = structs.Tree(self.parameters, 0, structs.address(levels), structs.address(level_losses))
            for chunks in self._waves(workers, wave):
                self._core.bpx_tree_add(ctypes.addressof(tree), args.sums, args.losses, chunks)
            return self._core.bpx_tree_total(ctypes.addressof(tree), structs.address(total))

    def _waves(self, workers: int, wave: int) -> Iterator[int]:
        """How many chunks each wave had, when it is done."""
        args, address, shared = self.args, structs.address_of(self._core.bpx_stack), matrices.core(self.dtype.name)
        for first in range(0, chunks := self._chunks(), wave):
            args.first = args.next = first
            args.last, args.threads = min(first + wave, chunks), 0
            shared.bpx_share_out(address, ctypes.addressof(args), min(workers, args.last - first))
            yield args.last - first

    def _chunks(self) -> int:
        return -(-self.args.n // self._core.bpx_stack_chunk())

    def _wave(self, workers: int) -> int:
        """Chunks that are computed before their sums are added."""
        flops = 6 * self.parameters * self.args.signals * self._core.bpx_stack_chunk()
        by_memory = WAVE_BYTES // (self.parameters * self.dtype.itemsize)
        return max(1, min(max(workers, min(int(WAVE_FLOPS / flops), by_memory)), self._chunks()))


# What is kept is kept by compiler: one of other flags may give code for other registers, and libraries work together.
@cache
def _core(dtype: str, cxx: compiler.Compiler) -> Any:
    """The library with the pass."""
    text = kernel_source("twice.h") + f"BPX_STACK({C_NAMES[dtype]})\n"
    library = kernel_cache.library(text, f"the pass for equations in {dtype}")
    structs.check(library, structs.StackLayer, structs.Stack, structs.Tree)
    library.bpx_stack_prepare.argtypes, library.bpx_stack_prepare.restype = (POINTER,), None
    library.bpx_stack_chunk.argtypes, library.bpx_stack_chunk.restype = (), INT
    library.bpx_tree_add.argtypes, library.bpx_tree_add.restype = (POINTER, POINTER, POINTER, INT), None
    library.bpx_tree_total.argtypes, library.bpx_tree_total.restype = (POINTER, POINTER), structs.DOUBLE
    return library


@cache
def _activation(
    text: Any, formula: Formula, called: str, rules: Rules, dtype: str, cxx: compiler.Compiler
) -> tuple[int, int]:
    """The addresses of an activation's ``forward`` and ``backward``, which is no identity."""
    code, forward, backward, first = stack_source.activation(text, formula, rules, WRITTEN_OUT)
    signals, number = len(rules.stack), C_NAMES[dtype]
    code += (
        f"BPX_ENTRY void bpx_forward(bpx::i64 features, const {number}* t, {number}* z, bpx::i64 apart, "
        f"const {number}* p) {{\n"
        f"  bpx::stack_forward<{forward}, {first}, {signals}>(features, t, z, apart, p);\n}}\n"
        f"BPX_ENTRY void bpx_backward(bpx::i64 features, {number}* t, const {number}* grad_z, bpx::i64 apart, "
        f"const {number}* p) {{\n"
        f"  bpx::stack_backward<{backward}, {first}, {signals}>(features, t, grad_z, apart, p);\n}}\n"
    )
    library = _functions(code, f"derivatives of the activation {called} in {dtype}", dtype, cxx)
    return structs.address_of(library.bpx_forward), structs.address_of(library.bpx_backward)


@cache
def _slopes(text: Any, formula: Formula, called: str, dtype: str, cxx: compiler.Compiler) -> int:
    """The address of what gives an activation's value and two derivatives."""
    ruled, by_value = slopes(text)
    code, first = stack_source.beforehand(text, formula, by_value, WRITTEN_OUT)
    number = C_NAMES[dtype]
    code += emit.function(ruled, ("f0", "f1", "f2"), "Slopes") + (
        f"BPX_ENTRY void bpx_slopes(bpx::i64 features, {number}* z, {number}* first, {number}* second, "
        f"const {number}* p) {{\n"
        f"  bpx::stack_slopes<Slopes, {first}>(features, z, first, second, p);\n}}\n"
    )
    return structs.address_of(_functions(code, f"slopes of the activation {called} in {dtype}", dtype, cxx).bpx_slopes)


@cache
def _function_of(text: Text, dtype: str, cxx: compiler.Compiler) -> int:
    """The address of an equation's function."""
    parsed = parse(text)
    code = stack_source.equation(text, cheapest(parsed.named, parsed.rules)) + (
        "BPX_ENTRY void bpx_equation(const bpx::EquationBlock* block) {\n"
        f"  bpx::equation_block<Equation, {C_NAMES[dtype]}>(*block);\n}}\n"
    )
    return structs.address_of(_functions(code, f"an equation in {dtype}", dtype, cxx).bpx_equation)


def _functions(code: str, what: str, dtype: str, cxx: compiler.Compiler) -> Any:
    """A library around kernels/stack_functions.h, for registers as wide as those of the pass."""
    library = kernel_cache.library(kernel_source("stack_functions.h") + code, what)
    same_registers(library, _core(dtype, cxx), what)
    return library
