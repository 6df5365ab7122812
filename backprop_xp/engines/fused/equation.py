"""The fused pass for losses that contain derivatives: kernels/stack.h, for chains of any widths."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import threads
from ...backend import Array
from ...derivatives.equation import Equation, Points
from ...derivatives.loops import Chain
from ...formulas import is_formula
from ...programs import arguments
from ...programs.stack import StackPass
from ...toolchain import compiler

#: Terms of the chain rule in an equation that is compiled, at most: beyond, an activation takes the compiler seconds.
MOST_TERMS = 100
#: ``bpx::stack_bytes`` of kernels/stack.h.
TILE_BYTES = 1 << 20


def why_not(chain: Chain, equation: Equation) -> str:
    """Why the loss of an equation runs layered, "" if it can run here."""
    if chain.backend.on_gpu:
        return "equations are compiled for the CPU only"
    if not all(is_formula(layer.activation) for layer in chain.layers):
        return "an activation is written in Python"
    terms = sum(map(len, equation.reads.way.carried.terms))
    if terms > MOST_TERMS:
        return f"its derivatives have {terms} terms, and compiling more than {MOST_TERMS} takes too long"
    return compiler.missing()


def tile_samples(sample_bytes: int) -> int:
    """Samples that go through the net at once, where the signals of one take ``sample_bytes``."""
    return max(32, min(256, TILE_BYTES // sample_bytes))


def loss_and_grad(
    chain: Chain, equation: Equation, points: Points, input_grad: bool, workers: int | None
) -> tuple[Any, list[Array], Array | None]:
    """What :meth:`backprop_xp.Equation.loss_and_grad` gives, on ``workers`` threads. Raises CompileError."""
    layers = [
        (np.ascontiguousarray(weight), None if bias is None else np.ascontiguousarray(bias), activation)
        for weight, bias, activation in chain.layers
    ]
    ready = StackPass(layers, equation)
    args, held = ready.args, list[Any]()
    x = arguments.readable(points.x)
    args.n, args.x = len(x), arguments.address(x, held)
    args.x_row, args.x_column = arguments.stride(x, 0), arguments.stride(x, 1)
    if points.y is not None:
        y = arguments.readable(points.y)
        args.y, args.y_row, args.y_column = arguments.address(y, held), arguments.stride(y, 0), arguments.stride(y, 1)
    if points.weight is not None:
        weight = arguments.readable(points.weight)
        args.weight, args.weight_row = arguments.address(weight, held), arguments.stride(weight, 0)
    args.scale = points.scale
    grad_x = np.empty(x.shape, chain.dtype) if input_grad else None
    if grad_x is not None:
        args.x_grad = arguments.address(grad_x, held)
    total = np.empty(ready.parameters, chain.dtype)
    loss = ready.run(threads.count(workers), total)
    gradients, at = [], 0
    for array in (each for weight, bias, _ in layers for each in (weight, bias) if each is not None):
        gradients.append(total[at : at + array.size].reshape(array.shape))
        at += array.size
    return chain.dtype.type(loss * points.scale), gradients, grad_x
