"""The fused pass for chains of any widths: kernels/matrices.h, the whole batch as matrices that threads share out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ... import threads, workspace
from ...backend import Array
from ...plan.call import Call, Result
from ...programs import arguments
from ...programs.matrices import Pass
from . import batch


def forward(call: Call) -> Array:
    """The net's outputs (n, out)."""
    return batch.forward(call, Pass(arguments.contiguous(call.layers), None, None))


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    return _result(call, _ready(call))


def in_parts(call: Call, parts: Sequence[slice]) -> Iterator[Result]:
    """The results of some rows of a call after others, each for itself, by one preparation."""
    ready = _ready(call)
    return (_result(call.rows(rows), ready) for rows in parts)


def _ready(call: Call) -> Pass:
    return Pass(arguments.contiguous(call.layers), call.loss, arguments.loss_key(call))


def _result(call: Call, ready: Pass) -> Result:
    return batch.loss_and_grad(call, ready, workspace.aligned(ready.parameters, call.dtype))


def intermediate_bytes(call: Call) -> int:
    """The signals of a chunk of samples, a block of a matrix for each thread, and gradients of 32 parts of a batch
    where a net is small; without compiling anything."""
    signals = min(call.samples, 4096) * (call.sizes[0] + 2 * sum(call.sizes[1:])) * call.dtype.itemsize
    parameters = call.numbers * call.dtype.itemsize
    return signals + threads.count(call.threads) * (1 << 18) + (32 * parameters if parameters <= 1 << 18 else 0)
