"""Formulas on CuPy: one kernel launch each, built from kernels/math.h when it is first needed.

CuPy ends its compiler's options with ``-ftz=true``, which nothing overrides: subnormal float32 numbers, below 1.2e-38,
count as 0 in every kernel. float64 keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..dtypes import C_NAMES, floating
from ..kernels import source as kernel_source
from ..show_source import show
from . import emit
from .language import Formula

THREADS = 256  # of a block; chosen, not measured on a device
MOST_BLOCKS = 4096  # beyond it, threads take several elements; chosen, not measured on a device
OPTIONS = ("-std=c++17",)
NULL = np.uintp(0)


def run(
    xp: Any, formula: Formula, outputs: tuple[str, ...], arrays: Mapping[str, Any], parameters: Sequence[float]
) -> list[Any]:
    """The outputs of a formula as new CuPy arrays, computed in one launch on the current stream.

    All arrays are on one device and of the first one's dtype and shape, or columns (n, 1) beside its (n, width).
    ``xp`` is CuPy.

    Raises:
        TypeError: an array that isn't a CuPy array, or of a dtype that a net can't have.
    """
    first = next(iter(arrays.values()))
    dtype = floating(first)
    inputs: list[Any] = []
    widths: list[int] = []
    for name in formula.variables:
        if name not in arrays:  # a variable that none of these outputs reads
            inputs.append(None)
            widths.append(0)
            continue
        array = arrays[name]
        if not isinstance(array, xp.ndarray):
            raise TypeError(f"{name} must be a CuPy array like the others, got {type(array).__name__}")
        column = array.shape != first.shape
        if column and (array.ndim != 2 or array.shape != (first.shape[0], 1)):
            array, column = xp.broadcast_to(array, first.shape), False
        # the kernel reads this dtype, whatever the array's: another would be read as garbage
        inputs.append(xp.ascontiguousarray(array, dtype=dtype))
        widths.append(first.shape[1] if column else 1)
    results = [xp.empty(first.shape, dtype) for _ in outputs]
    if first.size:
        # converted here: CuPy would pass a Python float as a double, whatever the kernel expects
        scalars = [dtype.type(number) for number in parameters]
        read = [array for array in inputs if array is not None]
        kernel = _kernel(xp, formula, outputs, tuple(widths), dtype.name)
        blocks = min(MOST_BLOCKS, -(-first.size // THREADS))
        launch(kernel, (blocks,), THREADS, (np.int64(first.size), *results, *read, *scalars))
    return results


def update(
    xp: Any, formula: Formula, arrays: Mapping[str, Any], parameters: Sequence[float], unless: Any = None
) -> None:
    """Overwrite the arrays that the formula's outputs are named after, in one launch on the current stream.

    There is an array for every variable; all are contiguous, of one device and dtype and of the first one's length, or
    columns: of n elements, each for an n-th of the first one's. ``xp`` is CuPy. Nothing is overwritten if ``unless``, a
    0-d array of int64, isn't 0 when the kernel runs; or a column of int64, each for its part.
    """
    variables = [arrays[name] for name in formula.variables]
    n, dtype = variables[0].size, variables[0].dtype
    widths = tuple(n // array.size for array in variables)
    each = n // unless.size if unless is not None and unless.ndim else 0
    kernel = _kernel(xp, formula, tuple(formula.outputs), widths, dtype.name, True, each)
    scalars = [dtype.type(number) for number in parameters]
    blocks = min(MOST_BLOCKS, -(-n // THREADS))
    launch(kernel, (blocks,), THREADS, (np.int64(n), NULL if unless is None else unless, *variables, *scalars))


def launch(kernel: Any, blocks: tuple[int, ...], threads: int, arguments: Sequence[Any]) -> None:
    """Launch a kernel on the current stream. Scalars are of NumPy types, those that the kernel declares."""
    for argument in arguments:
        if type(argument) in (bool, int, float):
            raise TypeError(f"a kernel takes NumPy scalars of the types it declares, got the Python number {argument}")
    kernel(blocks, (threads,), tuple(arguments))


def raw_kernel(xp: Any, source: str, name: str) -> Any:
    """The ``extern "C"`` kernel of this name, which CuPy compiles at its first launch on each device."""
    show(source, f"the kernel {name}")
    return xp.RawKernel(source, name, options=OPTIONS)


def entry(
    formula: Formula,
    outputs: tuple[str, ...],
    widths: tuple[int, ...],
    dtype: str,
    name: str,
    in_place: bool = False,
    each: int = 0,
) -> str:
    """CUDA source of one kernel, without the headers: variable k is an array read at i / widths[k]; 0: it has none.

    In place, each output overwrites the variable of its name, and no other arrays are written; the second argument is a
    pointer to a number, or null, and nothing happens if it isn't 0; or to one for every ``each`` elements.
    """
    number = C_NAMES[dtype]
    targets = [f"in{formula.variables.index(o)}" if in_place else f"out{k}" for k, o in enumerate(outputs)]
    pointers = ["const long long* unless"] if in_place else [f"{number}* __restrict__ {target}" for target in targets]
    const = "" if in_place else "const "
    pointers += [f"{const}{number}* __restrict__ in{k}" for k, width in enumerate(widths) if width]
    scalars = [f"{number} p{k}" for k in range(len(formula.parameters))]
    read = {0: "0", 1: "in{k}[i]"}
    values = [read.get(width, f"in{{k}}[i / {width}]").format(k=k) for k, width in enumerate(widths)]
    lines = [
        emit.function(formula, outputs, f"Formula_{name}"),
        f'extern "C" __global__ void {name}(long long n, {", ".join([*pointers, *scalars])}) {{',
        *(["  if (unless && *unless) return;"] if in_place and not each else []),
        f"  const {number} p[] = {{{', '.join(f'p{k}' for k in range(len(scalars))) or '0'}}};",
        "  const long long step = (long long)gridDim.x * blockDim.x;",
        "  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {",
        *([f"    if (unless[i / {each}]) continue;"] if each else []),
        f"    const {number} x[] = {{{', '.join(values)}}};",
        f"    {number} y[{len(outputs)}];",
        f"    Formula_{name}::run(x, p, y);",
        *(f"    {target}[i] = y[{k}];" for k, target in enumerate(targets)),
        "  }",
        "}",
    ]
    return "\n".join([*lines, ""])


@lru_cache(maxsize=512)
def _kernel(
    xp: Any,
    formula: Formula,
    outputs: tuple[str, ...],
    widths: tuple[int, ...],
    dtype: str,
    in_place: bool = False,
    each: int = 0,
) -> Any:
    source = kernel_source("math.h") + entry(formula, outputs, widths, dtype, "formula", in_place, each)
    return raw_kernel(xp, source, "formula")
