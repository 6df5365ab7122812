"""What a CUDA device is, and what it can do at most, measured in the same run by its own clock."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
from backprop_xp.bench.limits import Limits

from backprop_xp.backend import Backend

DTYPES = ("float32", "float64")
LONG_ENOUGH = 0.02  # seconds; what is measured grows until it takes as long, or is as large as it gets
LARGEST_MATRIX, LARGEST_COPY, FEWEST_TURNS, MOST_TURNS = 8192, 1 << 32, 16, 1 << 20
CHAINS, THREADS, BLOCKS = 16, 256, 8  # independent sums a thread, threads a block, blocks a multiprocessor
TF32 = 7  # what CuPy's get_compute_type says when CUPY_TF32=1

#: Multiply-adds in registers alone; `a` and `b` are not known to the compiler, and the sums are looked at.
PEAK = """
extern "C" __global__ void peak_NUMBER(long long turns, NUMBER a, NUMBER b, NUMBER* out) {
  NUMBER sum[CHAINS];
#pragma unroll
  for (int k = 0; k < CHAINS; ++k) sum[k] = NUMBER(threadIdx.x + k);
#pragma unroll 4
  for (long long turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int k = 0; k < CHAINS; ++k) sum[k] = sum[k] * a + b;
  }
  NUMBER total = 0;
#pragma unroll
  for (int k = 0; k < CHAINS; ++k) total += sum[k];
  if (total == NUMBER(-1)) *out = total;
}
"""


def measure(backend: Backend) -> Limits:
    """The limits of this backend's device; a second or two on a GPU."""
    with backend.activate():
        cupy = backend.xp
        return Limits({dtype: _gemm(cupy, dtype) for dtype in DTYPES}, peak(backend), _copy(cupy))


def peak(backend: Backend) -> dict[str, float]:
    """flop/s of multiply-adds in registers alone, by dtype."""
    with backend.activate():
        return {dtype: _fma(backend.xp, dtype) for dtype in DTYPES}


def name(backend: Backend) -> str:
    """What CUDA calls the device."""
    found = backend.xp.cuda.runtime.getDeviceProperties(backend.device)["name"]
    return found.decode() if isinstance(found, bytes) else str(found)


def describe(backend: Backend) -> dict[str, str]:
    """The device, its driver and its clocks at this moment, and whether float32 products are rounded to TF32."""
    properties = backend.xp.cuda.runtime.getDeviceProperties(backend.device)
    with backend.activate():
        rounded = backend.xp._core.get_compute_type("f") == TF32
    return {
        "device": name(backend),
        "multiprocessors": str(properties["multiProcessorCount"]),
        "memory": f"{properties['totalGlobalMem'] / 2**30:.1f} GiB",
        "clocks": _clocks(properties),
        "TF32 in CuPy": "on (CUPY_TF32)" if rounded else "off",
    }


def _clocks(properties: dict[str, Any]) -> str:
    bus = f"{properties['pciDomainID']:08x}:{properties['pciBusID']:02x}:{properties['pciDeviceID']:02x}.0"
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", "-i", bus, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        driver, now, most, memory, power, temperature = (part.strip() for part in result.stdout.split(","))
    except (OSError, ValueError, subprocess.SubprocessError):
        return "not known (nvidia-smi does not answer)"
    return f"{now} of {most} MHz, memory {memory} MHz, limit {power} W, {temperature} degrees, driver {driver}"


def _seconds(cupy: Any, step: Callable[[], Any]) -> float:
    """The least of five, after one that isn't timed."""
    step()
    least = float("inf")
    for _ in range(5):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        step()
        end.record()
        end.synchronize()
        least = min(least, cupy.cuda.get_elapsed_time(begin, end) / 1000)
    return max(least, 1e-9)


def _grown(cupy: Any, make: Callable[[int], tuple[float, Callable[[], Any]]], size: int, largest: int) -> float:
    """The rate of ``make(size)``'s work, of the first size, from this one on by doubling, that takes long enough."""
    while True:
        work, step = make(size)
        seconds = _seconds(cupy, step)
        if seconds >= LONG_ENOUGH or 2 * size > largest:
            return work / seconds
        size *= 2


def _gemm(cupy: Any, dtype: str) -> float:
    def product(size: int) -> tuple[float, Callable[[], Any]]:
        a = cupy.asarray(np.random.default_rng(0).standard_normal((size, size)).astype(dtype))
        out = cupy.empty_like(a)
        return 2.0 * size**3, lambda: cupy.matmul(a, a, out=out)

    return _grown(cupy, product, 256, LARGEST_MATRIX)


def _copy(cupy: Any) -> float:
    def copy(size: int) -> tuple[float, Callable[[], Any]]:
        a = cupy.zeros(size // 2, np.uint8)
        out = cupy.empty_like(a)
        return float(size), lambda: cupy.copyto(out, a)

    free = cupy.cuda.runtime.memGetInfo()[0]
    return _grown(cupy, copy, 1 << 24, min(LARGEST_COPY, free // 2))


def _fma(cupy: Any, dtype: str) -> float:
    number, kind = {"float32": "float", "float64": "double"}[dtype], np.dtype(dtype).type
    source = PEAK.replace("NUMBER", number).replace("CHAINS", str(CHAINS))
    kernel = cupy.RawKernel(source, f"peak_{number}", options=("-std=c++17",))
    most = BLOCKS * cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["multiProcessorCount"]
    out = cupy.zeros(1, dtype)

    def spin(size: int) -> tuple[float, Callable[[], Any]]:
        """More blocks first, until the device is full, then more turns."""
        blocks, turns = min(size, most), FEWEST_TURNS * max(1, size // most)
        arguments = (np.int64(turns), kind(0.999), kind(1e-3), out)
        return 2.0 * CHAINS * turns * blocks * THREADS, lambda: kernel((blocks,), (THREADS,), arguments)

    return _grown(cupy, spin, 32, most * MOST_TURNS // FEWEST_TURNS)
