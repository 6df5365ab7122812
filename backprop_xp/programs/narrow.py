"""The narrow form of the fused pass, kernels/narrow_cpu.h: many samples of a small chain.

What is compiled for one net, kernels/dense_cpu.h, are the products of its layers alone, whatever its activations, its
loss and the kind of call: somebody waits for it. The rest is compiled once a machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..dtypes import C_NAMES
from ..kernels import source as kernel_source
from ..losses import KernelLoss
from ..toolchain import cache as kernel_cache
from ..toolchain import compiler
from . import fused, matrices, structs
from .matrices import Pass
from .structs import INT, POINTER

#: Floating-point operations of a wave of chunks, and bytes of its partial sums, at most. Chosen, not measured: a wave
#: takes some hundredths of a second, after which an interrupt is seen, and its sums fit a third-level cache.
WAVE_FLOPS, WAVE_BYTES = 5e9, 8 << 20
#: What targets a loss takes, ``bpx::Target`` of kernels/losses.h.
NO_TARGET, VALUES, CLASSES = 0, 1, 2


class Narrow(structs.Holder):
    """The pass for one net.

    The batch is cut into chunks, which threads take one after another; their sums are added in a fixed tree.

    Args:
        activations: of each layer.
        parameters: the weight (out, in) and the bias (out) of every layer, contiguous; their numbers are read in every
            call.
        loss: the loss, None for outputs alone.

    Attributes:
        args: what is handed over; a caller sets the fields of its batch. ``args.grads`` has room for the gradients,
            layer by layer or, after :meth:`give_as`, as another pass has them.

    Raises:
        CompileError: it can't be compiled here.
    """

    def __init__(
        self, shape: fused.Shape, activations: Sequence[Any], parameters: Sequence[np.ndarray], loss: Any
    ) -> None:
        super().__init__(parameters[0].dtype)
        self._shape, dtype = shape, shape.dtype
        self._parts, products = parts(dtype), program(shape)
        self._layers = (structs.NarrowLayer * len(shape.bias))()
        arrays, begin = iter(parameters), 0
        for at, has_bias, f, sizes in zip(self._layers, shape.bias, activations, zip(shape.sizes, shape.sizes[1:])):
            at.inputs, at.outputs = sizes
            at.weight = self.address(next(arrays))
            at.bias = self.address(next(arrays)) if has_bias else None
            at.grad, at.bias_grad = begin, begin + at.inputs * at.outputs
            begin = at.bias_grad + at.outputs * has_bias
            product = products[*sizes, has_bias]
            at.linear, at.backward, at.outer = product.linear, product.backward, product.outer
            at.f = structs.Function(*matrices.activation(f, dtype), self.scalars(f.parameters))
        self.args = structs.Narrow(
            depth=len(self._layers),
            layers=ctypes.addressof(self._layers),
            scale=1.0,
            chunk=shape.narrow_chunk,
            share_out=structs.address_of(matrices.core(dtype).bpx_share_out),
            time=matrices.SECONDS,
        )
        if loss is not None:
            self.args.loss, self.args.loss_p = (
                matrices.tile_loss(shape.loss, dtype),
                self.scalars(matrices.parameters(loss)),
            )
            self.args.target = _target(shape.loss)
        self.pointer = ctypes.addressof(self.args)

    def give_as(self, other: Pass) -> None:
        """Give the gradients in the order in which another pass for this net gives them."""
        for at, there in zip(self._layers, other.layers):
            at.grad, at.bias_grad = there.grad, there.bias_grad

    @property
    def entry(self) -> int:
        """The address of the function of C that does what ``args`` says, for code of C to call."""
        return structs.address_of(self._parts.bpx_narrow_run)

    def numbers(self) -> int:
        """Of the memory that this call wants, with room to begin at a multiple of 64 bytes."""
        self.args.wave = wave_chunks(self._shape, self.args.n)
        return self._parts.bpx_narrow_memory(self.pointer) + 64 // self.dtype.itemsize

    def use(self, memory: np.ndarray) -> None:
        """Work in this array, of the pass's dtype."""
        self.args.memory = structs.aligned(memory)

    def run(self) -> None:
        """Do what ``args`` says. When a signal's handler raises an exception, no thread is at work any more."""
        self.args.next = 0
        while not self._parts.bpx_narrow_run(self.pointer):
            pass


def wave_chunks(shape: fused.Shape, samples: int) -> int:
    """Chunks of a batch that are computed before their sums are added."""
    by_time = int(WAVE_FLOPS / (shape.flops * shape.narrow_chunk))
    by_memory = WAVE_BYTES // (shape.parameters * shape.itemsize)
    return max(1, min(max(16, min(by_time, by_memory)), -(-samples // shape.narrow_chunk)))


@dataclass(frozen=True)
class Products:
    """The addresses of one layer's products, see kernels/dense_cpu.h."""

    linear: int
    backward: int
    outer: int


_programs: dict[Any, dict[tuple[int, int, bool], Products]] = {}


def program(shape: fused.Shape) -> dict[tuple[int, int, bool], Products]:
    """The compiled products by inputs, outputs, and whether there is a bias. Raises CompileError."""
    key = shape.sizes, shape.bias, shape.dtype, compiler.find()
    if key not in _programs:
        what = f"the net {'-'.join(map(str, shape.sizes))} in {shape.dtype}"
        library = kernel_cache.library(source(shape), what)
        fused.same_registers(library, parts(shape.dtype), what)
        _programs[key] = {
            layer: Products(
                *(structs.address_of(library[f"bpx_{name}_{k}"]) for name in ("linear", "backward", "outer"))
            )
            for k, layer in enumerate(_layers(shape))
        }
    return _programs[key]


def source(shape: fused.Shape) -> str:
    """The translation unit for this net: layers of equal sizes are compiled once."""
    lines = [
        f"BPX_DENSE({C_NAMES[shape.dtype]}, {k}, {inputs}, {outputs}, {str(has_bias).lower()})"
        for k, (inputs, outputs, has_bias) in enumerate(_layers(shape))
    ]
    return "\n".join([kernel_source("dense_cpu.h"), *lines, ""])


def _layers(shape: fused.Shape) -> list[tuple[int, int, bool]]:
    return list(dict.fromkeys(zip(shape.sizes, shape.sizes[1:], shape.bias)))


def parts(dtype: str) -> Any:
    """The library of what all nets share. Raises CompileError."""
    return _parts(dtype, compiler.find())


# It is kept by compiler: one of other flags may give code for other registers, and the two libraries work together.
@cache
def _parts(dtype: str, cxx: compiler.Compiler) -> Any:
    text = kernel_source("narrow_cpu.h") + f"BPX_NARROW({C_NAMES[dtype]})\n"
    library = kernel_cache.library(text, f"what all small nets share in {dtype}")
    structs.check(library, structs.NarrowLayer, structs.Narrow)
    for function in (library.bpx_narrow_memory, library.bpx_narrow_run):
        function.argtypes, function.restype = (POINTER,), INT
    return library


def _target(loss_key: Any) -> int:
    if isinstance(loss_key, KernelLoss):
        return VALUES if loss_key.needs_target else NO_TARGET
    return CLASSES if loss_key == "classes" else VALUES
