"""The fused pass for many samples of a small chain: kernels/narrow_cpu.h, with products compiled for this net alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ... import threads
from ...backend import Array
from ...plan.call import Call, Result
from ...programs import arguments
from ...programs.narrow import Narrow, wave_chunks
from . import batch


def forward(call: Call) -> Array:
    """The net's outputs (n, out)."""
    return batch.forward(call, _ready(call, None))


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    return _result(call, _ready(call, call.loss))


def in_parts(call: Call, parts: Sequence[slice]) -> Iterator[Result]:
    """The results of some rows of a call after others, each for itself, by one preparation."""
    ready = _ready(call, call.loss)
    return (_result(call.rows(rows), ready) for rows in parts)


def _result(call: Call, ready: Narrow) -> Result:
    return batch.loss_and_grad(call, ready, np.empty(call.numbers, call.dtype))


def intermediate_bytes(call: Call) -> int:
    """The sums of one wave of chunks and of each thread, and a tile's signals."""
    shape = arguments.shape(call)
    registers = 64 * (shape.parameters + 2 * 8 * sum(shape.sizes))
    sums = 2 * wave_chunks(shape, call.samples) * shape.parameters * call.dtype.itemsize
    return threads.count(call.threads) * registers + sums


def _ready(call: Call, loss: Any) -> Narrow:
    activations = [layer.activation for layer in call.layers]
    return Narrow(arguments.shape(call), activations, arguments.parameters(call), loss)
