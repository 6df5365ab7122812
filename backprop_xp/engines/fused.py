"""The fused engine: forward, loss and backward in one compiled pass that keeps no signals.

It has two forms. In the narrow one, for many samples of small nets, a tile of samples goes through the whole net in
registers and the first-level cache (kernels/net.h); the batch is cut into fixed logical chunks, whose sums are added in
a fixed tree. In the other, engines/matrices.py, threads share out blocks of whole matrices. Both give the same bits for
any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import threads
from ..backend import Array
from ..passes.article import Gradients, Signals
from ..programs import arguments, structs
from ..programs.narrow import Narrow, wave_chunks
from ..toolchain import compiler
from . import matrices
from .call import Call


def refuses(call: Call) -> str:
    """It runs nets of formulas where there is a compiler."""
    if call.backend.on_gpu:
        return "it runs on the CPU"
    return arguments.written_in_python(call) or compiler.missing()


def intermediate_bytes(call: Call) -> int:
    """The sums of one wave of chunks and of each thread, and a tile's signals."""
    shape = arguments.shape(call, None if call.loss is None else arguments.loss_key(call))
    if not shape.narrow(call.samples):
        return matrices.intermediate_bytes(call)
    registers = 64 * (shape.parameters + 2 * 8 * sum(shape.sizes))
    sums = (wave_chunks(shape, call.samples) + structs.TREE_LEVELS) * shape.parameters * call.dtype.itemsize
    return threads.count(call.threads) * registers + sums


def forward(call: Call) -> tuple[Array, Signals | None]:
    """The net's outputs (n, out)."""
    shape = arguments.shape(call, None)
    if not shape.narrow(call.samples):
        return matrices.forward(call)
    output = np.empty((call.samples, call.sizes[-1]), call.dtype)
    held: list[Any] = [output]
    ready = _ready(call, shape, held)
    ready.args.output = arguments.address(output, held)
    ready.outputs(threads.count(call.threads))
    return output, None


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    shape = arguments.shape(call, arguments.loss_key(call))
    if not shape.narrow(call.samples):
        return matrices.loss_and_grad(call)
    held: list[Any] = []
    ready = _ready(call, shape, held)
    arguments.add_targets(ready.args, call, held)
    grad_x = np.empty((call.samples, call.sizes[0]), call.dtype) if call.input_grad else None
    if grad_x is not None:
        ready.args.x_grad = arguments.address(grad_x, held)
    total = np.empty(call.parameters, call.dtype)
    loss = ready.loss_and_grad(threads.count(call.threads), total)
    weights, biases = arguments.unpacked(call, total)
    return Gradients(weights, biases, grad_x, call.dtype.type(loss * call.scale))


def _ready(call: Call, shape: Any, held: list[Any]) -> Narrow:
    activations = [layer.activation for layer in call.layers]
    ready = Narrow(shape, activations, arguments.parameters(call), arguments.scalars(call))
    ready.args.n = call.samples
    arguments.add_x(ready.args, call, held)
    return ready
