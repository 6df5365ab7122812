"""CUDA source to kernels, one set per device, compiled by NVRTC at their first use.

CuPy keeps the compiled code on disk. What is kept here is which of several variants of a kernel fits a device: that is
known only after compiling them.
"""

from __future__ import annotations

import ctypes
import json
import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import forks
from ..backend import cupy
from ..files import replacing
from ..show_source import show
from . import cache
from .built import telling
from .compiler import CompileError

#: Float divisions are right to 2 ULP, and need no branch.
OPTIONS = ("-std=c++17", "-prec-div=false")
#: What CuPy adds by itself, for whoever compiles without it: float32 subnormals become zeros, and functions that don't
#: say where they run, such as lambdas, run on the device (NVRTC 13.0 refuses them otherwise).
ADDED = ("-ftz=true", "--device-as-default-execution-space")
FORMAT = "backprop_xp cuda 2"
#: Bytes of shared memory that a block has without an opt-in: CUDA's number.
UNASKED = 48 << 10
REGISTERS = 1 << 16  # of a multiprocessor, on every architecture since 2012

_lock = forks.lock(threading.RLock)
_modules: dict[tuple[int, str], Any] = {}
_kernels: dict[tuple[int, str, str], Any] = {}
_chosen: dict[tuple[int, tuple[str, ...]], int] = {}


@dataclass(frozen=True)
class Resources:
    """What a kernel takes of the device: ``local_bytes`` a thread are spills, or arrays that found no registers."""

    registers: int
    local_bytes: int
    shared_bytes: int
    max_threads: int

    def blocks(self, threads: int) -> int:
        """How many blocks of ``threads`` threads have registers in one multiprocessor at a time, at least 1."""
        return max(1, REGISTERS // (threads * -(-self.registers // 8) * 8))


def kernel(source: str, name: str) -> Any:
    """The ``extern "C"`` kernel of this name for the current device, a ``cupy.RawKernel``.

    Scalars are handed to it as NumPy scalars of the parameters' types: CuPy would pass a Python float as a double,
    whatever the kernel expects.

    Raises:
        CompileError: the source can't be compiled for this device.
    """
    device = cupy().cuda.runtime.getDevice()
    found = _kernels.get((device, source, name))
    if found is None:
        with _lock:
            module = _modules.get((device, source))
            try:
                if module is None:
                    show(source, f"the kernel {name}")
                    module = _modules[device, source] = cupy().RawModule(code=source, options=OPTIONS)
                with telling(f"the kernel {name}") as compiles:
                    compiles()  # or CuPy finds it in its own cache, and doesn't say
                    found = _kernels[device, source, name] = module.get_function(name)
            except cupy().cuda.compiler.CompileException as error:
                raise CompileError(f"NVRTC failed: {str(error).strip().splitlines()[0][:300]}") from None
    return found


#: ctypes' numbers for NumPy's, by their letters; an unsigned one is an address.
NUMBERS: dict[str, Any] = {
    np.dtype(name).char: number
    for name, number in {
        "int64": ctypes.c_int64, "uintp": ctypes.c_uint64, "uint64": ctypes.c_uint64, "float32": ctypes.c_float,
        "float64": ctypes.c_double,
    }.items()
}  # fmt: skip


class Launch:
    """A kernel with everything that a launch takes, so that launching it again is a microsecond of Python.

    ::

        launch = Launch(kernel, (blocks,), (threads,), arguments)    # as the kernel itself is called
        launch.arguments[2].value = array.data.ptr
        launch(stream.ptr)

    Arrays among the arguments are addresses here, and None is no array: they must live until the launch is made. For
    one thread at a time.

    Attributes:
        arguments: of the kernel, as numbers and structs of ctypes.
    """

    def __init__(
        self,
        kernel: Any,
        blocks: Sequence[int],
        threads: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        self.arguments = [_as_number(argument) for argument in arguments]
        self._addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, self.arguments))
        one = (1, 1, 1)
        self._before = (kernel.kernel.ptr, *(*blocks, *one)[:3], *(*threads, *one)[:3], shared_bytes)
        self._after = (ctypes.addressof(self._addresses), 0)
        self._launch = cupy().cuda.driver.launchKernel

    def __call__(self, stream: int) -> None:
        """Launch it on the stream at this address."""
        self._launch(*self._before, stream, *self._after)


def launch(
    kernel: Any, blocks: Sequence[int], threads: Sequence[int], arguments: Sequence[Any], shared_bytes: int = 0
) -> None:
    """Launch a kernel once, on the current stream."""
    Launch(kernel, blocks, threads, arguments, shared_bytes)(cupy().cuda.get_current_stream().ptr)


def _as_number(argument: Any) -> Any:
    if isinstance(argument, ctypes.Structure):
        return argument
    if isinstance(argument, np.generic):
        return NUMBERS[argument.dtype.char](argument.item())
    return ctypes.c_uint64(0 if argument is None else argument.data.ptr)


def resources(kernel: Any) -> Resources:
    """What a kernel of the current device takes."""
    return Resources(kernel.num_regs, kernel.local_size_bytes, kernel.shared_size_bytes, kernel.max_threads_per_block)


def first_fitting(sources: Sequence[str], name: str, threads: Sequence[int]) -> int:
    """The number of the first source whose kernel spills nothing and runs in blocks of as many threads as are its own.

    Functions such as sin have arrays outside registers, wherever they are called. So where the first kernel has some,
    it is the first that has no more than the last, which is cut most finely and spills least.

    The answer is cached on disk, by device and sources, so that what doesn't fit is compiled once and not again.
    """
    device = cupy().cuda.runtime.getDevice()
    key = (device, (*sources, name, *map(str, threads)))
    if key not in _chosen:
        with _lock:
            properties = cupy().cuda.runtime.getDeviceProperties(device)
            facts = (FORMAT, properties["name"].decode(), properties["major"], properties["minor"])
            text = "\0".join(map(str, (*facts, cupy().cuda.nvrtc.getVersion(), *key[1])))
            path = cache.home() / f"{cache.sha256(text.encode()).hex()}{cache.NOTE_SUFFIX}"
            number = _remembered(path)
            if number is None or number >= len(sources):
                number = _first_fitting(sources, name, threads)
                _remember(path, number)
            _chosen[key] = number
    return _chosen[key]


def _first_fitting(sources: Sequence[str], name: str, threads: Sequence[int]) -> int:
    def spilt(number: int) -> float:
        taken = resources(kernel(sources[number], name))
        return taken.local_bytes if taken.max_threads >= threads[number] else math.inf

    if not spilt(0):
        return 0
    last = len(sources) - 1
    least = spilt(last)
    return next((k for k in range(last) if spilt(k) <= least and spilt(k) < math.inf), last)


def _remembered(path: Path) -> int | None:
    try:
        note = json.loads(cache.read(path) or "")
        number, key = note["variant"], note["key"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return number if key == path.stem and isinstance(number, int) and number >= 0 else None


def _remember(path: Path, number: int) -> None:
    with suppress(OSError), replacing(path) as file:  # else the next process chooses again
        file.write(json.dumps({"key": path.stem, "variant": number}).encode())
