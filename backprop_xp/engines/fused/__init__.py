"""The fused engine on the CPU: forward, loss and backward in one compiled pass that keeps no signals.

It has three forms. In the narrow one, for many samples of a small chain, a tile of samples goes through the whole net
in registers and the first-level cache (kernels/net.h); the batch is cut into fixed logical chunks, whose sums are added
in a fixed tree. For other chains, threads share out blocks of whole matrices (kernels/matrices.h). A graph that is no
chain is compiled node by node (kernels/graph.h), for tiles of samples. Each gives the same bits for any number of
threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...backend import Array
from ...plan.call import Call, Result, Values
from ...programs import arguments
from ...toolchain import compiler
from . import graph, matrices, narrow


def why_not(call: Call) -> str:
    """What of a net is no formula, or that there is no compiler."""
    if call.backend.on_gpu:
        return "it runs on the CPU"
    reason = arguments.written_in_python(call) if call.plan.chain else graph.why_not(call)
    return reason or compiler.missing()


def intermediate_bytes(call: Call) -> int:
    """What the form for this call needs, without compiling anything."""
    return _form(call).intermediate_bytes(call)


def forward(call: Call) -> tuple[Array, Values | None]:
    """The outputs (n, out)."""
    return _form(call).forward(call), None


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    return _form(call).loss_and_grad(call)


def in_parts(call: Call, parts: Sequence[slice], samples: int) -> Iterator[Result] | None:
    """The results of parts of a call's rows, one after another, by one preparation; None where parts need their own.

    Args:
        parts: rows, one part after another.
        samples: of the whole batch, of which the call has some rows.
    """
    if not call.plan.chain or call.input_grad:
        return None
    shape = arguments.shape(call)
    if shape.narrow(samples) and not any(rows.start % shape.narrow_chunk for rows in parts):
        return narrow.in_parts(call, parts)
    return None if any(shape.narrow(rows.stop - rows.start) for rows in parts) else matrices.in_parts(call, parts)


def _form(call: Call) -> Any:
    if not call.plan.chain:
        return graph
    return narrow if arguments.shape(call).narrow(call.samples) else matrices
