"""Formulas over NumPy arrays as compiled loops, for engines that ask for them."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from ..dtypes import C_NAMES, name_of
from ..formulas import Formula, emit
from ..kernels import source as kernel_source
from ..toolchain import cache as kernel_cache
from ..toolchain import compiler
from ..toolchain.compiler import CompileError

_here = threading.local()  # .active: this thread wants compiled loops


@contextmanager
def compiled() -> Iterator[None]:
    """Let :func:`run` do the work in this thread, where there is a compiler."""
    before = getattr(_here, "active", False)
    _here.active = True
    try:
        yield
    finally:
        _here.active = before


def run(
    formula: Formula,
    outputs: tuple[str, ...],
    arrays: Mapping[str, np.ndarray],
    parameters: Sequence[float],
    outs: Sequence[np.ndarray],
) -> bool:
    """Compute the outputs into ``outs``, and say whether that was done.

    All arrays are contiguous, of one length and of the dtype of ``outs``. Not done: outside :func:`compiled`, and
    without a compiler.
    """
    if not getattr(_here, "active", False):
        return False
    try:
        function = _function(formula, outputs, name_of(outs[0].dtype), compiler.find())
    except CompileError:  # the engine that asked says so once
        return False
    dtype = outs[0].dtype
    # a variable that these outputs don't read gets some array, which is then not read
    inputs = [arrays.get(name, outs[0]) for name in formula.variables]
    scalars = np.array(parameters, dtype)
    function(outs[0].size, _pointers(inputs), _pointers(outs), scalars.__array_interface__["data"][0])
    return True


@lru_cache(maxsize=512)
def source(formula: Formula, outputs: tuple[str, ...], dtype: str) -> str:
    """C++ source of ``formula(n, in, out, p)`` over contiguous arrays."""
    shape = f"{len(formula.variables)}, {len(outputs)}"
    number = C_NAMES[dtype]
    return (
        kernel_source("elementwise.h")
        + emit.function(formula, outputs, "Formula")
        + f"BPX_ENTRY void formula(bpx::i64 n, const {number}* const* in, {number}* const* out, const {number}* p) {{\n"
        + f"  bpx::elementwise<Formula, {shape}>(n, in, out, p);\n}}\n"
    )


@lru_cache(maxsize=512)
def _function(formula: Formula, outputs: tuple[str, ...], dtype: str, cxx: compiler.Compiler) -> Any:
    function = kernel_cache.library(source(formula, outputs, dtype), f"{', '.join(outputs)} of an activation").formula
    function.argtypes = (ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = None
    return function


def _pointers(arrays: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.__array_interface__["data"][0] for array in arrays))
