"""The shim: the one module that knows which array library is in use.

A :class:`Backend` is NumPy, or CuPy on one device. Everything else in the package is written once against
``backend.xp`` and the few functions here; only this module imports CuPy (tests/test_package.py checks it).
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from . import environment, frames, threads, workspace
from .formulas import Formula, blocked
from .programs import elementwise as compiled

Array = Any

DTYPES = ("float32", "float64")


class BackendError(RuntimeError):
    """A backend that was asked for can't be had; the message says what is missing and what to install."""


class Backend:
    """One array library on one device.

    Attributes:
        name: "numpy", "cupy" or "cupy:N".
        xp: the module numpy or cupy.
        device: the CUDA device's number, None for NumPy.
    """

    def __init__(self, name: str, xp: ModuleType, device: int | None = None) -> None:
        self.name, self.xp, self.device = name, xp, device

    def __repr__(self) -> str:
        return f"Backend({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return get_backend, (self.name,)

    @property
    def on_gpu(self) -> bool:
        return self.device is not None

    def activate(self) -> Any:
        """A context in which this backend's device is the current one."""
        return NOTHING if self.device is None else self.xp.cuda.Device(self.device)

    def asarray(self, data: Any, dtype: Any, what: str, most_bytes: int | None = None) -> Array:
        """``data`` as an array of this backend and dtype (None: its own).

        Host data is moved to the device, nothing is moved off it. With ``most_bytes``, host data that is larger, or
        that the device has no memory for, stays as it is: it is a NumPy array then, of its own dtype.
        Takes NumPy and CuPy arrays, whatever has ``__array__`` or speaks DLPack, numbers and nested lists,
        without a copy where none is needed; and frames and sparse matrices, see :mod:`backprop_xp.frames`.

        Raises:
            TypeError: not real numbers, or on a device that this backend doesn't use. ValueError: numbers are missing.
        """
        array = self._foreign(data, what)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{what} must hold real numbers, got dtype {array.dtype}")
        if self.device is None:
            return array if dtype is None else array.astype(dtype, copy=False)
        if most_bytes is not None and isinstance(array, np.ndarray) and array.nbytes > most_bytes:
            return array
        try:
            with self.activate():
                return self.xp.asarray(array, dtype=dtype)
        except MemoryError:
            if most_bytes is None or not isinstance(array, np.ndarray):
                raise
            return array

    def take(self, array: Any) -> Any:
        """A copy of the array, of any backend, on this one; None stays None."""
        if array is None:
            return None
        if owner_of(array) == "cupy" and self.device is None:
            return array.get()
        with self.activate():
            return self.xp.array(array)

    def _foreign(self, data: Any, what: str) -> Array:
        if isinstance(data, np.ma.MaskedArray):
            raise TypeError(f"{what} is a masked array: say what stands for masked numbers with {what}.filled(...)")
        data = frames.as_numbers(data, what)
        if isinstance(data, np.ndarray):
            return np.asarray(data)  # a np.matrix, say, would give * another meaning
        owner = owner_of(data)
        if owner == "cupy":
            if self.device is None:
                raise TypeError(
                    f"{what} is an array on a CUDA device and this net computes on the host: "
                    "move the net with net.to('cupy'), or the array with cupy.asnumpy(array)"
                )
            return data
        if _on_cuda(data):
            if self.device is None:
                raise TypeError(
                    f"{what} is on a CUDA device and this net computes on the host: "
                    "move the net with net.to('cupy'), or the tensor to the CPU"
                )
            try:
                with self.activate():
                    return self.xp.from_dlpack(data)
            except (ValueError, TypeError, RuntimeError, BufferError) as error:
                raise TypeError(f"{what} can't be read as an array: {error}") from None
        try:
            if hasattr(data, "__dlpack__") and not hasattr(data, "__array__"):
                return np.from_dlpack(data)
            array = np.asarray(data)
        except (ValueError, TypeError, RuntimeError, BufferError) as error:
            raise TypeError(f"{what} can't be read as an array: {error}") from None
        return frames.as_numbers(array, what)


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


NOTHING = _Nothing()
NUMPY = Backend("numpy", np)


def get_backend(name: str | Backend | None = None) -> Backend:
    """The backend of this name: "numpy", "cupy", "cupy:N" or "auto"; None asks BACKPROP_XP_BACKEND, else "auto".

    "auto" is CuPy where a CUDA device answers and NumPy elsewhere: silently where CuPy isn't installed, with
    one warning that gives the reason where it is installed and can't be used. A device that the environment names and
    that can't be had is NumPy too, with that warning.

    Raises:
        ValueError: unknown name. BackendError: an explicit "cupy" can't be had.
    """
    if isinstance(name, Backend):
        return name
    if name is None:
        name = environment.BACKEND.read()
        if name.startswith("cupy"):
            return _if_possible(_device(name))
    if name == "numpy":
        return NUMPY
    if name == "auto":
        return NUMPY if importlib.util.find_spec("cupy") is None else _if_possible(0)
    return _cupy(_device(name))


def _device(name: str) -> int:
    kind, _, number = str(name).partition(":")
    if kind != "cupy" or (number and not number.isdecimal()):
        raise ValueError(f"unknown backend {name!r}; expected 'auto', 'numpy', 'cupy' or 'cupy:N'")
    return int(number or 0)


@cache
def _if_possible(device: int) -> Backend:
    try:
        return _cupy(device)
    except BackendError as error:
        warnings.warn(f"computing with NumPy: {error}", RuntimeWarning, stacklevel=5)
        return NUMPY


@cache
def _cupy(device: int) -> Backend:
    """CuPy on this device, after one small computation there has worked."""
    install = "pip install 'backprop-xp[cuda13]' (CUDA 13 drivers) or 'backprop-xp[cuda12]'"
    try:
        import cupy
    except ImportError as error:
        if importlib.util.find_spec("cupy") is None:
            raise BackendError(f"CuPy is not installed: {install}") from None
        raise BackendError(f"CuPy is installed but can't be imported ({error}); reinstall it: {install}") from None
    except Exception as error:  # a broken installation can fail in any way at import
        raise BackendError(f"CuPy is installed but broken ({error}); reinstall it: {install}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise BackendError(f"CuPy is installed but {_reason(error, cupy)}") from None
    if device >= count:
        have = "none is" if count == 0 else f"{count} {'is' if count == 1 else 'are'}"
        raise BackendError(f"CUDA device {device} was asked for and {have} present")
    try:
        with cupy.cuda.Device(device):
            if float(cupy.zeros(1).get()[0]) != 0.0:
                raise RuntimeError("a first array came back wrong")
            cupy.cuda.nvrtc.getVersion()  # the compiler of kernels is a library of its own
    except Exception as error:
        raise BackendError(f"CuPy is installed but {_reason(error, cupy)}") from None
    return Backend(f"cupy:{device}" if device else "cupy", cupy, device)


def _reason(error: Exception, cupy: Any) -> str:
    text = str(error)
    try:
        driver, built = (
            v // 1000 for v in (cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion())
        )
    except Exception:  # what fails so early can't always tell its versions
        driver = built = 0
    if 0 < driver < built:
        install = f"pip install 'backprop-xp[cuda{driver}]'" if driver >= 12 else "update the driver"
        return f"it is for CUDA {built} and the NVIDIA driver for CUDA {driver}: {install} ({text.strip()})"
    if "nvrtc" in text:
        return f"its compiler can't be loaded ({text.strip()}): pip install 'backprop-xp[cuda{built or 13}]'"
    for sign, reason in (
        ("cudaErrorInsufficientDriver", "there is no NVIDIA driver, or it is older than this CuPy needs"),
        ("cudaErrorNoDevice", "no CUDA device is present"),
        ("cudaErrorNoKernelImage", "it has no code for this device"),
    ):
        if sign in text:
            return f"{reason} ({text.strip()}); with a CUDA 12 driver install 'backprop-xp[cuda12]'"
    return f"its first use failed ({type(error).__name__}: {text.strip()})"


def owner_of(array: Any) -> str:
    """ "cupy" for a CuPy array, "numpy" for anything else. Never imports CuPy."""
    cupy = sys.modules.get("cupy")
    return "cupy" if cupy is not None and isinstance(array, getattr(cupy, "ndarray", ())) else "numpy"


def module_of(array: Any) -> ModuleType:
    """The module, numpy or cupy, that this array belongs to."""
    return sys.modules["cupy"] if owner_of(array) == "cupy" else np


def cupy() -> ModuleType:
    """The module CuPy, for code that runs where there is a CUDA device; it is imported at the first call."""
    import cupy

    return cupy


def _on_cuda(data: Any) -> bool:
    """Whether this foreign array says, by the DLPack protocol, that it lives on a CUDA device."""
    try:
        return int(data.__dlpack_device__()[0]) in (2, 13)  # kDLCUDA, kDLCUDAManaged
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
        return False


def elementwise(
    formula: Formula,
    outputs: tuple[str, ...],
    arrays: Mapping[str, Any],
    parameters: Sequence[float] = (),
) -> list[Array]:
    """The outputs of a formula as arrays of the inputs' shape and library, in one pass over memory.

    They are new arrays, except that an output that is one of the inputs is that very array.

    All arrays must broadcast to the shape of the first. Integers are computed in float64.

    Raises:
        TypeError: arrays that aren't float32, float64, or exactly convertible to float64.
    """
    first = next(iter(arrays.values()))
    if owner_of(first) == "cupy":
        from .formulas.device import run  # kernels are compiled at their first use, never at import

        return run(module_of(first), formula, outputs, arrays, parameters)
    nodes = [formula.nodes[formula.outputs[name]] for name in outputs]
    if all(node.op == "variable" and isinstance(arrays[node.name], np.ndarray) for node in nodes):
        return [arrays[node.name] for node in nodes]
    dtype = _floating(arrays.values())
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


def apart(array: Array, *others: Array) -> Array:
    """The array, or a copy where it may share memory with another: its new owner may change it in place."""
    shares = module_of(array).may_share_memory
    return array.copy() if any(shares(array, other) for other in others) else array


def fused_launches(array: Array) -> Any:
    """The module of the layered engine's launches, for a CuPy array that they take; else None."""
    if owner_of(array) == "numpy" or compiled.name_of(array.dtype) not in DTYPES:
        return None
    if array.ndim not in (1, 2) or not array.flags.c_contiguous:
        return None
    from .programs import device_layers

    return device_layers


def sum_elementwise(
    formula: Formula, output: str, arrays: Mapping[str, Any], parameters: Sequence[float] = ()
) -> Array:
    """The sum of one output of a formula over all elements, without storing them all.

    On NumPy a scalar of the arrays' dtype, summed pairwise within blocks and in float64 across them; on CuPy
    a 0-d array.
    """
    first = next(iter(arrays.values()))
    if owner_of(first) == "cupy":
        from .formulas.device import run

        return run(module_of(first), formula, (output,), arrays, parameters)[0].sum()
    dtype = _floating(arrays.values())
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
    if owner_of(a) == "cupy" or a.ndim == 1:
        return a @ b
    return np.matmul(a, b, out=workspace.empty((len(a), b.shape[1]), np.result_type(a, b)))


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
    return parts.sum(axis=0, dtype=np.float64).astype(grad_t.dtype)


def _floating(arrays: Any) -> np.dtype:
    dtype = np.result_type(*(getattr(a, "dtype", None) or np.asarray(a).dtype for a in arrays))
    if dtype.kind in "biu":
        return np.dtype(np.float64)
    if compiled.name_of(dtype) not in DTYPES:
        raise TypeError(f"expected float32 or float64 numbers, got dtype {dtype}")
    return dtype
