"""The fused pass for losses that contain derivatives: kernels/stack.h, for layers in a row, of any widths."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import threads
from ...backend import Array
from ...derivatives.differentiable import Differentiable
from ...derivatives.equation import Equation, Points
from ...derivatives.stacked import stacked
from ...programs import arguments, stack_source
from ...programs.stack import StackPass
from ...toolchain import compiler

#: ``bpx::stack_bytes`` of kernels/stack.h.
TILE_BYTES = 1 << 20


def why_not(net: Differentiable, equation: Equation) -> str:
    """Why the loss of an equation runs layered, "" if it can run here."""
    return stack_source.why_not(net, equation.reads.way.carried) or compiler.missing()


def intermediate_bytes(net: Differentiable, equation: Equation, samples: int) -> int:
    """Of a tile, with the signals of every layer."""
    sample_bytes = len(equation.reads.way.carried.stack) * net.widths * net.dtype.itemsize
    return min(samples, max(32, min(256, TILE_BYTES // sample_bytes))) * sample_bytes


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
