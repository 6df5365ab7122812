"""The shim: the one module that knows which array library is in use.

A :class:`Backend` is NumPy, or CuPy on one device. Everything else in the package is written once against
``backend.xp`` and the few functions here and in arrays.py; only this module imports CuPy (tests/test_package.py checks
it).
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from . import environment, frames
from .messages import unknown

Array = Any

DEFAULT_STREAMS = (0, 1)  # addresses that mean CUDA's (legacy) default stream


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
                return self.xp.asarray(array if isinstance(array, np.ndarray) else addressable(array), dtype=dtype)
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
            return self.xp.array(addressable(array) if owner_of(array) == "cupy" else array)

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
                    array = self.xp.from_dlpack(data)
                    _hold(data, self.xp)
                    return array
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
        raise ValueError(unknown("backend", str(name), ("auto", "numpy", "cupy", "cupy:N")))
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


def on_host(array: Array) -> Any:
    """The array as NumPy's: itself, or a copy of what a device holds."""
    return array if module_of(array) is np else array.get()


def cupy() -> ModuleType:
    """The module CuPy, for code that runs where there is a CUDA device; it is imported at the first call."""
    import cupy

    return cupy


def nccl() -> Any:
    """CuPy's NCCL. Raises ImportError where there is none."""
    from cupy.cuda import nccl

    if not nccl.available:
        raise ImportError("nccl=True needs NCCL for CuPy: pip install nvidia-nccl-cu13 (or -cu12, as CuPy)")
    return nccl


def _on_cuda(data: Any) -> bool:
    """Whether this foreign array says, by the DLPack protocol, that it lives on a CUDA device."""
    try:
        return int(data.__dlpack_device__()[0]) in (2, 13)  # kDLCUDA, kDLCUDAManaged
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
        return False


def _hold(tensor: Any, cupy: ModuleType) -> None:
    """Let PyTorch give the memory of its tensor to no other before the work of CuPy's current stream is done.

    It hands freed memory to the next tensor of the stream that it came from, not knowing that another stream reads it.
    """
    if hasattr(tensor, "record_stream"):
        cuda, pointer = sys.modules["torch"].cuda, cupy.cuda.get_current_stream().ptr
        default = pointer in DEFAULT_STREAMS
        tensor.record_stream(
            cuda.default_stream(tensor.device) if default else cuda.ExternalStream(pointer, tensor.device)
        )


def addressable(array: Array) -> Array:
    """The CuPy array itself, or a copy where its elements lie at odd addresses, which no kernel can read."""
    size = array.itemsize
    if not (array.data.ptr % size or any(stride % size for stride in array.strides)):
        return array
    cupy = module_of(array)
    as_bytes = cupy.ndarray((*array.shape, size), np.uint8, array.data, (*array.strides, 1))
    return as_bytes.copy().view(array.dtype).reshape(array.shape)
