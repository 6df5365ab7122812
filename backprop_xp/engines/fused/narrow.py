"""The fused pass for many samples of a small chain: kernels/net_cpu.h, compiled for this net alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import threads
from ...backend import Array
from ...plan.call import Call, Result
from ...programs import arguments, structs
from ...programs.narrow import Narrow, wave_chunks


def forward(call: Call) -> Array:
    """The net's outputs (n, out)."""
    output = np.empty(call.output_shape, call.dtype)
    held: list[Any] = [output]
    ready = _ready(call, held)
    ready.args.output = arguments.address(output, held)
    ready.outputs(threads.count(call.threads))
    return output


def in_parts(call: Call, parts: Sequence[slice]) -> list[Result]:
    """The results of some rows of a call after others, of which each part begins a chunk."""
    held: list[Any] = []
    ready = _ready(call, held)
    arguments.add_targets(ready.args, call, held)
    results = []
    for rows in parts:
        total = np.empty(call.numbers, call.dtype)
        loss = ready.loss_and_grad(threads.count(call.threads), total, rows)
        results.append(arguments.result(call, total, None, call.dtype.type(loss * call.scale)))
    return results


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    held: list[Any] = []
    ready = _ready(call, held)
    arguments.add_targets(ready.args, call, held)
    grad_x = np.empty(call.x.shape, call.dtype) if call.input_grad else None
    if grad_x is not None:
        ready.args.x_grad = arguments.address(grad_x, held)
    total = np.empty(call.numbers, call.dtype)
    loss = ready.loss_and_grad(threads.count(call.threads), total)
    return arguments.result(call, total, grad_x, call.dtype.type(loss * call.scale))


def intermediate_bytes(call: Call) -> int:
    """The sums of one wave of chunks and of each thread, and a tile's signals."""
    shape = arguments.shape(call)
    registers = 64 * (shape.parameters + 2 * 8 * sum(shape.sizes))
    sums = (wave_chunks(shape, call.samples) + structs.TREE_LEVELS) * shape.parameters * call.dtype.itemsize
    return threads.count(call.threads) * registers + sums


def _ready(call: Call, held: list[Any]) -> Narrow:
    activations = [layer.activation for layer in call.layers]
    ready = Narrow(arguments.shape(call), activations, arguments.parameters(call), arguments.scalars(call))
    ready.args.n = call.samples
    arguments.add_x(ready.args, call, held)
    return ready
