"""Training on scikit-learn's sets: `python -m backprop_xp.bench.training`.

Three contenders get the same arrays, sizes and seeds: `net.fit` with the settings of `backprop-xp train`; the same
loop in PyTorch, with the same weights, batches, optimiser and schedule; and scikit-learn's MLP with its own settings.
Each is told to fit once untimed. Then, seed by seed, they take turns; a seed during which others took processor time
is repeated. Memory is kept for everybody alike (`allocator.py`). What compiling adds to the first fit on a machine is
measured once a set, in a process of its own that finds nothing compiled.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from backprop_xp.bench import allocator, contenders, measure, standing
from backprop_xp.bench.quiet import Machine, Spell
from backprop_xp.bench.report import BUSY
from backprop_xp.bench.standing import OURS, Point

from backprop_xp import environment
from backprop_xp.data import Classes, Recipe, read, recipe
from backprop_xp.data.recipe import Prepared
from backprop_xp.data.sets import SET_TARGET, SETS
from backprop_xp.exchange import to_torch

CASES = tuple(SETS)
QUICK = CASES[:1]  # of `make bench`
#: Of splits, weights and orders: of `make bench`, and of everything else. The settings were chosen on the seeds 0 to 4.
SEEDS, MANY_SEEDS = range(100, 105), range(100, 120)
PREDICTIONS = 5  # timed ones
DEFAULT = Recipe(backend="numpy")


@dataclass
class Fit:
    """One run of one contender.

    Attributes:
        times: seconds since its beginning, at the end of every epoch.
        losses: of every epoch, the average over its batches, each before its step.
        outputs: for rows like those that it was trained on, on the host.
        steps: how many there were.
    """

    times: list[float]
    losses: list[float]
    outputs: Callable[[np.ndarray], np.ndarray]
    steps: int


@dataclass
class Row:
    """One contender in one case: medians over the seeds, but for the score.

    Attributes:
        fit: seconds of the whole run.
        to_loss: seconds until the training loss that every contender reached.
        predict: seconds for all rows of the set.
        score: on the held-out rows: the share of right answers, or R^2; the mean, as rows are few.
        speedup: of fitting, over the PyTorch loop, seed by seed.
        fits: seconds of the whole run, seed by seed.
        spells: what the machine did besides, seed by seed.
        busy: why nothing here is to be quoted; empty if it may be.
        first: seconds of a fit that has to compile everything; None of contenders that compile nothing.
    """

    case: str
    contender: str
    fit: float
    to_loss: float
    predict: float
    score: float
    steps: int
    speedup: float | None = None
    fits: list[float] = field(default_factory=list)
    spells: list[Spell] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    first: float | None = None


Progress = Callable[[str, float], None]


def available() -> bool:
    """Whether the data and somebody to compare with are installed."""
    return all(map(contenders.available, ("pandas", "sklearn")))


def run(
    cases: Sequence[str] = CASES,
    threads: int = 1,
    seeds: Sequence[int] = SEEDS,
    progress: Progress = lambda what, share: None,
    settings: Recipe = DEFAULT,
    machine: Machine | None = None,
) -> list[Row]:
    """Every contender in every case; ``machine`` tells whether others computed meanwhile, by default the real one."""
    allocator.keep()
    rows: list[Row] = []
    for case in cases:
        rows += _case(case, threads, seeds, progress, settings, machine or Machine(threads))
    return rows


def points(rows: Sequence[Row]) -> list[Point]:
    """What claims are made of: the time of fitting."""
    made = []
    for case in dict.fromkeys(row.case for row in rows):
        fits = {row.contender: row.fits for row in rows if row.case == case}
        busy = any(row.busy for row in rows if row.case == case)
        made.append(Point(case, fits.pop(OURS), fits, busy))
    return made


def table(rows: Sequence[Row]) -> str:
    """Text of at most 100 columns."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        lines.append(f"training on {case}: medians of several seeds, the mean score")
        lines.append(f"{'':24}{'fit':>10}{'same loss':>12}{'predict':>11}{'score':>9}{'steps':>8}{'x PyTorch':>11}")
        for row in (row for row in rows if row.case == case):
            speedup = "-" if row.speedup is None else f"{row.speedup:.2f}"
            lines.append(
                f"  {row.contender:22}{f'{row.fit:.3f} s':>10}{f'{row.to_loss:.3f} s':>12}"
                f"{f'{1e3 * row.predict:.2f} ms':>11}{row.score:>9.4f}{row.steps:>8}{speedup:>11}"
            )
        lines += [
            f"  {row.contender}, the first fit on a machine, with compiling: {row.first:.2f} s"
            for row in rows
            if row.case == case and row.first is not None
        ]
        reasons = dict.fromkeys(reason for row in rows if row.case == case for reason in row.busy)
        lines += [f"  {BUSY}: {reason}" for reason in reasons]
    return "\n".join(lines)


def ours(data: Prepared, settings: Recipe) -> Fit:
    """net.fit."""
    net = recipe.new_net(data, settings)
    x, y, times = data.x[data.first], data.y[data.first], []
    started = time.perf_counter()
    history = net.fit(
        x,
        y,
        callbacks=[lambda net, epoch: times.append(time.perf_counter() - started)],
        progress=False,
        **recipe.fit_options(settings),
    )
    return Fit(times, [epoch.loss for epoch in history.epochs], net.forward, history.epochs[-1].step)


def first_fit(case: str, threads: int, settings: Recipe) -> float:
    """Seconds of our fit in a new process that finds nothing compiled."""
    request = json.dumps([case, vars(settings)])
    with tempfile.TemporaryDirectory() as cache:
        variables = environment.passed_on({environment.CACHE.name: cache, environment.NUM_THREADS.name: str(threads)})
        command = [sys.executable, "-m", "backprop_xp.bench.training", request]
        result = subprocess.run(command, capture_output=True, text=True, env=variables, check=True)
    return float(result.stdout.split()[-1])


def pytorch(data: Prepared, settings: Recipe) -> Fit:
    """The same loop, written as PyTorch's users write it, with its fused AdamW."""
    import torch

    model = to_torch(recipe.new_net(data, settings))
    x, y = torch.from_numpy(data.x[data.first]), torch.from_numpy(data.y[data.first])
    classes = isinstance(data.target, Classes)
    loss_of = torch.nn.CrossEntropyLoss() if classes else torch.nn.MSELoss()
    y = y if classes else y.to(x.dtype)
    batches = -(-len(x) // settings.batch_size)
    same = settings.new_optimiser()
    optimiser = torch.optim.AdamW(model.parameters(), same.lr, weight_decay=same.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, batches * settings.epochs)
    times, losses = [], []
    started = time.perf_counter()
    for epoch in range(settings.epochs):
        order = torch.from_numpy(np.random.default_rng((settings.seed, epoch)).permutation(len(x)))
        total = 0.0
        for rows in order.split(settings.batch_size):
            optimiser.zero_grad()
            loss = loss_of(model(x[rows]), y[rows])
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        times.append(time.perf_counter() - started)
        losses.append(total / len(x))

    def outputs(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(rows)).numpy()

    return Fit(times, losses, outputs, batches * settings.epochs)


def sklearn(data: Prepared, settings: Recipe) -> Fit:
    """MLPClassifier or MLPRegressor with these sizes, this seed, and scikit-learn's own settings."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    classes = isinstance(data.target, Classes)
    model = (MLPClassifier if classes else MLPRegressor)(hidden_layer_sizes=settings.widths, random_state=settings.seed)
    y = data.y[data.first] if classes else data.y[data.first][:, 0].astype(settings.dtype)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data.x[data.first], y)
    seconds = time.perf_counter() - started
    epochs = len(model.loss_curve_)
    losses = [loss if classes else 2 * loss for loss in model.loss_curve_]  # its squared error is halved

    def outputs(rows: np.ndarray) -> np.ndarray:
        return model.predict_proba(rows) if classes else model.predict(rows)[:, None]

    times = [seconds * (k + 1) / epochs for k in range(epochs)]
    return Fit(times, losses, outputs, epochs * -(-len(y) // min(200, len(y))))  # its batches hold 200


EVERYBODY: dict[str, Callable[[Prepared, Recipe], Fit]] = {
    "backprop_xp": ours,
    "PyTorch loop": pytorch,
    "scikit-learn": sklearn,
}


def _case(
    case: str, threads: int, seeds: Sequence[int], progress: Progress, settings: Recipe, machine: Machine
) -> list[Row]:
    frame = read(case)
    names = [name for name in EVERYBODY if name != "PyTorch loop" or contenders.available("torch")]

    def turn(seed: int) -> dict[str, tuple[float, float, float, float, int]]:
        progress(f"training on {case}", seeds.index(seed) / len(seeds))
        return _turns(frame, names, replace(settings, seed=seed))

    with measure.on_threads(threads):
        turns, spells, busy = measure.by_seed(turn, seeds, machine, "seeds")
    measured = {name: [each[name] for each in turns] for name in names}
    rows = []
    for name in names:
        fit, to_loss, predict, _, steps = (float(np.median(column)) for column in zip(*measured[name]))
        score = float(np.mean([run[3] for run in measured[name]]))
        speedup = None
        if "PyTorch loop" in names:
            ratios = [theirs[0] / mine[0] for theirs, mine in zip(measured["PyTorch loop"], measured[name])]
            speedup = float(np.median(ratios))
        fits = [run[0] for run in measured[name]]
        first = first_fit(case, threads, settings) if name == OURS else None
        rows.append(Row(case, name, fit, to_loss, predict, score, int(steps), speedup, fits, spells, list(busy), first))
    return rows


def _turns(frame: Any, names: Sequence[str], settings: Recipe) -> dict[str, tuple[float, float, float, float, int]]:
    """One after another, each after a rest."""
    data = recipe.prepare(frame, SET_TARGET, settings)
    fits = {}
    for name in names:
        time.sleep(measure.REST)
        fits[name] = EVERYBODY[name](data, settings)
    reached = max(min(fit.losses) for fit in fits.values())
    return {name: _measure(data, fit, reached) for name, fit in fits.items()}


def _measure(data: Prepared, fit: Fit, reached: float) -> tuple[float, float, float, float, int]:
    to_loss = next(t for t, loss in zip(fit.times, fit.losses) if loss <= reached)
    fit.outputs(data.x)
    time.sleep(measure.REST)
    predict = measure.median_seconds(lambda: fit.outputs(data.x), PREDICTIONS)
    truth = data.frame[data.target.column].iloc[data.held]
    score = data.target.score(fit.outputs(data.x[data.held]), truth)
    return fit.times[-1], to_loss, predict, score, fit.steps


def main(request: str) -> None:
    """What :func:`first_fit` asks a new process for: it prints the seconds."""
    case, settings = json.loads(request)
    mine = Recipe(**settings)
    print(ours(recipe.prepare(read(case), SET_TARGET, mine), mine).times[-1])


if __name__ == "__main__" and sys.argv[1:]:
    main(sys.argv[1])
elif __name__ == "__main__":
    from backprop_xp import threads

    rows = run(threads=threads.count(), seeds=MANY_SEEDS)
    print(table(rows) + "\n" + standing.sentence(points(rows), "sets, by the time of fit"))
