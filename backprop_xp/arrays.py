"""Operations on whole arrays, by the library that they belong to: formulas, matrix products, sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import later, products, threads, workspace
from .backend import Array, addressable, module_of, owner_of
from .dtypes import DTYPES, SUMS, floating, name_of
from .formulas import Formula, blocked
from .programs import elementwise as compiled

if TYPE_CHECKING:
    from .formulas import device
    from .programs import cublas
else:
    device = later.Module("backprop_xp.formulas.device")
    cublas = later.Module("backprop_xp.programs.cublas")


def elementwise(
    formula: Formula,
    outputs: tuple[str, ...],
    arrays: Mapping[str, Any],
    parameters: Sequence[float] = (),
) -> list[Array]:
    """The outputs of a formula as arrays of the inputs' shape and library, in one pass over memory.

    They are new arrays, except that an output that is one of the inputs is that very array.

    All arrays must broadcast to the shape of the first. Integers are computed in dtypes.DEFAULT.

    Raises:
        TypeError: arrays of a dtype that a net can't have.
    """
    first = next(iter(arrays.values()))
    if owner_of(first) == "cupy":
        return device.run(module_of(first), formula, outputs, _addressable(arrays), parameters)
    nodes = [formula.nodes[formula.outputs[name]] for name in outputs]
    if all(node.op == "variable" and isinstance(arrays[node.name], np.ndarray) for node in nodes):
        return [arrays[node.name] for node in nodes]
    dtype = floating(*arrays.values())
    shape = np.shape(first)
    flat = len(arrays) == 1 or all(np.shape(a) == shape for a in arrays.values())
    ready = {}
    for name, array in arrays.items():
        array = np.asarray(array, dtype)
        ready[name] = np.ravel(array) if flat else array  # contiguous
    outs = [workspace.empty(ready[next(iter(ready))].shape, dtype) for _ in outputs]
    if not (flat and compiled.run(formula, outputs, ready, parameters, outs)):
        blocked.tape(formula, outputs).run(ready, parameters, outs)
    return [out.reshape(shape)[()] for out in outs]


def _addressable(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: addressable(array) if owner_of(array) == "cupy" else array for name, array in arrays.items()}


def in_launches(array: Any) -> bool:
    """Whether programs/device_layers.py computes a signal or a gradient: CuPy's, of a net's dtype, and contiguous."""
    if owner_of(array) == "numpy" or name_of(array.dtype) not in DTYPES:
        return False
    return array.ndim in (1, 2) and array.flags.c_contiguous


def apart(array: Array, *others: Array) -> Array:
    """The array, or a copy where it may share memory with another: its new owner may change it in place."""
    shares = module_of(array).may_share_memory
    return array.copy() if any(shares(array, other) for other in others) else array


def sum_elementwise(
    formula: Formula, output: str, arrays: Mapping[str, Any], parameters: Sequence[float] = ()
) -> Array:
    """The sum of one output of a formula over all elements, without storing them all.

    On NumPy a scalar of the arrays' dtype, summed pairwise within blocks and in dtypes.SUMS across them; on CuPy
    a 0-d array.
    """
    first = next(iter(arrays.values()))
    if owner_of(first) == "cupy":
        return device.run(module_of(first), formula, (output,), _addressable(arrays), parameters)[0].sum()
    dtype = floating(*arrays.values())
    ready = {name: np.atleast_1d(np.asarray(a, dtype)) for name, a in arrays.items()}
    first = next(iter(ready.values()))
    rows = max(1, blocked.BLOCK // max(1, first[:1].size))
    buffer = np.empty((min(rows, len(first)), *first.shape[1:]), dtype)
    total = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, len(first), rows):
            block = {name: a[start : start + rows] for name, a in ready.items()}
            out = buffer[: len(block[next(iter(block))])]
            blocked.tape(formula, (output,)).run(block, parameters, [out])
            total += float(out.sum())
        return dtype.type(total)


def matmul(a: Array, b: Array) -> Array:
    """The matrix product a @ b, in recycled memory where that is allowed. Work that was stopped ends here."""
    threads.check()
    if owner_of(a) == "cupy" and a.ndim == 2:
        return cublas.product(a, b)
    if owner_of(a) == "cupy" or a.ndim == 1:
        return a @ b
    return products.matmul(a, b, workspace.empty((len(a), b.shape[1]), np.result_type(a, b)))


def outer(grad_t: Array, z: Array) -> Array:
    """The outer product of grad_t (out,) and z (in,); of batches (n, out) and (n, in) the sum over the samples."""
    if z.ndim == 1:
        return module_of(z).outer(grad_t, z)
    if owner_of(z) == "cupy":
        return cublas.product(grad_t.T, z)
    return products.matmul(grad_t.T, z, np.empty((grad_t.shape[1], z.shape[1]), np.result_type(grad_t, z)))


def column_sums(grad_t: Array) -> Array:
    """The sum over the samples of (n, width); one sample (width,) is its own sum."""
    if grad_t.ndim == 1:
        return grad_t.copy()
    if owner_of(grad_t) == "cupy":
        return grad_t.sum(axis=0)
    # NumPy adds the rows of a matrix one by one, which loses digits over a million rows
    if len(grad_t) == 0:
        return np.zeros(grad_t.shape[1:], grad_t.dtype)
    parts = np.add.reduceat(grad_t, np.arange(0, len(grad_t), 128), axis=0)
    return parts.sum(axis=0, dtype=SUMS).astype(grad_t.dtype)
