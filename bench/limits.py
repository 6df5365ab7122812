"""What this machine can do at most, measured in the same run: matrix products, multiply-adds, copies."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backprop_xp.toolchain import compiler
from backprop_xp.toolchain.compiler import CompileError


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

    def with_peak(self, peak: dict[str, float] | None) -> Limits:
        """The same with another run of the multiply-add loop: what counts as the limit is the best of all."""
        if peak is None:
            return self
        return replace(self, fma={dtype: max(rate, (self.fma or {}).get(dtype, 0.0)) for dtype, rate in peak.items()})


#: Runs the multiply-add loop on a number of threads: flop/s by dtype, or None where there is no compiler for it.
Peak = Callable[[int], dict[str, float] | None]


def measure(threads: int, peak: Peak, size: int = 2048) -> Limits:
    """Takes about five seconds."""
    return Limits({dtype: _gemm(dtype, size) for dtype in ("float32", "float64")}, peak(threads), _copy())


@contextmanager
def peak_loop() -> Iterator[Peak]:
    """The multiply-add loop, compiled once; half a second each time it is run."""
    with tempfile.TemporaryDirectory() as folder:
        program = _compiled(Path(folder, "peak"))

        def peak(threads: int) -> dict[str, float] | None:
            if program is None:
                return None
            command = [str(program), str(threads)]
            try:
                result = subprocess.run(command, check=True, capture_output=True, timeout=60, text=True)
            except (OSError, subprocess.SubprocessError):
                return None
            single, double = map(float, result.stdout.split())
            return {"float32": single, "float64": double}

        yield peak


def _best(step) -> float:  # type: ignore[no-untyped-def]
    step()
    times = []
    for _ in range(5):
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


def _compiled(program: Path) -> Path | None:
    try:
        cxx = compiler.find()
    except CompileError:
        return None
    flags = [flag for flag in cxx.flags if flag not in ("-shared", "-fPIC", "-fvisibility=hidden")]
    source = Path(__file__).parent / "peak.cpp"
    command = [*cxx.command, *flags, "-pthread", "-o", str(program), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return program
