"""A batch on a CUDA device that comes in pieces of whole chunks: the same bits in one piece or in many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..backend import Array
from ..plan.call import Call, Result
from ..sums.chunk_sums import ChunkSums
from ..toolchain import cuda
from .arguments import Written


@dataclass(frozen=True)
class Added:
    """Which of the sums over the batch the launch for a stage adds up, and the next stage may need.

    Attributes:
        first, numbers: where they lie among all of the pass.
        loss: whether it also adds up the losses.
        outputs: whether it gives outputs instead, and adds up nothing.
    """

    first: int
    numbers: int
    loss: bool = True
    outputs: bool = False


@dataclass
class BatchLaunch:
    """The launch of a kernel for the chunks of some samples.

    Attributes:
        batch: ``bpx::Batch`` among its arguments.
        inputs: the structs among them whose ``x`` is the address of each input: the batch itself of a chain.
        keys: where the keys of the nodes that draw are among them.
        between: ``bpx::Between`` among them, if there is one.
    """

    launch: cuda.Launch
    batch: Any
    inputs: Sequence[Any]
    keys: slice
    between: Any = None


class Kernel(Protocol):
    """What is launched for a call, with its parameters at hand.

    Attributes:
        numbers: of all sums over the batch: the gradients, and others that the pass needs.
        stages: what is launched one after another, and adds up which of them.
        places: where among them the gradients of each parameter lie, in the call's order; several if it is shared.
        changed: where new buffers lie among them, by node and name.
        chunk: samples in a chunk.
        wave: chunks of a launch at most.
    """

    numbers: int
    stages: Sequence[Added]
    places: list[list[slice]]
    changed: Mapping[str, Mapping[str, slice]]
    chunk: int
    wave: int

    def launch(self, stage: int, call: Call, written: Written, totals: Array | None = None) -> BatchLaunch:
        """The launch of a stage for the chunks of these samples; ``totals`` are the sums of the stages before."""


class Pieces:
    """The loss and the gradients of a batch, or its outputs.

    Args:
        call: the whole batch, or all but its inputs and targets.
    """

    def __init__(self, call: Call, kernel: Kernel) -> None:
        xp = call.backend.xp
        self._call, self._kernel = call, kernel
        self._stream = xp.cuda.get_current_stream().ptr
        self._sums = [ChunkSums(xp, stage.numbers, call.dtype) for stage in kernel.stages]
        self._totals, self._loss = xp.empty(kernel.numbers, call.dtype), None

    def add(self, call: Call, grads: Mapping[str, Array], output: Array | None = None) -> None:
        """Compute the chunks of a piece's samples, behind those of pieces before; all, if there are several stages.

        ``grads`` (n, features) get the gradients in the piece's inputs, if there are any; ``output`` (n, features) the
        outputs, where no gradients are computed.
        """
        kernel = self._kernel
        for number, stage in enumerate(kernel.stages):
            if number:
                self._add_up(number - 1)
            samples = call.samples if stage.outputs else kernel.wave * kernel.chunk
            for first in range(0, call.samples, samples):
                at = slice(first, min(first + samples, call.samples))
                written = Written(output=output, grads={name: grad[at] for name, grad in grads.items()})
                if not stage.outputs:
                    sums, losses = self._sums[number].place(-(-(at.stop - first) // kernel.chunk))
                    written = written._replace(sums=sums, losses=losses)
                kernel.launch(number, call.rows(at), written, self._totals).launch(self._stream)
        if kernel.stages[-1].outputs:
            self._change_buffers()

    def result(self, grads: Mapping[str, Array]) -> Result:
        """The loss and the gradients of all parameters, with the gradients in the inputs of all pieces."""
        self._add_up(len(self._sums) - 1)
        self._change_buffers()
        arrays = [array for own in self._call.parameters.values() for array in own.values()]
        gradients = []
        for array, (first, *others) in zip(arrays, self._kernel.places):
            gradient = self._totals[first]
            for other in others:
                gradient += self._totals[other]
            gradients.append(gradient.reshape(array.shape))
        return Result(gradients, dict(grads), self._loss)

    def _add_up(self, stage: int) -> None:
        """The sums over the batch of a stage, and the loss if it is of that."""
        added = self._kernel.stages[stage]
        to = self._totals[added.first : added.first + added.numbers]
        _, loss = self._sums[stage].total(self._call.scale, to)
        if added.loss:
            self._loss = loss

    def _change_buffers(self) -> None:
        for node, own in self._kernel.changed.items():
            self._call.new_buffers[node] = {name: self._totals[at] for name, at in own.items()}


def whole(call: Call, pieces: Pieces) -> Result:
    """The result of a batch in one piece."""
    xp = call.backend.xp
    grads = {name: xp.empty(x.shape, call.dtype) for name, x in call.inputs.items()} if call.input_grad else {}
    pieces.add(call, grads)
    return pieces.result(grads)
