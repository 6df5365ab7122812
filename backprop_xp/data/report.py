"""What there is to say of a training: rows, inputs, scores beside what a constant gets, and classes one by one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .importance import importance
from .table import Table
from .targets import Classes
from .trained import Trained
from .wording import quoted

MOST_CLASSES = 20  # in the table of classes
MOST_COLUMNS = 5  # of those that matter most, and of the widest ones
UNEVEN = 1.5  # how many rows the commonest class has for each of the rarest, from which on plain accuracy misleads
RISE = 1.05  # of the loss on rows that weren't trained on, from its lowest to its last, that is worth a word


def lines(trained: Trained, seconds: float) -> Iterator[str]:
    """What a person is told, line by line, after a training that took ``seconds``."""
    yield rows(trained)
    yield inputs(trained.model.table)
    last = trained.history.epochs[-1]
    net = trained.model.net
    yield f"{net}: {last.number} epochs in {seconds:.2f} s, training loss {last.loss:.4g}"
    if trained.recipe.early_stopping:
        yield stopping(trained)
    yield f"held out: {trained.describe_score()}"
    yield f"held out: {trained.describe_baseline()}"
    target = trained.model.target
    for member, outputs, truth in target.parts(trained.outputs, trained.held_out):
        if isinstance(member, Classes):
            yield from classes(member, member.confusion(outputs, truth), len(target.columns) > 1)
    found = importance(trained)
    if found:
        best = ", ".join(f"{quoted(each.column)} {each.lost:.3g}" for each in found[:MOST_COLUMNS])
        yield f"columns that matter most, by the {target.scored} lost where they are shuffled: {best}"
    if said := overfitting(trained):
        yield f"note: {said}"


def rows(trained: Trained) -> str:
    """How many rows are for what."""
    counts = trained.counts
    deciding = f", {counts.deciding} to decide when it ends" if counts.deciding else ""
    return f"rows: {counts.trained} to train on{deciding}, {counts.held} held out{' in turn' * bool(trained.folds)}"


def inputs(table: Table) -> str:
    """How many numbers the columns make, and which make many."""
    widest = sorted((column for column in table.columns if column.width > 1), key=lambda column: -column.width)
    shown = ", ".join(f"{quoted(column.name)} {column.width}" for column in widest[:MOST_COLUMNS])
    columns = "1 column" if len(table.columns) == 1 else f"{len(table.columns)} columns"
    numbers = "1 input" if table.width == 1 else f"{table.width} inputs"
    return f"inputs: {columns}, {numbers}{f' ({shown})' if shown else ''}"


def stopping(trained: Trained) -> str:
    """When training ended, and whose parameters are kept."""
    history = trained.history
    why = f"ended early ({history.stopped})" if history.stopped else "went on to the last epoch"
    best = f"; the parameters are those after epoch {history.best}" if history.best else ""
    return f"training {why}{best}"


def classes(target: Classes, confusion: np.ndarray, named: bool) -> Iterator[str]:
    """Rows, precision and recall of every class; the mean recall first, where some classes have more rows."""
    counts, right = confusion.sum(axis=1), np.diagonal(confusion)
    said = confusion[:, :-1].sum(axis=0)
    there = counts > 0
    which = f"{target.column}: " if named else ""
    if uneven(counts[there]):
        mean = float((right[there] / counts[there]).mean())
        yield f"held out: {which}balanced accuracy {mean:.4f}, the mean of the classes' recall"
    order = list(np.flatnonzero(there | (said > 0)))
    left_out = max(0, len(order) - MOST_CLASSES)
    if left_out:  # the worst
        order.sort(key=lambda k: (right[k] / max(counts[k], 1), k))
    shown = order[:MOST_CLASSES]
    names = [_short(target.labels[k]) for k in shown]
    width = max(len("class"), *map(len, names))
    if named:
        yield f"{target.column}:"
    yield f"{'class':{width}}  rows  precision  recall"
    for name, k in zip(names, shown):
        yield f"{name:{width}}  {counts[k]:4}  {_share(right[k], said[k]):>9}  {_share(right[k], counts[k]):>6}"
    if left_out:
        yield f"... and {left_out} classes with more recall"


def uneven(counts: np.ndarray) -> bool:
    """Whether the numbers of rows of the classes differ so much that accuracy says little of the rare ones."""
    return len(counts) > 1 and bool(counts.max() > UNEVEN * counts.min())


def overfitting(trained: Trained) -> str:
    """A sentence where the loss on rows that weren't trained on has risen; empty where it hasn't.

    Early stopping has put the best parameters back, so that there is nothing to say.
    """
    if trained.recipe.early_stopping or not trained.counts.held:
        return ""
    epochs, losses = trained.held_out_losses()
    if not np.isfinite(losses).all():
        return ""
    best = int(losses.argmin())
    if losses[-1] <= RISE * losses[best]:
        return ""
    return (
        f"the loss on held-out rows rose from {losses[best]:.4g} after epoch {epochs[best]} to {losses[-1]:.4g}: the "
        "net may learn its rows by heart; try --early-stopping, fewer --epochs, --dropout or more --weight-decay"
    )


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:21]}..."


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.4f}" if whole else "-"
