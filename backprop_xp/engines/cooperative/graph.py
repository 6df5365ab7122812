"""The cooperative engine for graphs that are no chains: a tile of samples goes through all nodes in shared memory.

The steps are those of the CPU's pass over graphs (programs/block_graph.py). Parameters are gathered on the device into
the form in which the steps read them, and gradients from it into their owners' order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backend import Array
from ...dtypes import name_of
from ...plan import cost
from ...plan.call import Call, Result
from ...plan.devices import device
from ...programs import arguments, block, block_graph, graph_source
from ...sums.chunk_sums import ChunkSums


def why_not(call: Call) -> str:
    """What of the graph can't be compiled or takes too long to compile, or that its values don't fit."""
    if len(call.plan.nodes) > block_graph.MOST_NODES:
        return f"it has {len(call.plan.nodes)} nodes, and compiling more than {block_graph.MOST_NODES} takes too long"
    reason = arguments.node_in_python(call) or arguments.loss_in_python(call.loss) or arguments.too_many_scalars(call)
    if reason:
        return reason
    limit = block.shared_limit(call.backend.device)
    if not block_graph.tilings(_shape(call), call.plan.nodes, limit):
        return f"the values of a few samples don't fit the {limit >> 10} KiB of shared memory that a block may have"
    return ""


def seconds(call: Call, chunk: int) -> float:
    """What a call that it doesn't refuse is estimated to take."""
    ways = block_graph.tilings(_shape(call), call.plan.nodes, block.shared_limit(call.backend.device))
    return cost.cooperative(call, device(call.backend.device), ways[0].rows, chunk)


def forward(call: Call, chunk: int) -> Array:
    """The output (n, out)."""
    output = call.backend.xp.empty(call.output_shape, call.dtype)
    _Pass(call).run(call, chunk, output=output)
    return output


def loss_and_grad(call: Call, chunk: int, wave: int) -> Result:
    """The loss and the gradients of all parameters, with the sums of ``wave`` chunks held at a time."""
    xp = call.backend.xp
    grads = {name: xp.empty(x.shape, call.dtype) for name, x in call.inputs.items()} if call.input_grad else {}
    compiled = _Pass(call)
    sums = ChunkSums(xp, compiled.program.packing.grads, call.dtype)
    for first in range(0, call.samples, wave * chunk):
        at = slice(first, min(first + wave * chunk, call.samples))
        rows, losses = sums.place(-(-(at.stop - first) // chunk))
        own = {name: grad[at] for name, grad in grads.items()}
        compiled.run(call.rows(at), chunk, grads=own, sums=rows, losses=losses)
    total, loss = sums.total(call.scale)
    return Result(compiled.owned(total), grads, loss)


class _Pass:
    """The kernel for a call, with the parameters packed for it."""

    def __init__(self, call: Call) -> None:
        self.program = block_graph.program(_shape(call), call.plan.nodes)
        self._xp, self._parameters = call.backend.xp, call.parameters
        self._indices = _indices(call, self.program)
        given = [call.parameters, call.buffers]
        arrays = [array.ravel() for arrays in given for own in arrays.values() for array in own.values()]
        flat = self._xp.concatenate([self._xp.zeros(1, call.dtype), *arrays])
        self._packed = flat[self._indices.origins]

    def run(
        self,
        call: Call,
        chunk: int,
        *,
        grads: dict[str, Array] | None = None,
        sums: Array | None = None,
        losses: Array | None = None,
        output: Array | None = None,
    ) -> None:
        """The chunks of these samples, a block each."""
        number = call.dtype.type
        inputs: list[Any] = []
        for name, x in call.inputs.items():
            inputs += [*arguments.strided(x, 2), grads[name] if grads else arguments.NULL]
        self.program.run(
            (-(-call.samples // chunk),),
            (self.program.way.threads,),
            (
                np.int64(call.samples),
                np.int64(chunk),
                *arguments.strided(call.y, 2),
                *arguments.strided(call.weight, 1),
                number(call.scale),
                *(arguments.NULL if a is None else a for a in (sums, losses, output)),
                self._packed,
                *inputs,
                *(np.uint64(key) for key in call.keys_from_first),
                *(number(a) for a in arguments.scalars(call)),
            ),
            shared_mem=self.program.shared_bytes,
        )

    def owned(self, total: Array) -> list[Array]:
        """The gradients in the order of the call's parameters, those of shared ones added up."""
        found: list[Array] = []
        for k, own in enumerate(self._parameters.values()):
            for name in own:
                first, *others = (total[places] for places in self._indices.gradients[k, name])
                for other in others:
                    first += other
                found.append(first)
        return found


@dataclass(frozen=True)
class _Indices:
    """Where numbers are, on the device.

    Attributes:
        origins: of what is packed, in zero, all parameters and all buffers one after another.
        gradients: of a parameter, by the number of its owner and its name, in the chunks' sums; several if shared.
    """

    origins: Array
    gradients: dict[tuple[int, str], list[Array]]


_found: dict[tuple[Any, ...], _Indices] = {}


def _indices(call: Call, program: block_graph.Program) -> _Indices:
    nodes, xp, size = call.plan.nodes, call.backend.xp, 1
    owners = {owner: k for k, owner in enumerate(call.parameters)}
    key = program, tuple(owners.get(node.owner) for node in nodes)
    if key in _found:
        return _found[key]
    numbered: dict[str, dict[str, np.ndarray]] = {}
    for arrays in (call.parameters, call.buffers):
        for node, own in arrays.items():
            for name, array in own.items():
                numbered.setdefault(node, {})[name] = np.arange(size, size + array.size).reshape(array.shape)
                size += array.size
    origins = program.packing.pack(nodes, numbered, np.dtype(np.int64), 0)
    gradients: dict[tuple[int, str], list[Array]] = {}
    for (owner, name), places in program.packing.gradients(nodes):
        gradients.setdefault((owners[owner], name), []).append(xp.asarray(places))
    _found[key] = _Indices(xp.asarray(origins), gradients)
    return _found[key]


def _shape(call: Call) -> graph_source.Shape:
    """What the kernel is compiled for."""
    loss = None if call.loss is None else arguments.loss_key(call)
    factors = loss is not None and (call.weight is not None or call.scale != 1.0)
    input_grad = loss is not None and call.input_grad
    dtype, dropping = name_of(call.dtype), bool(call.keys)
    return graph_source.shape_of(call.plan.nodes, dtype, loss, factors, input_grad, dropping)
