"""The C structs that compiled passes are handed, mirrored field by field."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

INT, POINTER, DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double


class Holder:
    """Who fills in structs: it keeps the arrays whose addresses stand in them, and so their memory."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._held: list[Any] = []

    def address(self, array: np.ndarray) -> int:
        """Of the array's numbers."""
        self._held.append(array)
        return address(array)

    def scalars(self, numbers: Sequence[float]) -> int:
        """The address of these numbers in the dtype, with one more, so that there is always an array."""
        return self.address(np.array([*numbers, 0.0], self.dtype))


def address(array: np.ndarray) -> int:
    """Of the array's numbers; array.ctypes.data is the same, four times slower."""
    return array.__array_interface__["data"][0]


def aligned(array: np.ndarray) -> int:
    """The first address in the array that is a multiple of 64."""
    return -(-address(array) // 64) * 64


class Tree(ctypes.Structure):
    """``bpx::Tree`` of kernels/tree_cpu.h: the sums of the chunks so far."""

    _fields_ = [("params", INT), ("count", INT), ("levels", POINTER), ("losses", POINTER)]


class WideArgs(ctypes.Structure):
    """``bpx::WideArgs`` of kernels/panels.h."""

    _fields_ = [
        ("x", POINTER), ("x_row", INT), ("x_column", INT), ("y", POINTER), ("y_row", INT), ("y_column", INT),
        ("weight", POINTER), ("weight_row", INT), ("params", POINTER), ("scalars", POINTER), ("scale", DOUBLE),
        ("output", POINTER), ("x_grad", POINTER), ("stop", POINTER),
    ]  # fmt: skip


class GraphArgs(ctypes.Structure):
    """``bpx::GraphArgs`` of kernels/graph.h."""

    _fields_ = [
        ("wide", WideArgs), ("x", POINTER), ("strides", POINTER), ("x_grad", POINTER), ("keys", POINTER),
    ]  # fmt: skip


class ChunkArgs(ctypes.Structure):
    """``bpx::ChunkArgs`` of kernels/graph.h."""

    _fields_ = [
        ("graph", GraphArgs), ("parameters", INT), ("copies", POINTER), ("flat", POINTER), ("packed", INT),
        ("origins", POINTER), ("packed_grads", POINTER), ("grads", INT), ("to", POINTER), ("sums", INT),
        ("additions", POINTER),
    ]  # fmt: skip


class SampleArgs(ctypes.Structure):
    """``bpx::SampleArgs`` of kernels/sample.h."""

    _fields_ = [
        ("graph", GraphArgs), ("parameters", INT), ("copies", POINTER), ("sums", INT), ("additions", POINTER),
        ("memory", POINTER), ("grads", POINTER), ("loss", POINTER),
    ]  # fmt: skip


class Function(ctypes.Structure):
    """``bpx::Function`` of kernels/matrix_functions.h: an activation; null for the identity."""

    _fields_ = [("both", POINTER), ("value", POINTER), ("p", POINTER)]


class MatrixLayer(ctypes.Structure):
    """``bpx::MatrixLayer`` of kernels/matrix_call.h."""

    _fields_ = [
        ("inputs", INT), ("outputs", INT), ("weight", POINTER), ("bias", POINTER), ("grad", INT), ("bias_grad", INT),
        ("f", Function),
    ]  # fmt: skip


class Matrices(ctypes.Structure):
    """``bpx::Matrices`` of kernels/matrix_call.h, which says what each field is."""

    _fields_ = [
        ("n", INT), ("depth", INT), ("layers", POINTER), ("x", POINTER), ("x_row", INT), ("x_column", INT),
        ("y", POINTER), ("y_row", INT), ("y_column", INT), ("rows", POINTER), ("weight", POINTER), ("weight_row", INT),
        ("scale", DOUBLE), ("loss", POINTER), ("loss_p", POINTER), ("grads", POINTER), ("output", POINTER),
        ("signals", POINTER), ("x_grad", POINTER), ("memory", POINTER), ("half", INT), ("bfloat16", INT),
        ("threads", INT), ("worth_a_thread", DOUBLE), ("time", DOUBLE), ("next", INT), ("total", DOUBLE),
    ]  # fmt: skip


class NarrowLayer(ctypes.Structure):
    """``bpx::NarrowLayer`` of kernels/narrow_cpu.h."""

    _fields_ = [
        ("inputs", INT), ("outputs", INT), ("weight", POINTER), ("bias", POINTER), ("linear", POINTER),
        ("backward", POINTER), ("outer", POINTER), ("grad", INT), ("bias_grad", INT), ("f", Function),
    ]  # fmt: skip


class Narrow(ctypes.Structure):
    """``bpx::Narrow`` of kernels/narrow_cpu.h, which says what each field is."""

    _fields_ = [
        ("n", INT), ("depth", INT), ("layers", POINTER), ("x", POINTER), ("x_row", INT), ("x_column", INT),
        ("y", POINTER), ("y_row", INT), ("y_column", INT), ("target", INT), ("rows", POINTER), ("weight", POINTER),
        ("weight_row", INT),
        ("scale", DOUBLE), ("loss", POINTER), ("loss_p", POINTER), ("grads", POINTER), ("output", POINTER),
        ("x_grad", POINTER), ("memory", POINTER), ("chunk", INT), ("wave", INT), ("threads", INT),
        ("share_out", POINTER), ("time", DOUBLE), ("next", INT), ("total", DOUBLE),
    ]  # fmt: skip


class StackLayer(ctypes.Structure):
    """``bpx::StackLayer`` of kernels/stack.h."""

    _fields_ = [
        ("inputs", INT), ("outputs", INT), ("skip", INT), ("before", INT), ("weight", POINTER), ("bias", POINTER),
        ("forward", POINTER), ("backward", POINTER), ("slopes", POINTER), ("p", POINTER), ("grad", INT),
        ("packed", INT), ("t", INT), ("z", INT), ("slope", INT),
    ]  # fmt: skip


class Stack(ctypes.Structure):
    """``bpx::Stack`` of kernels/stack.h, which says what each field is."""

    _fields_ = [
        ("n", INT), ("depth", INT), ("signals", INT), ("output", INT), ("layers", POINTER), ("axes", POINTER),
        ("x", POINTER), ("x_row", INT), ("x_column", INT),
        ("y", POINTER), ("y_row", INT), ("y_column", INT), ("targets", INT), ("weight", POINTER), ("weight_row", INT),
        ("scale", DOUBLE), ("equation", POINTER), ("equation_p", POINTER), ("packed", POINTER), ("x_grad", POINTER),
        ("sums", POINTER), ("losses", POINTER), ("first", INT), ("last", INT), ("next", INT), ("memory", POINTER),
        ("threads", INT), ("parameters", INT), ("numbers", INT), ("blocks", INT),
    ]  # fmt: skip


class Sweep(ctypes.Structure):
    """``bpx::Sweep`` of kernels/training_cpu.h: a formula over arrays."""

    _fields_ = [
        ("run", POINTER), ("size", INT), ("inputs", INT), ("outputs", INT), ("reads", POINTER), ("writes", POINTER),
        ("p", POINTER),
    ]  # fmt: skip


class Training(ctypes.Structure):
    """``bpx::Training`` of kernels/training_cpu.h, which says what each field is."""

    _fields_ = [
        ("call", POINTER), ("narrow", POINTER), ("run_narrow", POINTER), ("narrow_from", INT),
        ("rows", POINTER), ("samples", INT), ("batch", INT), ("classes", INT), ("weight", POINTER),
        ("scale", DOUBLE), ("last_scale", DOUBLE), ("parameters", INT), ("grads", POINTER), ("changed", POINTER),
        ("penalty", Sweep), ("update", Sweep), ("scalars", INT), ("square_sum", POINTER), ("clip_norm", DOUBLE),
        ("losses", POINTER), ("stop_on_nan", INT), ("threads", INT), ("time", DOUBLE), ("steps", INT), ("first", INT),
        ("done", INT), ("begun", INT),
    ]  # fmt: skip


def _batch(number: Any) -> type[ctypes.Structure]:
    """``bpx::Batch`` of kernels/batch_cuda.h, which says what each field is, of these numbers."""
    fields = [
        ("n", INT), ("chunk", INT), ("x", POINTER), ("x_row", INT), ("x_column", INT),
        ("y", POINTER), ("y_row", INT), ("y_column", INT), ("weight", POINTER), ("weight_row", INT),
        ("scale", number), ("x_grad", POINTER), ("sums", POINTER), ("losses", POINTER), ("output", POINTER),
    ]  # fmt: skip
    return type("Batch", (ctypes.Structure,), {"_fields_": fields})


#: By the name of the dtype.
BATCHES = {"float32": _batch(ctypes.c_float), "float64": _batch(DOUBLE)}


class GraphInput(ctypes.Structure):
    """``bpx::GraphInput`` of kernels/graph_cuda.h."""

    _fields_ = [("x", POINTER), ("row", INT), ("column", INT), ("grad", POINTER)]


class Between(ctypes.Structure):
    """``bpx::Between`` of kernels/graph_cuda.h."""

    _fields_ = [("kept", POINTER), ("totals", POINTER), ("samples", INT)]


def assertions(*mirrors: type[ctypes.Structure]) -> list[str]:
    """C++ that compiles if structs of numbers S have the sizes of these: of kernels that no library exports."""
    text = 'static_assert(sizeof(bpx::{}<S>) == {}, "not as in programs/structs.py");'
    return [text.format(mirror.__name__, ctypes.sizeof(mirror)) for mirror in mirrors]


def check(library: Any, *mirrors: type[ctypes.Structure]) -> None:
    """Compare the sizes of these structs with those that the library was compiled with.

    Raises:
        RuntimeError: they differ. Calling the library would read or write memory that is not its own.
    """
    for mirror in mirrors:
        size_of = getattr(library, f"bpx_sizeof_{mirror.__name__}")
        size_of.argtypes, size_of.restype = (), INT
        if (compiled := size_of()) != (here := ctypes.sizeof(mirror)):
            raise RuntimeError(
                f"bpx::{mirror.__name__} is {compiled} bytes in kernels/, and {here} in programs/structs.py"
            )


def address_of(function: Any) -> int:
    """The address of a library's function."""
    address = ctypes.cast(function, POINTER).value
    assert address is not None
    return address
