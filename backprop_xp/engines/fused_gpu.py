"""The fused engine on CuPy: forward, loss and backward of the whole net in one kernel, one sample a thread.

Signals stay in registers, weights in shared memory (kernels/net_cuda.h); what is written are the sums of each chunk of
samples, which a second pass adds in a fixed tree (chunk_sums.py). Everything happens on the current stream.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from ..plan.call import Call, Result, Values
from ..programs import arguments, fused_cuda
from ..sums.chunk_sums import ChunkSums
from ..toolchain import cuda

#: Threads of a block: ``bpx::threads`` of kernels/net_cuda.h.
THREADS = 128
#: Samples of a chunk, at least and at most, powers of two, and the chunks that a batch should have. Calculated: a chunk
#: has a few samples a thread, or its sums cost more than its samples; and there are chunks for all blocks, of which two
#: to four are at work on each of the 132 multiprocessors of an H100.
FEWEST_SAMPLES, MOST_SAMPLES, ENOUGH_CHUNKS = 256, 4096, 512
#: Registers of 4 bytes, of a thread's 255, that signals and sums may take beside weights, addresses and temporary
#: results. Calculated; what really fits is found by compiling (toolchain/cuda.py).
MOST_REGISTERS = 150
#: Bytes of shared memory that a block has without an opt-in: CUDA's limit.
MOST_SHARED_BYTES = 48 << 10


class Program(NamedTuple):
    """A compiled kernel for the current device, and how many blocks are at work at a time."""

    kernel: Any
    blocks: int


def why_not(call: Call) -> str:
    """What is no chain or no formula, or too large for a thread's registers."""
    if not call.backend.on_gpu:
        return "it runs on the GPU"
    if not call.plan.chain:
        return "the graph is no chain"
    if reason := arguments.written_in_python(call) or arguments.too_many_scalars(call):
        return reason
    if _registers(call) > MOST_REGISTERS:
        return "a sample's signals and a thread's sums need too many registers"
    return "the parameters and signals need too much shared memory" if _shared_bytes(call) > MOST_SHARED_BYTES else ""


def _registers(call: Call) -> int:
    """About what SharedOut of kernels/net_cuda.h needs: values, derivatives and targets, and sums of a thread."""
    signals = call.sizes[0] + 2 * sum(call.sizes[1:])
    return (signals + call.numbers * 3 // 64) * call.dtype.itemsize // 4


def _shared_bytes(call: Call) -> int:
    """The parameters, their sums, and a layer's inputs and gradients for a block's samples."""
    exchanged = max(a + b for a, b in zip(call.sizes, call.sizes[1:])) + 1
    return (2 * call.numbers + exchanged * (THREADS + THREADS // 8)) * call.dtype.itemsize + 64


def chunk_samples(samples: int) -> int:
    """Samples in a chunk, for a batch of ``samples``: a function of that number alone."""
    chunk = MOST_SAMPLES
    while chunk > FEWEST_SAMPLES and samples < ENOUGH_CHUNKS * chunk:
        chunk //= 2
    return chunk


def intermediate_bytes(call: Call) -> int:
    """The sums of all chunks."""
    chunks = -(-call.samples // chunk_samples(call.samples))
    return chunks * (call.numbers * call.dtype.itemsize + 8)


def forward(call: Call) -> tuple[Array, Values | None]:
    """The net's outputs."""
    output = call.backend.xp.empty((call.samples, call.sizes[-1]), call.dtype)
    program = _program(call, _dense(call.x))
    blocks = min(-(-call.samples // THREADS), program.blocks)
    _launch(program, blocks, call, 0, (), output)
    return output, None


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    xp = call.backend.xp
    sums = ChunkSums(xp, call.numbers, call.dtype)
    grad_x = xp.empty((call.samples, call.sizes[0]), call.dtype) if call.input_grad else None
    add_piece(call, sums, chunk_samples(call.samples), grad_x)
    total, loss = sums.total(call.scale)
    return arguments.result(call, total, grad_x, loss)


def add_piece(call: Call, sums: ChunkSums, chunk: int, grad_x: Array | None = None) -> None:
    """Compute the chunks of a call's samples; ``sums`` may hold those of samples before, which were whole chunks."""
    chunks = -(-call.samples // chunk)
    program = _program(call, _dense(call.x) and _dense(call.y))
    rows, losses = sums.place(chunks)
    targets = (call.y, *_strides(call.y), call.weight, _strides(call.weight)[0])
    results = (call.dtype.type(call.scale), grad_x, rows, losses)
    _launch(program, min(chunks, program.blocks), call, chunk, (*targets, *results))


def _launch(program: Program, blocks: int, call: Call, chunk: int, targets: tuple[Any, ...], *outputs: Array) -> None:
    """``bpx::Batch`` of kernels/net_cuda.h, the parameters, and the scalars."""
    number, null, none = call.dtype.type, np.uintp(0), np.int64(0)
    targets = targets or (null, none, none, null, none, number(1), null, null, null)
    parameters = [a for layer in call.layers for a in (layer.weight, layer.bias) if a is not None]
    program.kernel(
        (blocks,),
        (THREADS,),
        (
            np.int64(call.samples),
            np.int64(chunk),
            call.x,
            *_strides(call.x),
            *(null if a is None else a for a in targets),
            *outputs,
            *(call.backend.xp.ascontiguousarray(a) for a in parameters),
            *(number(a) for a in arguments.scalars(call)),
        ),
    )


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
