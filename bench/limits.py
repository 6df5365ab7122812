"""What this machine can do at most, measured in the same run: matrix products, multiply-adds, copies."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backprop_xp.jit import compiler
from backprop_xp.jit.compiler import CompileError


@dataclass(frozen=True)
class Limits:
    """Of all threads together; None where it can't be measured.

    Attributes:
        gemm: flop/s of the best large matrix product that NumPy or PyTorch shows, by dtype.
        fma: flop/s of a register-only multiply-add loop, by dtype.
        copy: bytes/s read plus written by a copy that fits no cache.
    """

    gemm: dict[str, float]
    fma: dict[str, float] | None
    copy: float


def measure(threads: int, size: int = 2048) -> Limits:
    """Takes about five seconds."""
    return Limits({dtype: _gemm(dtype, size) for dtype in ("float32", "float64")}, _fma(threads), _copy())


def _best(step, attempts: int = 5) -> float:  # type: ignore[no-untyped-def]
    step()
    times = []
    for _ in range(attempts):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def _gemm(dtype: str, size: int) -> float:
    a = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    out = np.empty_like(a)
    seconds = _best(lambda: np.matmul(a, a, out=out))
    try:
        import torch
    except ImportError:
        pass
    else:
        ta, tout = torch.from_numpy(a), torch.from_numpy(out)
        seconds = min(seconds, _best(lambda: torch.matmul(ta, ta, out=tout)))
    return 2 * size**3 / seconds


def _copy() -> float:
    a = np.ones(1 << 25)
    out = np.empty_like(a)
    return 2 * a.nbytes / _best(lambda: np.copyto(out, a))


def _fma(threads: int) -> dict[str, float] | None:
    try:
        cxx = compiler.find()
    except CompileError:
        return None
    flags = [flag for flag in cxx.flags if flag not in ("-shared", "-fPIC", "-fvisibility=hidden")]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "peak")
        source = Path(__file__).parent / "peak.cpp"
        try:
            command = [*cxx.command, *flags, "-pthread", "-o", str(program), str(source)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            result = subprocess.run(
                [str(program), str(threads)], check=True, capture_output=True, timeout=60, text=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
    single, double = map(float, result.stdout.split())
    return {"float32": single, "float64": double}
