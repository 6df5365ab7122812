"""A batch on a CUDA device that comes in pieces of whole chunks: the same bits in one piece or in many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..backend import Array
from ..plan.call import Call, Result
from ..sums.chunk_sums import ChunkSums
from ..toolchain import cuda


@dataclass
class BatchLaunch:
    """The launch of a kernel for the chunks of some samples.

    Attributes:
        batch: ``bpx::Batch`` among its arguments.
        inputs: the structs among them whose ``x`` is the address of each input: the batch itself of a chain.
        keys: where the keys of the nodes that draw are among them.
    """

    launch: cuda.Launch
    batch: Any
    inputs: Sequence[Any]
    keys: slice


class Kernel(Protocol):
    """What is launched for a call, with its parameters at hand.

    Attributes:
        numbers: of the gradients of a chunk.
        places: where among them those of each parameter lie, in the order of the call's; several if it is shared.
        wave: chunks of a launch at most.
    """

    numbers: int
    places: list[list[slice]]
    wave: int

    def launch(
        self, call: Call, chunk: int, grads: Mapping[str, Array], sums: Array | None, losses: Array | None
    ) -> BatchLaunch:
        """The launch for the chunks of these samples; the gradients in inputs go to ``grads``, if there are any."""


class Pieces:
    """The loss and the gradients of a batch.

    Args:
        call: the whole batch, or all but its inputs and targets.
        chunk: samples in a chunk.
    """

    def __init__(self, call: Call, kernel: Kernel, chunk: int) -> None:
        self._call, self._kernel, self._chunk = call, kernel, chunk
        self._stream = call.backend.xp.cuda.get_current_stream().ptr
        self._sums = ChunkSums(call.backend.xp, kernel.numbers, call.dtype)

    def add(self, call: Call, grads: Mapping[str, Array]) -> None:
        """Compute the chunks of a piece's samples, behind those of pieces before.

        ``grads`` (n, features) get the gradients in the piece's inputs, if there are any.
        """
        samples = self._kernel.wave * self._chunk
        for first in range(0, call.samples, samples):
            at = slice(first, min(first + samples, call.samples))
            part, chunks = call.rows(at), -(-(at.stop - first) // self._chunk)
            own = {name: grad[at] for name, grad in grads.items()}
            launch = self._kernel.launch(part, self._chunk, own, *self._sums.place(chunks))
            launch.launch(self._stream)

    def result(self, grads: Mapping[str, Array]) -> Result:
        """The loss and the gradients of all parameters, with the gradients in the inputs of all pieces."""
        total, loss = self._sums.total(self._call.scale)
        arrays = [array for own in self._call.parameters.values() for array in own.values()]
        gradients = []
        for array, (first, *others) in zip(arrays, self._kernel.places):
            gradient = total[first]
            for other in others:
                gradient += total[other]
            gradients.append(gradient.reshape(array.shape))
        return Result(gradients, dict(grads), loss)


def whole(call: Call, pieces: Pieces) -> Result:
    """The result of a batch in one piece."""
    xp = call.backend.xp
    grads = {name: xp.empty(x.shape, call.dtype) for name, x in call.inputs.items()} if call.input_grad else {}
    pieces.add(call, grads)
    return pieces.result(grads)
