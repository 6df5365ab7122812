"""What both compiled passes over a batch of a chain are handed, and what a call gets of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import threads, workspace
from ...backend import Array
from ...plan.call import Call, Result
from ...programs import arguments
from ...programs.matrices import Pass
from ...programs.narrow import Narrow
from ...workspace import recycled


def forward(call: Call, ready: Narrow | Pass) -> Array:
    """The net's outputs (n, out)."""
    output = np.empty(call.output_shape, call.dtype)
    held: list[Any] = [output]
    ready.args.output = arguments.address(output, held)
    _run(call, ready, held)
    return output


def loss_and_grad(call: Call, ready: Narrow | Pass, grads: np.ndarray) -> Result:
    """The loss and the gradients of all parameters, which fill ``grads`` (parameters,), layer by layer."""
    args = ready.args
    held: list[Any] = []
    arguments.add_targets(args, call, held)
    args.grads = arguments.address(grads, held)
    grad_x = np.empty(call.x.shape, call.dtype) if call.input_grad else None
    if grad_x is not None:
        args.x_grad = arguments.address(grad_x, held)
    _run(call, ready, held)
    return arguments.result(call, grads, grad_x, call.dtype.type(args.total * call.scale))


def _run(call: Call, ready: Narrow | Pass, held: list[Any]) -> None:
    args = ready.args
    arguments.add_x(args, call, held)
    args.n, args.threads = call.samples, threads.count(call.threads)
    with recycled():
        memory = workspace.empty((ready.numbers(),), call.dtype)
        ready.use(memory)
        ready.run()
