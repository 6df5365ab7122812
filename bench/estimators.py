"""Estimators on tables: `python -m backprop_xp.bench.estimators`, ten minutes at most on a quiet machine.

On the tables that scikit-learn and statsmodels bring with them, three contenders get the same splits, arrays (scaled,
float32), widths, learning rate and batches, and stop by the same rule: our estimators, scikit-learn's MLPClassifier or
MLPRegressor, and the loop that a wrapper of PyTorch's modules runs (as skorch does, but with rows taken by index, which
is faster than its loader; like every estimator it checks its input). Split by split they take turns, after one untimed
fit each; a split during which others took processor time is repeated. Every table has its share of the time, and ends
with fewer splits where that is used up. Memory is kept for everybody alike (`allocator.py`).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from backprop_xp.bench import allocator, contenders, measure, standing
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY, as_json, replace_file
from backprop_xp.bench.standing import OURS, Point
from backprop_xp.bench.tables import SCIKIT_LEARN, STATSMODELS, Table, packaged

from backprop_xp import later
from backprop_xp import threads as processors
from backprop_xp.files import check_outputs

estimators = later.Module("backprop_xp.sklearn")

SPLITS = range(100, 120)
MOST_SECONDS = 600.0  # of all tables together
MOST_ROWS = 2000  # of a table, drawn once: else two tables take as long as all others together
HELD_OUT = 0.25
PREDICTIONS = 5  # timed ones
#: Of every contender, as MLPClassifier has them, but that a run may be longer.
HIDDEN, LR, BATCH, EPOCHS, TOL, PATIENCE, ALPHA = 100, 1e-3, 200, 200, 1e-4, 10, 1e-4

PYTORCH = "PyTorch loop"
Predict = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[str, float], None]


@dataclass
class Row:
    """One contender on one table: of every split seconds to fit, seconds to predict the held-out rows, and the score.

    Attributes:
        busy: why the times are not to be quoted; empty if they may be.
    """

    table: str
    contender: str
    rows: int
    fits: list[float] = field(default_factory=list)
    predictions: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


def run(
    chosen: Sequence[Table],
    threads: int = 1,
    splits: Sequence[int] = SPLITS,
    progress: Progress = lambda what, share: None,
    machine: Machine | None = None,
    seconds: float = MOST_SECONDS,
    after: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Every contender on every table.

    Args:
        machine: tells whether others computed meanwhile; by default the real one.
        seconds: for all tables together, of which each gets an equal part of what is left.
        after: called after every table with all rows so far.
    """
    allocator.keep()
    rows: list[Row] = []
    begin = time.monotonic()
    for done, table in enumerate(chosen):
        progress(f"estimators on {table.name}", done / len(chosen))
        left = seconds - (time.monotonic() - begin)
        rows += _table(table, threads, splits, machine or Machine(threads), left / (len(chosen) - done))
        after(rows)
    return rows


def points(rows: Sequence[Row]) -> list[Point]:
    """What claims are made of: the times of fitting."""
    return [
        Point(table, mine.fits, {row.contender: row.fits for row in theirs}, bool(mine.busy))
        for table, mine, theirs in _by_table(rows)
    ]


def report(rows: Sequence[Row]) -> str:
    """Text of at most 100 columns."""
    lines = [
        f"{'table':16}{'rows':>6}  {'contender':14}{'fit':>10}{'predict':>11}{'score':>18}{'less than ours by':>20}"
    ]
    for table, mine, theirs in _by_table(rows):
        for row in (mine, *theirs):
            less = ""
            if row is not mine:
                differences = np.array(mine.scores) - np.array(row.scores)
                less = f"{differences.mean():+.4f} +- {_error(differences):.4f}"
            first = (table, row.rows) if row is mine else ("", "")
            lines.append(
                f"{first[0]:16}{first[1]:>6}  {row.contender:14}{f'{np.median(row.fits):.3f} s':>10}"
                f"{f'{1e3 * np.median(row.predictions):.2f} ms':>11}"
                f"{f'{np.mean(row.scores):.4f} +- {_error(row.scores):.4f}':>18}{less:>20}"
            )
        lines += [f"  {BUSY}: {reason}" for reason in mine.busy]
    lines.append("Times are medians over the splits, scores means +- a standard error: right answers, or R^2.")
    splits = {table: len(mine.scores) for table, mine, _ in _by_table(rows)}
    most = max(splits.values(), default=0)
    fewer = ", ".join(f"{table} {number}" for table, number in splits.items() if number < most)
    lines.append(f"{most} splits of every table" + (f", but for lack of time of {fewer}" if fewer else ""))
    return "\n".join(lines)


def claims(rows: Sequence[Row]) -> list[str]:
    """What may be said of these rows: of times to fit and to predict, and of scores."""
    predicted = [
        Point(table, mine.predictions, {row.contender: row.predictions for row in theirs}, bool(mine.busy))
        for table, mine, theirs in _by_table(rows)
    ]
    lines = [
        standing.sentence(points(rows), "tables, by the time of fit"),
        standing.sentence(predicted, "tables, by the time of predict"),
        *_scores_in_words(rows),
    ]
    if not contenders.available(STATSMODELS):
        lines.append("statsmodels is not installed: its eight tables are missing here (pip install statsmodels)")
    return lines


def ours(x: np.ndarray, y: np.ndarray, classes: bool, seed: int, threads: int) -> Predict:
    return (
        (estimators.BackpropClassifier if classes else estimators.BackpropRegressor)(
            **_same(seed), backend="numpy", threads=threads
        )
        .fit(x, y)
        .predict
    )


def scikit_learn(x: np.ndarray, y: np.ndarray, classes: bool, seed: int, threads: int) -> Predict:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    return (MLPClassifier if classes else MLPRegressor)(**_same(seed)).fit(x, y).predict


def pytorch(x: np.ndarray, y: np.ndarray, classes: bool, seed: int, threads: int) -> Predict:
    """A wrapped module: input is checked, labels become indices, batches are rows by index; it stops as the others."""
    import torch
    from sklearn.utils import check_array

    x = check_array(x)
    torch.manual_seed(seed)
    labels, codes = np.unique(y, return_inverse=True)
    outputs = len(labels) if classes else 1
    model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, outputs))
    rows, targets = torch.from_numpy(x), torch.from_numpy(codes if classes else y.astype(x.dtype)[:, None])
    loss_of = torch.nn.functional.cross_entropy if classes else lambda z, t: ((z - t) ** 2).mean() / 2
    batch = min(BATCH, len(x))
    optimiser = torch.optim.Adam(model.parameters(), LR, weight_decay=ALPHA / batch)
    best, waited = np.inf, 0
    for _ in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(x)).split(batch):
            optimiser.zero_grad()
            loss = loss_of(model(rows[chosen]), targets[chosen])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(chosen)
        loss = total / len(x)
        waited = waited + 1 if loss > best - TOL else 0
        best = min(best, loss)
        if waited > PATIENCE:
            break

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            z = model(torch.from_numpy(check_array(x))).numpy()
        return labels[z.argmax(axis=1)] if classes else z[:, 0]

    return predict


EVERYBODY = {OURS: ours, SCIKIT_LEARN: scikit_learn, PYTORCH: pytorch}


def _same(seed: int) -> dict[str, Any]:
    """Parameters that MLPClassifier and our estimators have by the same names."""
    return {
        "hidden_layer_sizes": (HIDDEN,),
        "alpha": ALPHA,
        "batch_size": "auto",
        "learning_rate_init": LR,
        "max_iter": EPOCHS,
        "tol": TOL,
        "n_iter_no_change": PATIENCE,
        "random_state": seed,
    }


def _table(table: Table, threads: int, splits: Sequence[int], machine: Machine, seconds: float) -> list[Row]:
    x, y = table.load()
    if len(x) > MOST_ROWS:
        drawn = np.random.default_rng(0).choice(len(x), MOST_ROWS, replace=False)
        x, y = x[drawn], y[drawn]
    names = [name for name in EVERYBODY if name != PYTORCH or contenders.available("torch")]
    rows = {name: Row(table.name, name, len(x)) for name in names}
    with measure.on_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of runs that end before they converge
        turns, _, busy = measure.by_seed(
            lambda seed: _turns(table, x, y, names, seed, threads), splits, machine, "splits", seconds
        )
    for name, row in rows.items():
        row.fits, row.predictions, row.scores = (list(column) for column in zip(*(turn[name] for turn in turns)))
        row.busy = busy
    return list(rows.values())


def _turns(
    table: Table, x: np.ndarray, y: np.ndarray, names: Sequence[str], seed: int, threads: int
) -> dict[str, tuple[float, float, float]]:
    """Seconds to fit, seconds to predict, and the score of each, one after another, each after a rest."""
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    parts = train_test_split(x, y, test_size=HELD_OUT, random_state=seed, stratify=y if table.classes else None)
    x_train, x_held, y_train, y_held = parts
    scaler = StandardScaler().fit(x_train)
    x_train, x_held = (scaler.transform(part).astype(np.float32) for part in (x_train, x_held))
    if not table.classes:
        centre, spread = y_train.mean(), y_train.std() or 1.0
        y_train, y_held = ((part - centre) / spread for part in (y_train, y_held))
    score = accuracy_score if table.classes else r2_score
    results = {}
    for name in names:
        time.sleep(measure.REST)
        started = time.perf_counter()
        predict = EVERYBODY[name](x_train, y_train, table.classes, seed, threads)
        fitted = time.perf_counter() - started
        said, seconds = predict(x_held), measure.median_seconds(lambda: predict(x_held), PREDICTIONS)  # noqa: B023
        results[name] = fitted, seconds, float(score(y_held, said))
    return results


def _by_table(rows: Sequence[Row]) -> list[tuple[str, Row, list[Row]]]:
    """The rows of each table: ours, and the others."""
    found = []
    for table in dict.fromkeys(row.table for row in rows):
        here = [row for row in rows if row.table == table]
        found.append((table, next(r for r in here if r.contender == OURS), [r for r in here if r.contender != OURS]))
    return found


def _error(values: Any) -> float:
    """The standard error of a mean over the splits."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _scores_in_words(rows: Sequence[Row]) -> list[str]:
    """On how many tables our mean score is no lower than another's less its standard error."""
    lines = []
    for name in dict.fromkeys(row.contender for row in rows if row.contender != OURS):
        pairs = [(t, mine, row) for t, mine, theirs in _by_table(rows) for row in theirs if row.contender == name]
        below = [t for t, mine, row in pairs if np.mean(mine.scores) < np.mean(row.scores) - _error(row.scores)]
        besides = f"; it is lower on {', '.join(below)}" if below else ""
        lines.append(
            f"{OURS}'s score is at least that of {name} within a standard error on {len(pairs) - len(below)} of "
            f"{len(pairs)} tables{besides}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m backprop_xp.bench.estimators", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    known = {table.name: table for table in packaged()}
    parser.add_argument("--tables", metavar="A,B", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--splits", type=int, default=len(SPLITS), metavar="N", help="how many (default: 20)")
    parser.add_argument("--threads", type=int, metavar="N", help="of every contender (default: all processors)")
    parser.add_argument("--within", type=float, default=MOST_SECONDS, metavar="S", help="seconds (default: 600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, after every table")
    given = parser.parse_args(arguments)
    names = list(known) if given.tables is None else given.tables.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown tables {', '.join(unknown)}; known are {', '.join(known)}")
    if given.splits < 1:
        parser.error("--splits must be at least 1")
    try:
        workers = processors.count(given.threads)
    except ValueError as error:
        parser.error(f"--{error}")
    if given.json:
        check_outputs({"--json": given.json})

    def after(rows: list[Row]) -> None:
        print(rows[-1].table, flush=True)
        if given.json:
            replace_file(given.json, f"{as_json([asdict(row) for row in rows])}\n".encode())

    rows = run(
        [known[name] for name in names],
        workers,
        range(SPLITS.start, SPLITS.start + given.splits),
        seconds=given.within,
        after=after,
    )
    print("\n".join([report(rows), *claims(rows)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
