"""Losses that contain derivatives on a CUDA device, a block of threads for a tile of points (kernels/stack_cuda.h).

Every derivative is pushed forward as a tangent, whatever way is the cheapest on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array
from ...derivatives.differentiable import Differentiable
from ...derivatives.equation import Equation, Points
from ...derivatives.stacked import Stacked, stacked
from ...programs import arguments, block, stack_cuda, stack_source, structs
from ...sums import rounds
from ...sums.chunk_sums import ROWS, ChunkSums
from ...toolchain import cuda
from .. import cooperative

#: Points of which a chunk has a multiple: whole tiles of any size, see ``cooperative.chunk_samples``.
UNIT = stack_cuda.POINTS[0]


def why_not(net: Differentiable, equation: Equation) -> str:
    """Why the loss of an equation runs layered, "" if it can run here."""
    carried = equation.reads.rules
    if reason := stack_source.why_not(net, carried):
        return reason
    rows = stacked(net)
    scalars = sum(len(layer.activation.parameters) for layer in rows.layers) + len(equation.parameters)
    if scalars > arguments.MOST_SCALARS or len(rows.layers) > arguments.MOST_SCALARS // 2:
        return "it has too many layers, or the activations and the equation too many parameters"
    limit = block.shared_limit(net.backend.device)
    if not stack_cuda.ways(stack_cuda.shape(rows, carried, equation.text, net.dtype)[0], limit):
        return (
            f"the signals of a few points and their derivatives don't fit the {limit >> 10} KiB of shared memory "
            "that a block may have"
        )
    return ""


def intermediate_bytes(net: Differentiable, equation: Equation, samples: int) -> int:
    """The packed parameters, and the sums of one wave of chunks and of the tree's levels."""
    found = stack_cuda.layout(stack_cuda.shape(stacked(net), equation.reads.rules, equation.text, net.dtype)[0])
    wave = cooperative.wave_chunks(found.grads, net.dtype)
    return (found.packed + (min(wave, -(-samples // chunk_points(samples))) + ROWS) * found.grads) * net.dtype.itemsize


def chunk_points(points: int) -> int:
    """Points in a chunk: a function of their number alone."""
    return rounds.chunk_samples(points, UNIT, cooperative.MOST_TILES, cooperative.WRITING, cooperative.RESIDENT)


def loss_and_grad(
    net: Differentiable, equation: Equation, points: Points, input_grad: bool
) -> tuple[Array, list[Array], Array | None]:
    """What :meth:`backprop_xp.Equation.loss_and_grad` gives, the loss on the device. Raises CompileError."""
    xp, dtype, n = net.backend.xp, net.dtype, len(points.x)
    with net.backend.activate():
        rows = stacked(net)
        shape, activations = stack_cuda.shape(rows, equation.reads.rules, equation.text, dtype)
        program = stack_cuda.program(shape, activations)
        packed = _packed(program, rows, xp, dtype)
        numbers = (*(p for f in activations for p in f.parameters), *equation.parameters)
        grads, scalars = program.layout.grads, [dtype.type(number) for number in numbers]
        given = [packed, program.layers, np.int64(len(rows.layers)), np.int64(grads), *scalars]
        sums, chunk = ChunkSums(xp, grads, dtype), chunk_points(n)
        grad_x = xp.empty(points.x.shape, dtype) if input_grad else None
        wave = chunk * cooperative.wave_chunks(grads, dtype)
        for first in range(0, n, wave):
            at = slice(first, min(first + wave, n))
            chunks = -(-(at.stop - first) // chunk)
            batch = _batch(points, at, chunk, grad_x, *sums.place(chunks))
            cuda.launch(program.run, (chunks,), (program.way.threads,), [batch, *given], program.shared_bytes)
        total, loss = sums.total(points.scale)
    return loss, rows.in_order(_apart(total, rows)), grad_x


def _packed(program: stack_cuda.Program, rows: Stacked, xp: Any, dtype: np.dtype) -> Array:
    """The parameters as the pass reads them."""
    packed = xp.empty(program.layout.packed, dtype)
    arrays = [xp.ascontiguousarray(a) for weight, bias, _ in rows.layers for a in (weight, bias) if a is not None]
    grid = (cooperative.PACK_BLOCKS,), (cooperative.PACK_THREADS,)
    cuda.launch(program.pack, *grid, [*arrays, program.layers, packed])
    return packed


def _batch(points: Points, at: slice, chunk: int, grad_x: Array | None, sums: Array, losses: Array) -> Any:
    """``bpx::Batch`` of some points, which holds addresses of these arrays."""
    args = structs.BATCHES[points.x.dtype.name](n=at.stop - at.start, chunk=chunk, scale=points.scale)
    for name, array in {"x": points.x, "y": points.y, "weight": points.weight}.items():
        if array is not None:
            arguments.place(args, name, array[at])
    args.x_grad = None if grad_x is None else grad_x[at].data.ptr
    args.sums, args.losses = sums.data.ptr, losses.data.ptr
    return args


def _apart(total: Array, rows: Stacked) -> list[Array]:
    """Layer by layer the gradients of the weight and of the bias, if there is one, from all in a row."""
    found, at = [], 0
    for array in (each for weight, bias, _ in rows.layers for each in (weight, bias) if each is not None):
        found.append(total[at : at + array.size].reshape(array.shape))
        at += array.size
    return found
