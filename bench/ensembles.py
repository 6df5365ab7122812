"""Many small nets, one after another and side by side: `python -m backprop_xp.bench.ensembles`.

A loop over `fit` and `ensemble(nets).fit(...)` train the same nets on the same samples with as many threads, after a
proof that both give the same bits. Beside them one net on one thread makes as many steps in one run: that is what the
compiled steps take, which an ensemble may share out to its threads, but has to make as well.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from backprop_xp.bench import allocator, measure
from backprop_xp.bench.contenders import Contender
from backprop_xp.bench.measure import Rounds
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY

from backprop_xp import Net, threads
from backprop_xp.literals import Dtype
from backprop_xp.training import ensemble

SIZES, SAMPLES, BATCH = (8, 16, 16, 1), 10_000, 128
NETS, EPOCHS = 1000, (1, 5)
BUDGET = 60.0  # seconds of the rounds of one number of epochs
LOOP, TOGETHER, STEPS = "a loop over fit", "an ensemble", "as many steps of one net"


@dataclass(frozen=True)
class Grid:
    """What is trained: so many nets, that differ in their weights alone."""

    nets: int
    epochs: int
    threads: int
    dtype: Dtype

    def new(self, workers: int | None = None) -> list[Net]:
        """The nets as they are before, each to be trained on its number of threads."""
        options: dict[str, Any] = {"loss": "mse", "bias": True, "reduction": "mean", "init": "glorot_uniform"}
        options |= {"backend": "numpy", "dtype": self.dtype, "threads": workers or self.threads}
        return [Net(SIZES, rng=seed, **options) for seed in range(self.nets)]


def data(dtype: Dtype) -> tuple[np.ndarray, np.ndarray]:
    """x (SAMPLES, 8) and y (SAMPLES, 1)."""
    x = np.random.default_rng(0).normal(size=(SAMPLES, SIZES[0])).astype(dtype)
    return x, np.sin(x.sum(axis=1, keepdims=True))


def one_after_another(nets: Sequence[Net], epochs: int, x: np.ndarray, y: np.ndarray) -> None:
    """What users wrote before there were ensembles."""
    for net in nets:
        net.fit(x, y, epochs=epochs, batch_size=BATCH, progress=False)


def side_by_side(nets: Sequence[Net], epochs: int, x: np.ndarray, y: np.ndarray) -> None:
    """All at once."""
    ensemble(nets).fit(x, y, epochs=epochs, batch_size=BATCH)


def contender(name: str, nets: Callable[[], list[Net]], train: Callable[[list[Net]], None]) -> Contender:
    """Training new nets, which are made while no clock runs."""
    trained: list[Net] = []

    def seconds(count: int) -> float:
        spent = 0.0
        for _ in range(count):
            trained[:] = nets()
            started = time.perf_counter()
            train(trained)
            spent += time.perf_counter() - started
        return spent

    return Contender(
        name, "", partial(seconds, 1), lambda: [p.data for net in trained for p in net.parameters], seconds
    )


def contenders(grid: Grid) -> list[Contender]:
    """A loop, an ensemble, and the steps of both in one run."""
    x, y = data(grid.dtype)
    steps = grid.nets * grid.epochs
    return [
        contender(LOOP, grid.new, lambda nets: one_after_another(nets, grid.epochs, x, y)),
        contender(TOGETHER, grid.new, lambda nets: side_by_side(nets, grid.epochs, x, y)),
        contender(STEPS, lambda: grid.new(1)[:1], lambda nets: one_after_another(nets, steps, x, y)),
    ]


def prove_equal(loop: Contender, together: Contender) -> None:
    """That both train to the same bits. Raises WrongGradient."""
    loop.step(), together.step()
    differ = [a.tobytes() != b.tobytes() for a, b in zip(loop.results(), together.results(), strict=True)]
    if any(differ):
        raise measure.WrongGradient(
            f"{sum(differ)} of {len(differ)} parameters of {TOGETHER} have other bits than alone"
        )


def run(grid: Grid, budget: float = BUDGET, machine: Machine | None = None) -> Rounds:
    """All in turn, after the proof; ``machine`` tells whether others computed meanwhile, by default the real one."""
    everybody = contenders(grid)
    prove_equal(*everybody[:2])
    return measure.alternate([measure.here(one) for one in everybody], budget, machine or Machine(grid.threads))


def table(grid: Grid, rounds: Rounds) -> str:
    """Text: medians over the rounds, and what share of the loop's time each takes."""
    net, loop = "-".join(map(str, SIZES)), rounds.timings[0]
    threads = f"{grid.threads} thread{'s' * (grid.threads > 1)}"
    epochs = f"{grid.epochs} epoch{'s' * (grid.epochs > 1)} of {SAMPLES:,} samples in batches of {BATCH}"
    lines = [f"{grid.nets:,} nets {net} in {grid.dtype}, {epochs}, {threads}"]
    for timing in rounds.timings:
        share = "" if timing is loop else f", {timing.speedup_over(loop) ** -1:.2f} of the loop's time"
        one = " on one thread" * (timing.entrant.name == STEPS and grid.threads > 1)
        lines.append(f"  {timing.entrant.name + one:40}{timing.median:8.3f} s +-{timing.spread:.0%}{share}")
    lines += [f"  {text}" for text in (rounds.note, f"{BUSY}: {rounds.busy}" if rounds.busy else "") if text]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m backprop_xp.bench.ensembles", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--nets", type=int, default=NETS, metavar="N", help=f"how many (default: {NETS})")
    parser.add_argument("--epochs", default=",".join(map(str, EPOCHS)), metavar="A,B", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of everybody (default: all processors)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=BUDGET, metavar="S", help="of each case (default: 60)")
    given = parser.parse_args(arguments)
    try:
        epochs = [int(number) for number in given.epochs.split(",")]
    except ValueError:
        parser.error(f"--epochs must be whole numbers such as 1,5, got {given.epochs}")
    if min(given.nets, *epochs) < 1 or not given.seconds > 0:
        parser.error("--nets and --epochs must be at least 1, --seconds more than 0")
    try:
        workers = threads.count(given.threads)
    except ValueError as error:
        parser.error(f"--{error}")
    allocator.keep()
    for number in epochs:
        grid = Grid(given.nets, number, workers, given.dtype)
        print(table(grid, run(grid, given.seconds)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
