"""From a table to a trained model, and how good it is on rows that it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend import NUMPY
from ..distributed import World
from ..distributed.world import TABLE
from ..graph import GraphNet
from ..keywords import known_options
from ..net import Net
from ..numbers import flag
from ..training import DivergedError, History, evaluate
from ..training.fit import AT_ONCE
from ..training.shards import parted_world
from . import choice, frames, nets
from .cells import cells
from .errors import DataError
from .frames import Frame
from .importance import looked_at
from .model import Model, digest
from .preparing import Examined, Prepared, examine, folds, prepare, refuse_unknown, split, with_target
from .reader import NOTES
from .settings import SPLIT, STOPPING, Recipe
from .table import refusals, where_possible
from .targets import Amount
from .trained import Counts, Trained

__all__ = ["Prepared", "Recipe", "Trained", "fit_options", "new_net", "prepare", "split", "train"]


DEFAULT = Recipe()


@known_options
def train(
    frame: Frame,
    column: Any,
    recipe: Recipe = DEFAULT,
    progress: bool | None = None,
    test: Frame | None = None,
    world: World | None = None,
    shards: bool = False,
) -> Trained:
    """Train a net to tell this column from the others.

    Args:
        frame: a table as :func:`read` gives it, or one of your own: a pandas.DataFrame, whose texts are read as those
            of a file, an array or a sparse matrix.
        column: the target's name, or the names of several targets.
        test: another table, whose rows are those held out; the net is then trained on all rows of ``frame``.
        world: ranks that share out every batch; each is given the same table, and the same ``test``.
        shards: each is given some of the table's rows, as :func:`read` gives them with ``world``, rank 0 the first
            ones. What comes of it has the bits of one rank that is given all of them; of the rows held out,
            ``held_out`` has the targets alone.

    Raises:
        DataError: the table can't be used; the message says where.
    """
    parted = parted_world(world) if flag("shards", shards) else None
    if test is not None and recipe.folds:
        raise ValueError("folds hold every row out once: give folds, or a table to test with")
    if recipe.folds:
        return _in_folds(examine(frame, column, recipe, parted), recipe, progress, world)
    if test is None:
        return _run(prepare(frame, column, recipe, parted), recipe, progress, world)
    examined = examine(frame, column, recipe, parted)
    data = examined.prepared(np.arange(len(examined.frame)), np.arange(0))
    return _run(_with_test(data, test, recipe), recipe, progress, world)


def new_net(data: Prepared, recipe: Recipe) -> Net | GraphNet:
    """The net, untrained."""
    return nets.net_of(
        data.table.width,
        recipe.widths,
        data.target.outputs,
        recipe.activation,
        residual=recipe.residual,
        dropout=recipe.dropout,
        normalisation=recipe.normalisation,
        loss=data.target.loss(data.y[data.first], recipe.balanced),
        dtype=recipe.dtype,
        rng=recipe.seed,
        backend=recipe.backend,
        init="glorot_uniform",
        reduction="mean",
    )


def fit_options(recipe: Recipe) -> dict[str, Any]:
    """What ``net.fit`` is told."""
    return {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "optimiser": recipe.new_optimiser(),
        "schedule": recipe.schedule,
        "seed": recipe.seed,
        "early_stopping": recipe.early_stopping,
    }


def _run(data: Prepared, recipe: Recipe, progress: bool | None, world: World | None, fold: int = 0) -> Trained:
    """Train on the rows ``first``, and ask the net about those held out."""

    def trial(part: Prepared, other: Recipe, judges: np.ndarray) -> float:
        try:
            net = _fit(part, other, progress, world)[0]
        except DivergedError:
            return float("inf")
        return evaluate(net, *data.arrays(judges), world=data.world)

    recipe, chosen = choice.settled(data, recipe, trial)
    net, history, counts = _fit(data, recipe, progress, world)
    trained_on = digest(data.inputs(rows) for rows in _blocks(len(data.frame)))
    model = Model(net, data.table, data.target, frames.names(recipe.missing), trained_on)
    held_out = data.held_out
    sample = data.asked_of(looked_at(data.table, len(held_out), recipe, fold)[0])
    baseline = data.target.baseline(data.y[data.first])
    notes = [*data.notes, *chosen]
    return Trained(model, history, held_out, _outputs(net, data), sample, notes, recipe, counts, baseline)


def _blocks(rows: int) -> Iterator[np.ndarray]:
    """The positions of so many rows, some at a time."""
    return (np.arange(start, min(rows, start + AT_ONCE)) for start in range(0, rows, AT_ONCE))


def _outputs(net: Net | GraphNet, data: Prepared) -> np.ndarray:
    """(n, outputs) for the rows held out."""
    nothing = np.zeros((0, data.target.outputs), net.dtype)
    blocks = _blocks(len(data.held_out))
    return np.concatenate([nothing, *(NUMPY.take(net(data.asked_of(rows))) for rows in blocks)])


def _fit(
    data: Prepared, recipe: Recipe, progress: bool | None, world: World | None
) -> tuple[Net | GraphNet, History, Counts]:
    net = new_net(data, recipe)
    first, judges = data.first, data.held
    if recipe.early_stopping:
        first, judges = data.parted(recipe.validation, recipe.random(STOPPING))
        if not len(judges):
            raise DataError(f"{len(data.first)} rows are too few to take {recipe.validation:.0%} for early stopping")
    validation = data.arrays(judges) if len(judges) else None
    options = fit_options(recipe) | {"validation": validation, "progress": progress}
    history = net.fit(*data.arrays(first), world=world, shards=data.world is not None, **options)
    deciding = len(judges) if recipe.early_stopping else 0
    return net, history, Counts(len(data.frame), len(first), deciding, len(data.held_out))


def _in_folds(examined: Examined, recipe: Recipe, progress: bool | None, world: World | None) -> Trained:
    """Hold every row out once, and train on all of them in the end."""
    assert recipe.folds is not None
    groups, _ = examined.groups()
    everything = np.arange(len(groups))
    parts = folds(groups, recipe.folds, recipe.random(SPLIT))
    runs = [
        _run(examined.prepared(np.setdiff1d(everything, held), held), recipe, progress, world, k)
        for k, held in enumerate(parts)
    ]
    last = _run(examined.prepared(everything, np.arange(0)), recipe, progress, world)
    target = last.model.target
    outputs = np.zeros((len(groups), target.outputs), recipe.dtype)
    for held, run in zip(parts, runs):
        outputs[held] = target.from_units_of(run.model.target, run.outputs)
    counts = replace(last.counts, held=len(groups))
    return replace(last, held_out=examined.frame, outputs=outputs, counts=counts, folds=runs)


def _with_test(data: Prepared, test: Frame, recipe: Recipe) -> Prepared:
    """The rows of another table as those held out, where they can be used."""
    notes = [f"test: {note}" for note in getattr(test, "attrs", {}).get(NOTES, ())]
    test = frames.alike(test, recipe.missing)
    refuse_unknown(test, data.target.columns, "the table to test with")
    for member, _, _ in data.target.parts(data.y[:0], test):
        present, note = with_target(cells(test[member.column], member.column), member.kind)
        test = test[present]
        notes += [f"test: {note}"] if note else []
    try:
        for member, _, truth in data.target.parts(data.y[:0], test):
            if isinstance(member, Amount):
                member.truth(truth)  # where it is no number there is no score; a class may be new
        x, left, refused = where_possible(data.table.arrays, test)
        notes += [f"test: no answer for {refusal}" for refusal in refusals(refused, test)]
        test = test.iloc[left]
        y, known, _ = where_possible(lambda frame: data.target.encode(data.target.of(frame)), test)
    except DataError as error:
        raise DataError(f"the table to test with: {error}") from None
    n, x = len(data.y), x.astype(data.x.dtype)
    seen = _found_in(*data.arrays(np.arange(n)), x[known], y)
    again = sum(map(any, zip(*([seen] if data.world is None else data.world.told(TABLE, seen)))))
    if 2 * again > len(known):
        notes.append(f"test: {again} of {len(known)} rows are the same as rows that are trained on")
    return replace(
        data,
        x=np.concatenate([data.x, x[known]]) if data.start + len(data.x) == n else data.x,
        y=np.concatenate([data.y, y]),
        held=np.arange(n, n + len(known)),
        test=test,
        asked=x,
        notes=[*data.notes, *notes],
    )


def _found_in(x: np.ndarray, y: np.ndarray, other_x: np.ndarray, other_y: np.ndarray) -> list[bool]:
    """Which of the other rows, (m, width), and their targets are among these, (n, width)."""
    seen = {(a.tobytes(), b.tobytes()) for a, b in zip(x, y)}
    return [(a.tobytes(), b.tobytes()) in seen for a, b in zip(other_x, other_y)]
