"""`python -m backprop_xp.bench.smoke`: what this machine is, and every GPU engine once against NumPy in float64."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from backprop_xp.bench import environment
from backprop_xp.bench.cases import ARTICLE, NARROW

from backprop_xp import Net, get_backend, info
from backprop_xp.engines.on_gpu import ON_GPU

COMMANDS = (
    ("nvidia-smi",),
    ("nvidia-smi", "-q", "-d", "CLOCK,POWER"),
    ("nvcc", "--version"),
    ("ncu", "--version"),
    ("compute-sanitizer", "--version"),
)
#: Batches around warps, blocks and chunks; the first of them for a quick look.
BATCHES, FEW = (1, 33, 257, 5000), 2
NETS = {"fused": ARTICLE, "cooperative": NARROW, "layered": NARROW}
MOST_EPS = 1000  # relative errors beyond so many units of rounding are no rounding


def facts() -> Iterator[str]:
    """Lines on the machine, its tools and the packages."""
    for command in COMMANDS:
        with suppress(OSError, subprocess.SubprocessError):
            result = subprocess.run(command, capture_output=True, text=True, timeout=30)
            yield f"$ {' '.join(command)}\n{result.stdout.rstrip()}"
    yield info.text()
    yield ", ".join(f"{name} {version}" for name, version in environment.versions().items())
    cuda = get_backend("cupy").xp.cuda
    yield f"NVRTC {cuda.nvrtc.getVersion()}, driver {cuda.runtime.driverGetVersion()}"


def errors(batches: Sequence[int]) -> Iterator[tuple[str, float]]:
    """For each engine, dtype and batch, the largest relative error of the loss or a gradient, in units of rounding."""
    random = np.random.default_rng(0)
    for engine in ON_GPU:
        case = NETS[engine]
        for dtype in ("float32", "float64"):
            options = {"rng": 0, "init": "glorot_normal"}
            exact = Net(case.sizes, case.activations, dtype="float64", backend="numpy", engine="layered", **options)
            net = Net(case.sizes, case.activations, dtype=dtype, backend="cupy", engine=engine, **options)
            for n in batches:
                x = random.normal(size=(n, case.sizes[0])).astype(dtype)
                pairs = [(np.float64(exact.loss_and_grad(x)), net.loss_and_grad(x).get())]
                pairs += [(a.grad, b.grad.get()) for a, b in zip(exact.weights, net.weights)]
                worst = max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in pairs)
                yield f"{engine:12} {dtype} {n:5} samples", worst / np.finfo(dtype).eps


def repeats(samples: int) -> bool:
    """Whether a captured graph gives what a plain call gives, bit for bit."""
    net = ARTICLE.net(backend="cupy")
    x = net.backend.asarray(ARTICLE.with_samples(samples).arrays()[0], None, "x")
    step = net.repeated(x)
    losses = [float(step()) for _ in range(3)]
    return step.graph is not None and losses == [float(net.loss_and_grad(x))] * 3


def main(arguments: Sequence[str]) -> int:
    start, batches = time.monotonic(), BATCHES[:FEW] if "--small" in arguments else BATCHES
    for line in facts():
        print(line, flush=True)
    wrong = 0
    for what, error in errors(batches):
        wrong += not error <= MOST_EPS  # not <=: NaN is wrong
        verdict = "" if error <= MOST_EPS else "  WRONG"
        print(f"{time.monotonic() - start:6.1f} s  {what}  relative error {error:8.1f} eps{verdict}", flush=True)
    if not repeats(batches[-1]):
        wrong += 1
        print("a call repeated as a CUDA graph doesn't give what a plain call gives: WRONG")
    print(f"{wrong} wrong" if wrong else "every engine agrees with NumPy in float64")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
