"""Widths by batches that people train with: w-w-w-10, bias, softmax cross-entropy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from backprop_xp.bench.cases import Case, chain
from backprop_xp.bench.contenders import EAGER
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY, Result, Row
from backprop_xp.bench.run import run_case
from backprop_xp.bench.settings import Settings
from backprop_xp.bench.standing import OURS
from backprop_xp.bench.worker import Worker

FAMILY = "width and batch"
FASTEST = "the fastest rival"
#: Seconds of timing a point; multiply-adds of one call, beyond which a point takes too long for that.
BUDGET, MOST_MULTIPLY_ADDS = 0.5, 3e11
#: Seconds after which no other point is begun. A point takes some 15 s, its rounds' rests most of it: the whole grid of
#: 140 points takes most of an hour.
MOST_SECONDS = 5400.0


@dataclass(frozen=True)
class Part:
    """A table of points; ``activation`` is that of the two inner layers."""

    activation: str
    dtype: str
    widths: tuple[int, ...]
    batches: tuple[int, ...]

    @property
    def family(self) -> str:
        """What its results are called."""
        return f"{FAMILY}, {self.activation}, {self.dtype}"

    def cases(self) -> list[Case]:
        """A net for each width, a case for each batch that it can be measured with."""
        nets = [
            Case(
                f"{w}-{w}-{w}-10",
                (w, w, w, 10),
                chain(self.activation, 3),
                1,
                self.dtype,
                "softmax_cross_entropy",
                True,
            )
            for w in self.widths
        ]
        return [
            net.with_samples(n) for net in nets for n in self.batches if n * net.multiply_adds <= MOST_MULTIPLY_ADDS
        ]


QUICK = (Part("relu", "float32", (16, 64, 256, 1024), (32, 256, 2048, 16384)),)
WIDTHS, BATCHES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), (1, 8, 32, 128, 512, 2048, 8192, 65536)
WHOLE = (
    Part("relu", "float32", WIDTHS, BATCHES),
    Part("tanh", "float32", WIDTHS, BATCHES),
    Part("relu", "float64", (256,), BATCHES),
)
FIRST_BATCH = 2048
#: Widths and batches in which torch.compile takes part where it is asked for: every point would be hours of compiling.
COMPILED = (16, 64, 256, 1024), (32, 2048)


def run(
    parts: Sequence[Part],
    settings: Settings,
    progress: Callable[[str, float], None],
    workers: Sequence[Worker] = (),
    machine: Machine | None = None,
    seconds: float = MOST_SECONDS,
) -> Iterator[tuple[str, Result]]:
    """Every point, with gradients proven: ours as a user gets it, and the rivals of the settings.

    Args:
        seconds: after which no other point is begun; those of COMPILED come first.

    Yields:
        The family of a point's part and its result, as soon as it is there.
    """
    begin = time.monotonic()
    points = [(part.family, case) for part in parts for case in part.cases()]
    for family, case in sorted(points, key=lambda point: not _compiled(point[1])):  # stable
        if time.monotonic() - begin > seconds:
            break
        compile = settings.compile and _compiled(case)
        quick = replace(settings, engines=("auto",), budget=BUDGET, memory=False, compile=compile)
        yield family, run_case(case, quick, progress, workers, machine)


def first_calls() -> tuple[list[Case], list[Case]]:
    """What to measure first calls of: the nets of the whole grid, with a batch for which small ones are compiled; and
    those of them that torch.compile takes part in.
    """
    cases = [case for case in WHOLE[0].cases() if case.samples == FIRST_BATCH]
    return cases, [case for case in cases if case.sizes[0] in COMPILED[0]]


def table(part: Part, results: Sequence[Result], rival: str = EAGER) -> str:
    """The ratio to a rival in its better memory setting, width by batch; above 1 ours is faster.

    Args:
        rival: EAGER, or FASTEST.
    """
    at = {(result.case.sizes[0], result.case.samples): result for result in results}
    net = f"w-w-w-10, {part.activation}, bias, softmax cross-entropy, {part.dtype}"
    lines = [f"x {rival}, {net}, by samples of a batch", ""]
    lines.append(f"| width | {' | '.join(f'{n:,}' for n in part.batches)} |")
    lines.append(f"| ---: |{' ---: |' * len(part.batches)}")
    for w in part.widths:
        lines.append(f"| {w} | {' | '.join(_cell(at.get((w, n)), rival) for n in part.batches)} |")
    ratios = [ratio for result in results if (ratio := ratio_of(result, rival)) is not None]
    if ratios:
        mean = float(np.exp(np.mean(np.log(ratios))))
        lines += ["", f"geometric mean {mean:.2f}, least {min(ratios):.2f}, of {len(ratios)} points"]
    if missing := len(part.cases()) - len(results):
        lines.append(f"{missing} points were not begun: there was no time left")
    lines += [f"{result.name}: {result.refused}" for result in results if result.refused]
    if any(result.busy for result in results):
        lines.append(f"* {BUSY}")
    return "\n".join(lines)


def ratio_of(result: Result, rival: str) -> float | None:
    """How many times as fast ours is; None where no speed is shown, or there is no rival."""
    ours: Row | None = next((row for row in result.rows if row.contender.startswith(OURS)), None)
    if ours is None:
        return None
    return ours.speedup if rival == EAGER else ours.over_rival


def _cell(result: Result | None, rival: str) -> str:
    if result is None:
        return "-"
    ratio = ratio_of(result, rival)
    return "refused" if ratio is None else f"{ratio:.2f}{'*' if result.busy else ''}"


def _compiled(case: Case) -> bool:
    widths, batches = COMPILED
    return case.sizes[0] in widths and case.samples in batches
