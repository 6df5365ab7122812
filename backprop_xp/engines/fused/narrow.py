"""The fused pass for many samples of a small chain: kernels/narrow_cpu.h, with products compiled for this net alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import threads, workspace
from ...backend import Array
from ...plan.call import Call, Result
from ...programs import arguments
from ...programs.narrow import Narrow, wave_chunks
from ...workspace import recycled


def forward(call: Call) -> Array:
    """The net's outputs (n, out)."""
    output = np.empty(call.output_shape, call.dtype)
    held: list[Any] = [output]
    ready = _ready(call, None)
    ready.args.output = arguments.address(output, held)
    _run(call, ready, held)
    return output


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    return _result(_ready(call, call.loss), call)


def in_parts(call: Call, parts: Sequence[slice]) -> list[Result]:
    """The results of some rows of a call after others, each for itself, by one preparation."""
    ready = _ready(call, call.loss)
    return [_result(ready, call.rows(rows)) for rows in parts]


def _result(ready: Narrow, call: Call) -> Result:
    held: list[Any] = []
    arguments.add_targets(ready.args, call, held)
    grad_x = np.empty(call.x.shape, call.dtype) if call.input_grad else None
    if grad_x is not None:
        ready.args.x_grad = arguments.address(grad_x, held)
    total = np.empty(call.numbers, call.dtype)
    ready.args.grads = arguments.address(total, held)
    _run(call, ready, held)
    return arguments.result(call, total, grad_x, call.dtype.type(ready.args.total * call.scale))


def intermediate_bytes(call: Call) -> int:
    """The sums of one wave of chunks and of each thread, and a tile's signals."""
    shape = arguments.shape(call)
    registers = 64 * (shape.parameters + 2 * 8 * sum(shape.sizes))
    sums = 2 * wave_chunks(shape, call.samples) * shape.parameters * call.dtype.itemsize
    return threads.count(call.threads) * registers + sums


def _ready(call: Call, loss: Any) -> Narrow:
    activations = [layer.activation for layer in call.layers]
    return Narrow(arguments.shape(call), activations, arguments.parameters(call), loss)


def _run(call: Call, ready: Narrow, held: list[Any]) -> None:
    args = ready.args
    arguments.add_x(args, call, held)
    args.n, args.threads = call.samples, threads.count(call.threads)
    with recycled():
        memory = workspace.empty((ready.numbers(),), call.dtype)
        ready.use(memory)
        ready.run()
