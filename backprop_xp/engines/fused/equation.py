"""The fused pass for losses that contain derivatives: kernels/stack.h, for layers in a row, of any widths."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import threads
from ...backend import Array
from ...derivatives.differentiable import Differentiable
from ...derivatives.equation import Equation, Points
from ...derivatives.stacked import NotStacked, stacked
from ...formulas import is_formula
from ...programs import arguments
from ...programs.stack import StackPass
from ...toolchain import compiler

#: Terms of the chain rule in an equation that is compiled, at most: beyond, an activation takes the compiler seconds.
MOST_TERMS = 100
#: ``bpx::stack_bytes`` of kernels/stack.h.
TILE_BYTES = 1 << 20


def why_not(net: Differentiable, equation: Equation) -> str:
    """Why the loss of an equation runs layered, "" if it can run here."""
    if net.backend.on_gpu:
        return "equations are compiled for the CPU only"
    try:
        layers = stacked(net).layers
    except NotStacked as reason:
        return f"the graph is more than layers in a row, to which earlier ones are added: {reason}"
    if not all(is_formula(layer.activation) for layer in layers):
        return "an activation is written in Python"
    terms = sum(map(len, equation.reads.way.carried.terms))
    if terms > MOST_TERMS:
        return f"its derivatives have {terms} terms, and compiling more than {MOST_TERMS} takes too long"
    return compiler.missing()


def tile_samples(sample_bytes: int) -> int:
    """Samples that go through the net at once, where the signals of one take ``sample_bytes``."""
    return max(32, min(256, TILE_BYTES // sample_bytes))


def loss_and_grad(
    net: Differentiable, equation: Equation, points: Points, input_grad: bool, workers: int | None
) -> tuple[Any, list[Array], Array | None]:
    """What :meth:`backprop_xp.Equation.loss_and_grad` gives, on ``workers`` threads. Raises CompileError."""
    rows = stacked(net)
    layers = arguments.contiguous(rows.layers)
    ready = StackPass(layers, rows.skips, equation)
    args, held = ready.args, list[Any]()
    args.n = len(points.x)
    arguments.add_x(args, points, held)
    arguments.add_targets(args, points, held)
    grad_x = np.empty(points.x.shape, net.dtype) if input_grad else None
    if grad_x is not None:
        args.x_grad = arguments.address(grad_x, held)
    total = np.empty(ready.parameters, net.dtype)
    loss = ready.run(threads.count(workers), total)
    gradients, at = [], 0
    for array in (each for weight, bias, _ in layers for each in (weight, bias) if each is not None):
        gradients.append(total[at : at + array.size].reshape(array.shape))
        at += array.size
    return net.dtype.type(loss * points.scale), rows.in_order(gradients), grad_x
