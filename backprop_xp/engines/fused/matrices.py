"""The fused pass for chains of any widths: kernels/matrices.h, the whole batch as matrices that threads share out."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import threads, workspace
from ...backend import Array
from ...plan.call import Call, Result
from ...programs import arguments
from ...programs.matrices import Pass
from ...workspace import recycled


def forward(call: Call) -> Array:
    """The net's outputs (n, out)."""
    ready = Pass(_layers(call), None, None)
    output = np.empty(call.output_shape, call.dtype)
    held: list[Any] = [output]
    ready.args.output = output.ctypes.data
    _run(call, ready, held)
    return output


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    ready = Pass(_layers(call), call.loss, arguments.loss_key(call))
    args = ready.args
    held: list[Any] = []
    arguments.add_targets(args, call, held)
    grads = workspace.aligned(ready.parameters, call.dtype)
    args.grads = arguments.address(grads, held)
    grad_x = np.empty(call.x.shape, call.dtype) if call.input_grad else None
    if grad_x is not None:
        args.x_grad = arguments.address(grad_x, held)
    _run(call, ready, held)
    return arguments.result(call, grads, grad_x, call.dtype.type(args.total * call.scale))


def intermediate_bytes(call: Call) -> int:
    """The signals of a chunk of samples, a block of a matrix for each thread, and gradients of 32 parts of a batch
    where a net is small; without compiling anything."""
    signals = min(call.samples, 4096) * (call.sizes[0] + 2 * sum(call.sizes[1:])) * call.dtype.itemsize
    parameters = call.numbers * call.dtype.itemsize
    return signals + threads.count(call.threads) * (1 << 18) + (32 * parameters if parameters <= 1 << 18 else 0)


def _layers(call: Call) -> list[tuple[Array, Array | None, Any]]:
    return [
        (np.ascontiguousarray(weight), None if bias is None else np.ascontiguousarray(bias), activation)
        for weight, bias, activation in call.layers
    ]


def _run(call: Call, ready: Pass, held: list[Any]) -> None:
    args = ready.args
    arguments.add_x(args, call, held)
    args.n, args.threads = call.samples, threads.count(call.threads)
    with recycled():
        memory = workspace.empty((ready.numbers(),), call.dtype)
        ready.use(memory)
        ready.run()
