"""The fused engine on CuPy: forward, loss and backward of the whole net in one kernel, one sample a thread.

Signals stay in registers, weights in shared memory (kernels/net_cuda.h); what is written are the sums of each chunk of
samples, which a second pass adds in a fixed tree (chunk_sums.py). Everything happens on the current stream.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from ..plan import cost
from ..plan.call import Call, Result, Values
from ..plan.devices import device
from ..programs import arguments, fused_cuda
from ..sums import rounds
from ..sums.chunk_sums import NULL, ChunkSums, ReadySums
from ..toolchain import cuda
from . import cooperative, layered

#: Threads of a block: ``bpx::threads`` of kernels/net_cuda.h.
THREADS = 128
#: Samples a thread of a chunk, at most; samples a thread that a chunk's sums take as long as: the folding of the
#: article's net has as many instructions as one, counted; and how many blocks a multiprocessor has registers for, where
#: a thread has sums of all parameters and where it doesn't: counted for some nets.
MOST_A_THREAD, FOLDING, RESIDENT, RESIDENT_SHARED_OUT = 64, 1.0, (2,), (3, 4)
#: Registers of 4 bytes, of a thread's 255, that signals and sums may take beside weights, addresses and temporary
#: results. Calculated; what really fits is found by compiling (toolchain/cuda.py).
MOST_REGISTERS = 150
#: Bytes of shared memory that a block has without an opt-in: CUDA's limit.
MOST_SHARED_BYTES = 48 << 10
#: Places of x, y, and the sums and losses of chunks among the kernel's arguments (programs/fused_cuda.py, ``BATCH``).
X, Y, SUMS, LOSSES = (
    [argument.split()[-1] for argument in fused_cuda.BATCH].index(name) for name in ("x", "y", "sums", "losses")
)


class Program(NamedTuple):
    """A compiled kernel for the current device, and how many blocks are at work at a time."""

    kernel: Any
    blocks: int


def why_not(call: Call) -> str:
    """What is no chain or no formula, or too large for a thread's registers."""
    if reason := arguments.why_no_kernel(call):
        return reason
    if _registers(call) > MOST_REGISTERS:
        return "a sample's signals and a thread's sums need too many registers"
    return "the parameters and signals need too much shared memory" if _shared_bytes(call) > MOST_SHARED_BYTES else ""


def yields(call: Call) -> str:
    """That an engine behind it is estimated to be faster."""
    if call.loss is None:
        return ""
    on = device(call.backend.device)
    mine = cost.fused(call, on, chunk_samples(call), _shares_out(call))
    others = {"in tiles of samples": math.inf if cooperative.why_not(call) else cooperative.seconds(call)}
    others["in whole matrix products"] = layered.seconds(call)
    faster = min(others, key=lambda how: others[how])
    return f"such a batch of this net is estimated to be faster {faster}" if others[faster] < mine else ""


def _registers(call: Call) -> int:
    """About what SharedOut of kernels/net_cuda.h needs: values, derivatives and targets, and sums of a thread."""
    signals = call.sizes[0] + 2 * sum(call.sizes[1:])
    return (signals + call.numbers * 3 // 64) * call.dtype.itemsize // 4


def _shared_bytes(call: Call) -> int:
    """The parameters, their sums, and a layer's inputs and gradients for a block's samples."""
    exchanged = max(a + b for a, b in zip(call.sizes, call.sizes[1:])) + 1
    return (2 * call.numbers + exchanged * (THREADS + THREADS // 8)) * call.dtype.itemsize + 64


def chunk_samples(call: Call) -> int:
    """Samples in a chunk: a function of their number and of the net alone."""
    resident = RESIDENT_SHARED_OUT if _shares_out(call) else RESIDENT
    return rounds.chunk_samples(call.samples, THREADS, MOST_A_THREAD, FOLDING, resident)


def _shares_out(call: Call) -> bool:
    """Whether the net has so many parameters that no variant with sums of all of them in a thread is tried."""
    return fused_cuda.variants(arguments.shape(call))[0].shares_out


def intermediate_bytes(call: Call) -> int:
    """The sums of all chunks."""
    chunks = -(-call.samples // chunk_samples(call))
    return chunks * (call.numbers * call.dtype.itemsize + 8)


def forward(call: Call) -> tuple[Array, Values | None]:
    """The net's outputs."""
    output = call.backend.xp.empty((call.samples, call.sizes[-1]), call.dtype)
    program = _program(call, _dense(call.x))
    blocks = min(-(-call.samples // THREADS), program.blocks)
    none = np.int64(0)
    targets = (NULL, none, none, NULL, none, call.dtype.type(1), NULL, NULL, NULL)
    program.kernel((blocks,), (THREADS,), (*_batch(call, 0), *targets, output, *_net(call)))
    return output, None


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    xp = call.backend.xp
    sums = ChunkSums(xp, call.numbers, call.dtype)
    grad_x = xp.empty((call.samples, call.sizes[0]), call.dtype) if call.input_grad else None
    add_piece(call, sums, chunk_samples(call), grad_x)
    total, loss = sums.total(call.scale)
    return arguments.result(call, total, grad_x, loss)


def add_piece(call: Call, sums: ChunkSums, chunk: int, grad_x: Array | None = None) -> None:
    """Compute the chunks of a call's samples; ``sums`` may hold those of samples before, which were whole chunks."""
    chunks = -(-call.samples // chunk)
    program = _program(call, _dense(call.x) and _dense(call.y))
    results = grad_x, *sums.place(chunks)
    program.kernel((min(chunks, program.blocks),), (THREADS,), tuple(_arguments(call, chunk, *results)))


class Ready:
    """The launches of :func:`loss_and_grad` for calls that differ in the arrays x and y alone, with one for an example.

    Attributes:
        bytes: of the memory that a call is given for sums.
    """

    def __init__(self, call: Call) -> None:
        chunk = chunk_samples(call)
        chunks = -(-call.samples // chunk)
        self._sums = ReadySums(chunks, call.numbers, call.dtype, call.scale)
        self.bytes = self._sums.bytes
        program = _program(call, True)
        blocks = min(chunks, program.blocks)
        self._launch = cuda.Launch(program.kernel, (blocks,), (THREADS,), _arguments(call, chunk, None, NULL, NULL))

    def __call__(self, x: int, y: int, memory: int, gradients: int, loss: int, stream: int) -> None:
        """The gradients of all parameters, one after another, and the loss. All of them are addresses."""
        numbers = self._launch.arguments
        numbers[X].value, numbers[Y].value = x, y
        numbers[SUMS].value, numbers[LOSSES].value = memory + self._sums.rows, memory + self._sums.losses
        self._launch(stream)
        self._sums(memory, gradients, loss, stream)


def _arguments(call: Call, chunk: int, *results: Array | None) -> list[Any]:
    """Of ``bpx_backprop``: ``bpx::Batch`` of kernels/net_cuda.h, the parameters and the scalars.

    ``results`` are the gradient in x, the chunks' sums and their losses.
    """
    targets = (call.y, *_strides(call.y), call.weight, _strides(call.weight)[0], call.dtype.type(call.scale))
    return [*_batch(call, chunk), *(NULL if a is None else a for a in (*targets, *results)), *_net(call)]


def _batch(call: Call, chunk: int) -> tuple[Any, ...]:
    return np.int64(call.samples), np.int64(chunk), call.x, *_strides(call.x)


def _net(call: Call) -> list[Any]:
    parameters = [a for layer in call.layers for a in (layer.weight, layer.bias) if a is not None]
    contiguous = [call.backend.xp.ascontiguousarray(a) for a in parameters]
    return [*contiguous, *(call.dtype.type(a) for a in arguments.scalars(call))]


_programs: dict[Any, Program] = {}


def _program(call: Call, dense: bool) -> Program:
    shape = arguments.shape(call)
    key = (call.backend.device, shape, dense)
    if key not in _programs:
        activations = [layer.activation for layer in call.layers]
        variants = fused_cuda.variants(shape)
        sources = [fused_cuda.source(shape, activations, variant, dense) for variant in variants]
        name = "bpx_forward" if call.loss is None else "bpx_backprop"
        kernel = cuda.kernel(sources[cuda.first_fitting(sources, name, THREADS)], name)
        processors = call.backend.xp.cuda.Device().attributes["MultiProcessorCount"]
        _programs[key] = Program(kernel, processors * cuda.resources(kernel).blocks(THREADS))
    return _programs[key]


def _dense(array: Array | None) -> bool:
    """Whether the features of a sample are adjacent."""
    return array is None or array.ndim == 1 or array.strides[1] == array.itemsize


def _strides(array: Array | None) -> tuple[np.int64, np.int64]:
    """Elements from one sample to the next, and from one feature to the next."""
    if array is None:
        return np.int64(0), np.int64(0)
    row, column = (*array.strides, 0)[:2]
    return np.int64(row // array.itemsize), np.int64(column // array.itemsize)
