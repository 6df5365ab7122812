"""Widths by batches that people train with: three layers, relu, bias, softmax cross-entropy, float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from backprop_xp.bench.cases import Case, chain
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY, Result
from backprop_xp.bench.run import run_case
from backprop_xp.bench.settings import Settings
from backprop_xp.bench.standing import OURS
from backprop_xp.bench.worker import Worker

FAMILY = "width and batch"
QUICK = (16, 64, 256, 1024), (32, 256, 2048, 16384)
WHOLE = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), (1, 8, 32, 128, 512, 2048, 8192, 65536)
#: Seconds of timing a point; multiply-adds of one call, beyond which a point takes too long for that.
BUDGET, MOST_MULTIPLY_ADDS = 0.5, 3e11


def cases(widths: Sequence[int], batches: Sequence[int]) -> list[Case]:
    """A net for each width, a case for each batch that it can be measured with."""
    nets = [
        Case(f"{w}-{w}-{w}-10", (w, w, w, 10), chain("relu", 3), 1, "float32", "softmax_cross_entropy", True)
        for w in widths
    ]
    return [net.with_samples(n) for net in nets for n in batches if n * net.multiply_adds <= MOST_MULTIPLY_ADDS]


def run(
    widths: Sequence[int],
    batches: Sequence[int],
    settings: Settings,
    progress: Callable[[str, float], None],
    workers: Sequence[Worker] = (),
    machine: Machine | None = None,
) -> list[Result]:
    """Every point, with gradients proven: ours as a user gets it, and PyTorch eager."""
    quick = replace(settings, engines=("auto",), budget=BUDGET, memory=False, compile=False, jax=False)
    return [run_case(case, quick, progress, workers, machine) for case in cases(widths, batches)]


def table(results: Sequence[Result]) -> str:
    """The ratio to PyTorch eager in its better memory setting, width by batch; above 1 ours is faster."""
    batches = sorted({result.case.samples for result in results})
    widths = sorted({result.case.sizes[0] for result in results})
    at = {(result.case.sizes[0], result.case.samples): result for result in results}
    lines = ["x PyTorch eager, w-w-w-10, relu, bias, softmax cross-entropy, float32, by samples of a batch", ""]
    lines.append(f"| width | {' | '.join(f'{n:,}' for n in batches)} |")
    lines.append(f"| ---: |{' ---: |' * len(batches)}")
    for w in widths:
        lines.append(f"| {w} | {' | '.join(_cell(at.get((w, n))) for n in batches)} |")
    ratios = [ratio for result in results if (ratio := _ratio(result)) is not None]
    if ratios:
        mean = float(np.exp(np.mean(np.log(ratios))))
        lines += ["", f"geometric mean {mean:.2f}, least {min(ratios):.2f}, of {len(ratios)} points"]
    if any(result.busy for result in results):
        lines.append(f"* {BUSY}")
    return "\n".join(lines)


def _cell(result: Result | None) -> str:
    if result is None:
        return "-"
    ratio = _ratio(result)
    return "refused" if ratio is None else f"{ratio:.2f}{'*' if result.busy else ''}"


def _ratio(result: Result) -> float | None:
    return next((row.speedup for row in result.rows if row.contender.startswith(OURS)), None)
