"""The fused pass for wide layers: kernels/wide.h over chunks of samples, each with its own partial sums.

It is part of the fused engine, which chooses between it and the narrow form by the net alone.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import threads, workspace
from ..backend import Array
from ..jit import fused, structs
from ..workspace import recycled
from . import arguments
from .call import Call, Gradients, Signals
from .tree import ChunkTree


def forward(call: Call) -> tuple[Array, Signals | None]:
    """The net's outputs."""
    program = fused.program(arguments.shape(call, None), [layer.activation for layer in call.layers])
    output = np.empty((call.samples, call.sizes[-1]), call.dtype)
    held: list[Any] = []
    with recycled():
        args = _arguments(call, program, held)
        args.output = arguments.address(output, held)

        def chunk(index: int, first: int, count: int, memory: int) -> None:
            program.bpx_wide(ctypes.addressof(args), first, count, memory, None)

        each_chunk(call, args, program.bpx_wide_rows(), program.bpx_wide_memory(), chunk)
    return output, None


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    shape = arguments.shape(call, arguments.loss_key(call))
    program = fused.program(shape, [layer.activation for layer in call.layers])
    held: list[Any] = []
    grad_x = np.empty((call.samples, call.sizes[0]), call.dtype) if call.input_grad else None
    numbers = program.bpx_wide_grads()
    sums: ChunkTree[np.ndarray] = ChunkTree()
    losses: ChunkTree[np.ndarray] = ChunkTree()
    with recycled():
        args = _arguments(call, program, held)
        arguments.add_targets(args, call, held)
        if grad_x is not None:
            args.x_grad = arguments.address(grad_x, held)

        def chunk(index: int, first: int, count: int, memory: int) -> None:
            grads = np.empty(numbers, call.dtype)
            loss = program.bpx_wide(ctypes.addressof(args), first, count, memory, grads.__array_interface__["data"][0])
            sums.add(index, grads)
            losses.add(index, np.array([loss]))

        each_chunk(call, args, program.bpx_wide_rows(), program.bpx_wide_memory(), chunk)
    packed, loss = sums.total(), losses.total()
    assert packed is not None and loss is not None
    total = np.empty(call.parameters, call.dtype)
    program.bpx_wide_unpack(packed.__array_interface__["data"][0], total.__array_interface__["data"][0])
    weights, biases = arguments.unpacked(call, total)
    return Gradients(weights, biases, grad_x, call.dtype.type(loss[0] * call.scale))


def intermediate_bytes(call: Call) -> int:
    """A megabyte of signals a thread, the packed parameters, and the sums of a few chunks."""
    return threads.count(call.threads) * (1 << 20) + 8 * call.parameters * call.dtype.itemsize


def _arguments(call: Call, program: Any, held: list[Any]) -> Any:
    args = structs.WideArgs()
    args.held = held  # the work holds args
    arguments.add_batch(args, call, held)
    parameters = arguments.parameters(call)
    packed = workspace.empty((program.bpx_wide_params(),), call.dtype)
    pointers = (ctypes.c_void_p * len(parameters))(*(arguments.address(array, held) for array in parameters))
    program.bpx_wide_pack(pointers, arguments.address(packed, held))
    args.params = packed.__array_interface__["data"][0]
    return args


def each_chunk(
    call: Any, args: structs.WideArgs, rows: int, numbers_of_a_tile: int, work: Callable[[int, int, int, int], None]
) -> None:
    """``work(index, first sample, samples, memory)`` for every chunk, on all threads.

    Args:
        rows: samples in a tile.
        numbers_of_a_tile: for which ``memory`` has room, an address; each thread has its own.
    """
    samples = fused.wide_chunk(call.multiply_adds, call.samples, rows)
    chunks = -(-call.samples // samples)
    numbers = itertools.count()
    stop = threads.Stop()
    args.stop = ctypes.addressof(stop)

    def worker() -> None:
        with recycled():
            memory = workspace.empty((numbers_of_a_tile,), call.dtype)
            while (index := next(numbers)) < chunks and not stop.raised:
                first = index * samples
                work(index, first, min(samples, call.samples - first), memory.__array_interface__["data"][0])

    long = samples * arguments.flops(call) > threads.LONG_FLOPS
    threads.run(worker, min(threads.count(call.threads), chunks), stop, long)
