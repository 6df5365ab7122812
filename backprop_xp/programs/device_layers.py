"""The layered engine's launches on CuPy, from kernels/layer.h: one between two matrix products.

Column sums and the loss are left as partial sums, which :func:`summed_together` adds up in one last launch. All sums
are in an order that the shapes fix. Kernels run on the current stream, and nothing waits for them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from ..backend import module_of
from ..dtypes import C_NAMES
from ..formulas import Formula, emit
from ..formulas.device import launch, raw_kernel
from ..formulas.of_activation import of_activation
from ..kernels import source as kernel_source

THREADS, SECOND_THREADS = 256, 1024  # layer_threads and second_threads of kernels/layer.h
SOFTMAX_ROWS = 256  # samples of a block, at most, where a loss needs whole rows: softmax_rows of kernels/layer.h
#: Columns of a tile, at most; rows of partial sums, about, at most; sums that one launch of the second pass adds up.
#: Chosen, not measured on a device.
SPAN, MOST_PARTS, MOST_TOGETHER = 64, 4096, 32
NULL = np.uint64(0)


class _Function(NamedTuple):
    """What these launches read of an activation."""

    formula: Formula
    parameters: tuple[float, ...] = ()


IDENTITY = _Function(of_activation("t", "1"))

KERNELS = {
    "forward": "{number}* t, const {number}* bias, {number}* z",
    "backward": "const {number}* t, const {number}* grad_z, {number}* grad_t, {number}* sums",
    "loss": "const {number}* product, const {number}* bias, const {target}* y, const {number}* weight, {number} scale, "
    "{number}* t, {number}* z, {number}* grad_z, {number}* grad_t, {number}* losses, {number}* sums",
}


def forward(activation: Any, t: Any, bias: Any | None) -> Any:
    """Adds the bias to ``t`` in place and returns f(t), which for the identity is ``t`` itself."""
    identity = _is_an_input(activation, "value")
    z = t if identity else module_of(t).empty_like(t)
    if t.size and not (identity and bias is None):
        grid = _Grid(t, softmax=False)
        _launch("forward", activation, None, grid, [t, _ready(bias, t, t.shape[-1:]), None if identity else z])
    return z


def backward(activation: Any, t: Any, grad_z: Any, column_sums: bool) -> tuple[Any, Any | None]:
    """grad_z * f'(t), which for the identity is ``grad_z`` itself, and the sums of its columns if they are wanted."""
    cupy = module_of(t)
    t, grad_z = _ready(t, t), _ready(grad_z, t)
    identity = _is_an_input(activation, "grad_t")
    grad_t = grad_z if identity else cupy.empty_like(t)
    grid = _Grid(t, softmax=False)
    parts = cupy.empty((grid.blocks, grid.width), t.dtype) if column_sums else None
    if t.size and not (identity and not column_sums):
        _launch("backward", activation, None, grid, [t, grad_z, None if identity else grad_t, parts])
    return grad_t, None if parts is None else _total(parts, (grid.width,))


@dataclass(slots=True)
class Top:
    """The last layer's signals (where they are kept) and gradients, and the loss."""

    loss: Any
    grad_t: Any
    grad_bias: Any | None
    t: Any | None = None
    z: Any | None = None
    grad_z: Any | None = None


def fused_loss(
    activation: Any, loss: Any, product: Any, bias: Any, y: Any, weight: Any, scale: float, keep: bool = False
) -> Top:
    """From the last matrix product to the gradient in t: bias, activation, loss and both derivatives in one launch."""
    cupy = module_of(product)
    if y is None and loss.needs_target:
        raise ValueError(f"the loss {loss.name} needs a target")
    product = _ready(product, product)
    softmax = not hasattr(loss, "kernel")
    grid = _Grid(product, softmax)
    t = product if keep and bias is None else cupy.empty_like(product) if keep else None
    z, grad_z = (cupy.empty_like(product) if keep else None for _ in range(2))
    grad_t = cupy.empty_like(product)
    parts = cupy.empty((grid.blocks, grid.width), product.dtype) if bias is not None else None
    losses = cupy.empty((grid.blocks * grid.tiles, 1), product.dtype)
    scale = product.dtype.type(scale)
    if product.size:
        classes = softmax and y.ndim < product.ndim
        target = _ready(y, product, product.shape[:-1], np.int64) if classes else _ready(y, product)
        bias, weight = _ready(bias, product, product.shape[-1:]), _ready(weight, product, product.shape[:-1])
        written = [None if t is product else t, z, grad_z, grad_t, losses, parts]
        arrays = [product, bias, target, weight, scale, *written]
        _launch("loss", activation, "classes" if classes else "probabilities" if softmax else loss, grid, arrays)
    total = _total(losses, (), float(scale))
    return Top(total, grad_t, None if parts is None else _total(parts, (grid.width,)), t, z, grad_z)


def loss_alone(loss: Any, z: Any, y: Any, weight: Any, scale: float) -> tuple[Any, Any]:
    """A loss and its gradient in ``z`` in one launch."""
    with summed_together():  # now, whatever waits
        top = fused_loss(IDENTITY, loss, z, None, y, weight, scale)
    return top.loss, top.grad_t


class _Grid:
    """How blocks share a signal: it depends on its shape alone."""

    def __init__(self, signal: Any, softmax: bool) -> None:
        self.width: int = signal.shape[-1]
        self.n = len(signal) if signal.ndim == 2 else 1
        tiles = -(-self.width // SPAN)
        self.span = -(-self.width // tiles)
        lanes = THREADS // self.span
        rows = max(8 * lanes, -(-self.n // MOST_PARTS))
        self.rows = min(-(-rows // lanes) * lanes, SOFTMAX_ROWS if softmax else 1 << 62)
        self.blocks = -(-self.n // self.rows)
        self.tiles = 1 if softmax else min(tiles, 1 << 15)  # a softmax needs whole rows


class _Sums(threading.local):
    """Partial sums that wait for their second pass: (parts, total, factor), or None where none may wait."""

    waiting: list[tuple[Any, Any, float]] | None = None


_sums = _Sums()


@contextmanager
def summed_together() -> Iterator[None]:
    """Let the sums within wait, and add them all up in one launch at the end: until then they hold nothing.

    Within another one, such as in an activation of the user's, it ends with its own launch.
    """
    before = _sums.waiting
    waiting: list[tuple[Any, Any, float]] = []
    _sums.waiting = waiting
    try:
        yield
    finally:
        _sums.waiting = before
    for start in range(0, len(waiting), MOST_TOGETHER):
        _second_pass(waiting[start : start + MOST_TOGETHER])


def _total(parts: Any, shape: tuple[int, ...], factor: float = 1.0) -> Any:
    total = module_of(parts).empty(shape, parts.dtype)
    if _sums.waiting is None:
        _second_pass([(parts, total, factor)])
    else:
        _sums.waiting.append((parts, total, factor))
    return total


def _second_pass(sums: Sequence[tuple[Any, Any, float]]) -> None:
    args: list[Any] = []
    for parts, total, factor in sums:
        args += [parts, total, np.int64(len(parts)), np.int64(parts.shape[1]), np.float64(factor)]
    tiles = max(-(-parts.shape[1] // 32) for parts, _, _ in sums)
    first = sums[0][0]
    kernel = _second_kernel(module_of(first), len(sums), first.dtype.name)
    launch(kernel, (min(tiles, 1 << 15), len(sums)), SECOND_THREADS, args)


def _launch(kind: str, activation: Any, loss: Any, grid: _Grid, arrays: Sequence[Any]) -> None:
    dtype = arrays[0].dtype
    kind_of_loss: Any = loss if isinstance(loss, (str, NoneType)) else loss.kernel
    kernel = _kernel(module_of(arrays[0]), kind, activation.formula, kind_of_loss, dtype.name)
    shape = (np.int64(grid.n), np.int64(grid.rows), np.int32(grid.width), np.int32(grid.span))
    parameters = (*activation.parameters, *getattr(loss, "parameters", ()))
    # a Python float would be passed as a double, whatever the kernel expects
    scalars = [dtype.type(number) for number in parameters]
    args = (*shape, *(NULL if array is None else array for array in arrays), *scalars)
    launch(kernel, (grid.blocks, grid.tiles), THREADS, args)


def _ready(array: Any | None, like: Any, shape: tuple[int, ...] | None = None, dtype: Any = None) -> Any | None:
    """Contiguous, of the shape and dtype of ``like`` or of these: another dtype would be read as garbage."""
    if array is None:
        return None
    cupy = module_of(like)
    if not isinstance(array, cupy.ndarray):
        raise TypeError(f"expected CuPy arrays, like the others, got {type(array).__name__}")
    shape = like.shape if shape is None else shape
    if array.shape != shape:
        array = cupy.broadcast_to(array, shape)
    return cupy.ascontiguousarray(array, dtype or like.dtype)


def _is_an_input(activation: Any, output: str) -> bool:
    """Whether this output is one of the arrays: f(t) = t, or f'(t) = 1."""
    formula = activation.formula
    return formula.nodes[formula.outputs[output]].op == "variable"


def entry(kind: str, activation: Formula, loss: Any, dtype: str, name: str) -> str:
    """CUDA source of one kernel, without kernels/layer.h.

    ``loss`` is what :func:`backprop_xp.losses.kernel_of` says, of scalar parameters; None for other kinds.
    """
    number = C_NAMES[dtype]
    code = [emit.struct(activation, f"{name}_f", ("t",))]
    structs, lists = [f"{name}_f"], {"p": len(activation.parameters)}
    if loss is not None and not isinstance(loss, str):
        formula, target = loss.formula, loss.needs_target
        code.append(emit.struct(formula, f"{name}_l", ("z", "y") if target else ("z",), target))
        structs.append(f"bpx::SumLoss<{name}_l>")
        lists["q"] = len(formula.parameters)
    elif loss is not None:
        structs.append(f"bpx::SoftmaxLoss<{str(loss == 'classes').lower()}>")
        lists["q"] = 0
    declared = KERNELS[kind].format(number=number, target="long long" if loss == "classes" else number)
    names = [argument.split()[-1] for argument in declared.split(", ")]
    scalars = "".join(f", {number} {p}{k}" for p, count in lists.items() for k in range(count))
    code += [
        f'extern "C" __global__ void {name}(',
        f"    long long n, long long rows, int width, int span, {declared}{scalars}) {{",
    ]
    for p, count in lists.items():
        code.append(f"  const {number} {p}[] = {{{', '.join(f'{p}{k}' for k in range(count)) or '0'}}};")
    code += [
        f"  bpx::layer_{kind}<{', '.join(structs)}>(n, rows, width, span, {', '.join([*names, *lists])});",
        "}",
        "",
    ]
    return "\n".join(code)


def second_entry(sums: int, dtype: str) -> str:
    """CUDA source of the kernel that adds up ``sums`` arrays of partial sums."""
    number = C_NAMES[dtype]
    arguments = ", ".join(
        f"const {number}* parts{k}, {number}* totals{k}, long long rows{k}, long long columns{k}, double factor{k}"
        for k in range(sums)
    )
    return "\n".join(
        [
            f'extern "C" __global__ void __launch_bounds__({SECOND_THREADS}) second_pass({arguments}) {{',
            *(
                f"  if (blockIdx.y == {k}) bpx::second_pass(parts{k}, totals{k}, rows{k}, columns{k}, factor{k});"
                for k in range(sums)
            ),
            "}",
            "",
        ]
    )


@lru_cache(maxsize=512)
def _kernel(xp: Any, kind: str, activation: Formula, loss: Any, dtype: str) -> Any:
    name = f"layer_{kind}"
    source = kernel_source("layer.h") + entry(kind, activation, loss, dtype, name)
    return raw_kernel(xp, source, name)


@lru_cache(maxsize=64)
def _second_kernel(xp: Any, sums: int, dtype: str) -> Any:
    source = kernel_source("layer.h") + second_entry(sums, dtype)
    return raw_kernel(xp, source, "second_pass")
