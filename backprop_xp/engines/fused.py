"""The fused engine: forward, loss and backward in one compiled pass; nothing but the gradients is written.

A tile of samples goes through the whole net in registers and the first-level cache (kernels/net.h). The batch is
cut into fixed logical chunks, whose sums are added in a fixed tree: the same bits for any number of threads.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .. import threads
from ..backend import Array
from ..jit import compiler, fused
from ..losses import SoftmaxCrossEntropy
from .call import Call, Gradients, Signals

#: A chunk's sums take a vector register for each parameter: beyond this many they no longer fit the cache.
MOST_PARAMETERS = 1 << 15
#: A tile's signals take a hundred samples times this much.
MOST_WIDTH = 256
#: Chunks are handed to C in waves: so many operations, after which an interrupt is seen, and so many bytes of sums.
WAVE_FLOPS, WAVE_BYTES = 5e9, 8 << 20


def refuses(call: Call) -> str:
    """It runs nets of formulas, narrow enough, where there is a compiler."""
    if call.backend.on_gpu:
        return "it runs on the CPU"
    sizes = call.sizes
    if max(sizes) > MOST_WIDTH or _parameters(call) > MOST_PARAMETERS:
        return f"the net is wider than {MOST_WIDTH} or has more than {MOST_PARAMETERS} parameters"
    if not all(getattr(layer.activation, "is_formula", False) for layer in call.layers):
        return "an activation is written in Python"
    formula_loss = getattr(call.loss, "is_formula", False) or type(call.loss) is SoftmaxCrossEntropy
    if call.loss is not None and not formula_loss:
        return "the loss is written in Python"
    return compiler.missing()


def intermediate_bytes(call: Call) -> int:
    """The sums of one wave of chunks and of each thread, and a tile's signals."""
    registers = 64 * (_parameters(call) + 2 * 8 * sum(call.sizes))
    chunks = -(-call.samples // fused.chunk_samples())
    wave = min(chunks, _wave_chunks(call)) * _parameters(call) * call.dtype.itemsize
    return threads.count(call.threads) * registers + wave + fused.TREE_LEVELS * _parameters(call) * call.dtype.itemsize


def forward(call: Call) -> tuple[Array, Signals | None]:
    """The net's outputs."""
    program = fused.program(_shape(call, None), [layer.activation for layer in call.layers])
    output = np.empty((call.samples, call.sizes[-1]), call.dtype)
    held: list[Any] = []
    args = _arguments(call, held)
    args.output = _address(output, held)
    _run_waves(call, program.bpx_forward, args, _wave_chunks(call), lambda chunks: None)
    return output, None


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    shape = _shape(call, _loss_key(call))
    program = fused.program(shape, [layer.activation for layer in call.layers])
    count, wave = _parameters(call), _wave_chunks(call)
    held: list[Any] = []
    args = _arguments(call, held)
    if call.y is not None:
        y = _readable(call.y)
        args.y, args.y_row = _address(y, held), _stride(y, 0)
        args.y_column = _stride(y, 1) if y.ndim == 2 else 0
    if call.weight is not None:
        weight = _readable(call.weight)
        args.weight, args.weight_row = _address(weight, held), _stride(weight, 0)
    args.scale = call.scale
    grad_x = np.empty((call.samples, call.sizes[0]), call.dtype) if call.input_grad else None
    if grad_x is not None:
        args.x_grad = _address(grad_x, held)
    sums, losses = np.empty((wave, count), call.dtype), np.empty(wave)
    args.sums, args.losses = _address(sums, held), _address(losses, held)
    levels, level_losses = np.empty((fused.TREE_LEVELS, count), call.dtype), np.empty(fused.TREE_LEVELS)
    tree = fused.Tree(count, 0, _address(levels, held), _address(level_losses, held))
    pointer = ctypes.addressof(tree)

    def add(chunks: int) -> None:
        program.bpx_tree_add(pointer, args.sums, args.losses, chunks)

    _run_waves(call, program.bpx_backprop, args, wave, add)
    total = np.empty(count, call.dtype)
    loss = program.bpx_tree_total(pointer, _address(total, held))
    weights, biases = _unpacked(call, total)
    return Gradients(weights, biases, grad_x, call.dtype.type(loss * call.scale))


def _run_waves(call: Call, function: Any, args: Any, wave: int, after: Any) -> None:
    chunks = -(-call.samples // fused.chunk_samples())
    pointer = ctypes.addressof(args)

    def stop() -> None:
        args.stop = 1

    for first in range(0, chunks, wave):
        args.first = args.next = first
        args.last = min(first + wave, chunks)
        workers = min(threads.count(call.threads), args.last - first)
        threads.run(lambda: function(pointer), workers, stop)
        after(args.last - first)


def _wave_chunks(call: Call) -> int:
    multiply_adds = 3 * sum(a * b for a, b in zip(call.sizes, call.sizes[1:]))
    by_time = int(WAVE_FLOPS / (2 * multiply_adds * fused.chunk_samples()))
    by_memory = WAVE_BYTES // (_parameters(call) * call.dtype.itemsize)
    return max(16, min(by_time, by_memory, -(-call.samples // fused.chunk_samples())))


def _shape(call: Call, loss: Any) -> fused.Shape:
    return fused.Shape(
        call.sizes,
        call.layers[0].bias is not None,
        call.dtype.name,
        tuple(layer.activation.text for layer in call.layers),
        loss,
        loss is not None and (call.weight is not None or call.scale != 1.0),
        loss is not None and call.input_grad,
    )


def _loss_key(call: Call) -> Any:
    if type(call.loss) is not SoftmaxCrossEntropy:
        return type(call.loss)
    assert call.y is not None
    return "classes" if call.y.ndim == 1 else "probabilities"


def _arguments(call: Call, held: list[Any]) -> Any:
    """What every call hands over; ``held`` keeps alive what is only pointed at."""
    x = _readable(call.x)
    parts = [a.ravel() for layer in call.layers for a in (layer.weight, layer.bias) if a is not None]
    scalars = [number for layer in call.layers for number in layer.activation.parameters]
    scalars += getattr(call.loss, "parameters", ())
    args = fused.Args(n=call.samples, x=_address(x, held), x_row=_stride(x, 0), x_column=_stride(x, 1))
    args.params = _address(np.concatenate(parts), held)
    args.scalars = _address(np.array(scalars or [0.0], call.dtype), held)
    return args


def _unpacked(call: Call, total: np.ndarray) -> tuple[list[Array], list[Array | None]]:
    weights: list[Array] = []
    biases: list[Array | None] = []
    at = 0
    for weight, bias, _ in call.layers:
        weights.append(total[at : at + weight.size].reshape(weight.shape))
        at += weight.size
        biases.append(None if bias is None else total[at : at + bias.size])
        at += 0 if bias is None else bias.size
    return weights, biases


def _parameters(call: Call) -> int:
    return sum(layer.weight.size + (0 if layer.bias is None else layer.bias.size) for layer in call.layers)


def _readable(array: np.ndarray) -> np.ndarray:
    """The array itself, in place, unless its elements lie at odd addresses."""
    odd = not array.flags.aligned or any(stride % array.itemsize for stride in array.strides)
    return np.ascontiguousarray(array) if odd else array


def _address(array: np.ndarray, held: list[Any]) -> int:
    held.append(array)
    return array.ctypes.data


def _stride(array: np.ndarray, axis: int) -> int:
    return array.strides[axis] // array.itemsize
