"""The fused engine: forward, loss and backward in one compiled pass that keeps no signals.

It has two forms. In the narrow one, for many samples of small nets, a tile of samples goes through the whole net in
registers and the first-level cache (kernels/net.h); the batch is cut into fixed logical chunks, whose sums are added in
a fixed tree. In the other, engines/matrices.py, threads share out blocks of whole matrices. Both give the same bits for
any number of threads.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .. import threads
from ..backend import Array
from ..jit import compiler, fused, structs
from . import arguments, matrices
from .call import Call, Gradients, Signals

#: Floating-point operations of a wave of chunks, and bytes of its partial sums, at most. Chosen, not measured: a wave
#: takes a tenth of a second or so, after which an interrupt is seen, and its sums fit a third-level cache.
WAVE_FLOPS, WAVE_BYTES = 5e9, 8 << 20


def refuses(call: Call) -> str:
    """It runs nets of formulas where there is a compiler."""
    if call.backend.on_gpu:
        return "it runs on the CPU"
    return arguments.written_in_python(call) or compiler.missing()


def intermediate_bytes(call: Call) -> int:
    """The sums of one wave of chunks and of each thread, and a tile's signals."""
    shape = arguments.shape(call, None)
    if not shape.narrow(call.samples):
        return matrices.intermediate_bytes(call)
    count = call.parameters
    registers = 64 * (count + 2 * 8 * sum(call.sizes))
    wave = _wave_chunks(call, shape.narrow_chunk) * count * call.dtype.itemsize
    return threads.count(call.threads) * registers + wave + structs.TREE_LEVELS * count * call.dtype.itemsize


def forward(call: Call) -> tuple[Array, Signals | None]:
    """The net's outputs."""
    shape = arguments.shape(call, None)
    if not shape.narrow(call.samples):
        return matrices.forward(call)
    program = fused.program(shape, [layer.activation for layer in call.layers])
    output = np.empty((call.samples, call.sizes[-1]), call.dtype)
    held: list[Any] = []
    args = _arguments(call, held)
    args.output = arguments.address(output, held)
    _run_waves(call, program.bpx_forward, args, shape.narrow_chunk, lambda chunks: None)
    return output, None


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    shape = arguments.shape(call, arguments.loss_key(call))
    if not shape.narrow(call.samples):
        return matrices.loss_and_grad(call)
    program = fused.program(shape, [layer.activation for layer in call.layers])
    count, wave = call.parameters, _wave_chunks(call, shape.narrow_chunk)
    held: list[Any] = []
    args = _arguments(call, held)
    arguments.add_targets(args, call, held)
    grad_x = np.empty((call.samples, call.sizes[0]), call.dtype) if call.input_grad else None
    if grad_x is not None:
        args.x_grad = arguments.address(grad_x, held)
    sums, losses = np.empty((wave, count), call.dtype), np.empty(wave)
    args.sums, args.losses = arguments.address(sums, held), arguments.address(losses, held)
    levels, level_losses = np.empty((structs.TREE_LEVELS, count), call.dtype), np.empty(structs.TREE_LEVELS)
    tree = structs.Tree(count, 0, arguments.address(levels, held), arguments.address(level_losses, held))
    pointer = ctypes.addressof(tree)

    def add(chunks: int) -> None:
        program.bpx_tree_add(pointer, args.sums, args.losses, chunks)

    _run_waves(call, program.bpx_backprop, args, shape.narrow_chunk, add)
    total = np.empty(count, call.dtype)
    loss = program.bpx_tree_total(pointer, arguments.address(total, held))
    weights, biases = arguments.unpacked(call, total)
    return Gradients(weights, biases, grad_x, call.dtype.type(loss * call.scale))


def _arguments(call: Call, held: list[Any]) -> Any:
    args = structs.Args(n=call.samples)
    args.held = held  # the work holds args
    arguments.add_batch(args, call, held)
    args.params = arguments.address(np.concatenate([a.ravel() for a in arguments.parameters(call)]), held)
    return args


def _run_waves(call: Call, function: Any, args: Any, chunk: int, after: Any) -> None:
    chunks, wave = -(-call.samples // chunk), _wave_chunks(call, chunk)
    stop = threads.Stop()
    args.stop = ctypes.addressof(stop)

    def work() -> None:
        function(ctypes.addressof(args))

    for first in range(0, chunks, wave):
        args.first = args.next = first
        args.last = min(first + wave, chunks)
        workers = min(threads.count(call.threads), args.last - first) if args.last - first > 1 else 1
        long = (args.last - args.first) * chunk * arguments.flops(call) > workers * threads.LONG_FLOPS
        threads.run(work, workers, stop, long)
        if stop.raised:  # a thread found no memory
            raise MemoryError("no memory for a tile of the fused engine")
        after(args.last - first)


def _wave_chunks(call: Call, chunk: int) -> int:
    if call.samples <= chunk:
        return 1
    by_time = int(WAVE_FLOPS / (arguments.flops(call) * chunk))
    by_memory = WAVE_BYTES // (call.parameters * call.dtype.itemsize)
    chunks = -(-call.samples // chunk)
    return max(1, min(max(16, min(by_time, by_memory)), chunks))
