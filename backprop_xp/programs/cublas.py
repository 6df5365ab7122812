"""Matrix products of CuPy's float32 arrays by cuBLAS, which is allowed to use tensor cores within a ``with`` block.

CuPy has a setting for that as well, of the whole process: other nets, in other threads, and the user's own products
would change with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from ..backend import Array, module_of

#: What cuBLAS calls what it may do to float32 by :mod:`backprop_xp.precision`. Float16 would need scaled gradients here
#: as well; TF32 has as many bits, and float32's range.
COMPUTE = {
    "tf32": "CUBLAS_COMPUTE_32F_FAST_TF32",
    "float16": "CUBLAS_COMPUTE_32F_FAST_TF32",
    "bfloat16": "CUBLAS_COMPUTE_32F_FAST_16BF",
}
FLOAT32 = 0  # CUDA_R_32F
ONE, ZERO = np.array(1, np.float32), np.array(0, np.float32)

_allowed: ContextVar[str] = ContextVar("allowed", default="float32")


@contextmanager
def allowing(precision: str) -> Iterator[None]:
    """Within the ``with`` block :func:`product` may use this precision."""
    token = _allowed.set(precision)
    try:
        yield
    finally:
        _allowed.reset(token)


def product(a: Array, b: Array) -> Array:
    """The matrix product a @ b of two matrices, (m, k) and (k, n), of CuPy."""
    compute = COMPUTE.get(_allowed.get())
    if compute is None or a.dtype != np.float32 or b.dtype != np.float32 or not (a.size and b.size):
        return a @ b
    xp = module_of(a)
    cublas = xp.cuda.cublas
    c = xp.empty((len(a), b.shape[1]), a.dtype)
    # cuBLAS reads and writes column by column: to it, these matrices are their transposes, and c is b times a
    (a, a_turned, a_step), (b, b_turned, b_step) = (_as_columns(array) for array in (a, b))
    turned = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
    cublas.gemmEx(
        xp.cuda.device.get_cublas_handle(), turned[b_turned], turned[a_turned], *c.shape[::-1], a.shape[1],
        ONE.ctypes.data, b.data.ptr, FLOAT32, b_step, a.data.ptr, FLOAT32, a_step,
        ZERO.ctypes.data, c.data.ptr, FLOAT32, c.shape[1], getattr(cublas, compute), cublas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip
    return c


def _as_columns(array: Array) -> tuple[Array, bool, int]:
    """The array, or a copy, whether its columns are contiguous and not its rows, and numbers from one to the next."""
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        return array, True, array.shape[0]
    array = module_of(array).ascontiguousarray(array)
    return array, False, array.shape[1]
