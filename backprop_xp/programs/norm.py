"""The sum of an array's squares as a compiled loop: kernels/norm_cpu.h."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from ..dtypes import C_NAMES
from ..kernels import source as kernel_source
from ..toolchain import cache as kernel_cache
from ..toolchain import compiler
from .structs import DOUBLE, INT, POINTER


def square_sum(dtype: str) -> Any:
    """The function of (n, address) that adds the squares of n such numbers, in float64. Raises CompileError."""
    return _square_sum(dtype, compiler.find())


def address(dtype: str) -> int | None:
    """Where this function begins, for other compiled code. Raises CompileError."""
    return ctypes.cast(square_sum(dtype), POINTER).value


@cache
def _square_sum(dtype: str, cxx: compiler.Compiler) -> Any:
    number = C_NAMES[dtype]
    entry = (
        f"BPX_ENTRY double bpx_square_sum(bpx::i64 n, const {number}* numbers) {{\n"
        "  return bpx::square_sum(n, numbers);\n}\n"
    )
    function = kernel_cache.library(kernel_source("norm_cpu.h") + entry, f"a norm in {dtype}").bpx_square_sum
    function.argtypes, function.restype = (INT, POINTER), DOUBLE
    return function
