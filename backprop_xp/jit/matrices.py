"""The pass of kernels/matrices.h, which is compiled once for nets of all widths, and the functions a net gives it.

Three kinds of libraries, each compiled once and kept: the pass itself, one for each activation, and one for each loss.
A net that was never seen needs no compiler if its activations and its loss were.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from ..formulas import emit
from ..kernels import source as kernel_source
from . import cache as kernel_cache
from .elementwise import NUMBERS
from ..activations import Identity
from .fused import DOUBLE, INT, POINTER, WRITTEN_OUT, loss_source

IDENTITY = Identity.text


class Function(ctypes.Structure):
    """``bpx::Function``: an activation; null for the identity."""

    _fields_ = [("both", POINTER), ("value", POINTER), ("p", POINTER)]


class MatrixLayer(ctypes.Structure):
    """``bpx::MatrixLayer`` of kernels/matrices.h."""

    _fields_ = [
        ("inputs", INT), ("outputs", INT), ("weight", POINTER), ("bias", POINTER),
        ("grad_weight", POINTER), ("grad_bias", POINTER), ("f", Function),
    ]  # fmt: skip


class Matrices(ctypes.Structure):
    """``bpx::Matrices`` of kernels/matrices.h, which says what each field is."""

    _fields_ = [
        ("n", INT), ("depth", INT), ("layers", POINTER), ("x", POINTER), ("x_row", INT), ("x_column", INT),
        ("y", POINTER), ("y_row", INT), ("y_column", INT), ("weight", POINTER), ("weight_row", INT), ("scale", DOUBLE),
        ("loss", POINTER), ("loss_p", POINTER), ("output", POINTER), ("x_grad", POINTER), ("memory", POINTER),
        ("losses", POINTER), ("threads", INT), ("time", DOUBLE), ("next", INT), ("total", DOUBLE),
    ]  # fmt: skip


@cache
def core() -> Any:
    """The library with the pass. Raises CompileError."""
    library = kernel_cache.library(kernel_source("matrices.h"), "the pass for nets of any widths")
    for name in ("chunk", "memory", "run"):
        function = getattr(library, f"bpx_matrices_{name}")
        function.argtypes, function.restype = (POINTER, INT), INT
    return library


def activation(f: Any, dtype: str) -> tuple[int | None, int | None]:
    """The addresses of an activation's ``both`` and ``value``; None for the identity. Raises CompileError."""
    return _activation(f.text, f.formula, dtype)


@cache
def _activation(text: Any, formula: Any, dtype: str) -> tuple[int | None, int | None]:
    if text == IDENTITY:
        return None, None
    name, code = WRITTEN_OUT.get(text), ""
    if name is None:
        name, code = "Activation", emit.struct(formula, "Activation", ("t",))
    number = NUMBERS[dtype]
    entries = (
        f"BPX_ENTRY void bpx_both(bpx::i64 n, const {number}* t, {number}* z, {number}* slope, const {number}* p) {{\n"
        f"  bpx::activation_both<{name}>(n, t, z, slope, p);\n}}\n"
        f"BPX_ENTRY void bpx_value(bpx::i64 n, const {number}* t, {number}* z, const {number}* p) {{\n"
        f"  bpx::activation_value<{name}>(n, t, z, p);\n}}\n"
    )
    library = kernel_cache.library(kernel_source("matrix_functions.h") + code + entries, f"an activation in {dtype}")
    return _address(library.bpx_both), _address(library.bpx_value)


@cache
def loss(key: Any, dtype: str) -> int:
    """The address of a loss's function, by what :func:`arguments.loss_key` calls it. Raises CompileError."""
    name, structs = loss_source(key)
    number = NUMBERS[dtype]
    entry = (
        "BPX_ENTRY void bpx_loss(const bpx::LossBlock* block, void* memory) {\n"
        f"  bpx::loss_block<{name}>(*block, ({number}*)memory);\n}}\n"
    )
    text = kernel_source("matrix_functions.h") + "\n".join(structs) + entry
    return _address(kernel_cache.library(text, f"a loss in {dtype}").bpx_loss)


def _address(function: Any) -> int:
    address = ctypes.cast(function, POINTER).value
    assert address is not None
    return address
