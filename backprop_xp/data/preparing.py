"""From a table to arrays: what its columns are, which rows are for what, and what the training rows teach."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import inputs
from ..messages import nearest
from . import frames, leaks, several, targets
from .cells import Cells
from .dates import EITHER
from .errors import DataError
from .frames import Frame
from .kinds import Conventions, Kind
from .leaks import Features
from .numerals import DECIMALS
from .reader import NOTES
from .settings import SPLIT, Recipe
from .several import Target
from .table import Table, columns_of, kinds_of
from .targets import TASKS, Classes
from .wording import listed, quoted


@dataclass
class Prepared:
    """A table as arrays, and which of its rows are for what.

    Attributes:
        frame: the rows that have a target.
        x, y: inputs and targets of all of them.
        first, held: positions of the rows to train on, and of those held out.
        table, target: what was learnt from the former.
        notes: sentences about what is odd.
        test: the rows of another table, if those are the ones held out; ``x`` and ``y`` have them after the others, but
            for rows with a class that was not seen in training.
    """

    frame: Frame
    x: np.ndarray
    y: np.ndarray
    first: np.ndarray
    held: np.ndarray
    table: Table
    target: Target
    notes: list[str]
    test: Frame | None = None

    @property
    def held_out(self) -> Frame:
        """The rows that are held out."""
        return self.frame.iloc[self.held] if self.test is None else self.test

    def parted(self, share: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the rows to train on without this share of each class, and of that share."""
        held = shares(groups_of(self.target, self.y)[self.first], share, random)
        return np.delete(self.first, held), self.first[held]


@dataclass
class Examined:
    """A table whose columns are known, before it is said which rows are for what.

    Attributes:
        frame: the rows that have every target.
        truths: cells and kind of every target.
        features: cells and kind of every column to learn from.
        notes: sentences about what is odd.
    """

    frame: Frame
    recipe: Recipe
    truths: list[tuple[Cells, Kind]]
    features: Features
    left_out: list[str]
    leaks_found: list[str]
    notes: list[str]

    @property
    def columns(self) -> list[str]:
        return [cells.name for cells, _ in self.truths]

    def target(self, rows: np.ndarray) -> Target:
        """The target, whose means and scales come from these rows alone."""
        return several.together(
            [targets.learn(self.frame, cells.name, rows, self.recipe.task, kind) for cells, kind in self.truths]
        )

    def groups(self) -> tuple[np.ndarray, Target]:
        """(n,) the class of every row, see :func:`groups_of`, and the target as all rows show it."""
        target = self.target(np.arange(len(self.frame)))
        return groups_of(target, target.encode(target.of(self.frame))), target

    def prepared(self, first: np.ndarray, held: np.ndarray) -> Prepared:
        """Arrays, for training on the rows ``first``."""
        used = {name: found for name, found in self.features.items() if name not in self.left_out}
        table, odd = Table.of(used, first, self.leaks_found)
        target = self.target(first)
        x, y = table.arrays(self.frame).astype(self.recipe.dtype), target.encode(target.of(self.frame))
        return Prepared(self.frame, x, y, first, held, table, target, [*self.notes, *odd])


def prepare(frame: Frame, column: Any, recipe: Recipe) -> Prepared:
    """Everything before the training, with the rows held out that the recipe says."""
    examined = examine(frame, column, recipe)
    return examined.prepared(*_split(*examined.groups(), recipe))


def examine(frame: Frame, column: Any, recipe: Recipe) -> Examined:
    """What the columns of a table are.

    Args:
        column: the target's name, or the names of several.
    """
    inputs.one_of("task", recipe.task, TASKS)
    for name, value, known in (("decimal", recipe.decimal, DECIMALS), ("dates", recipe.dates, EITHER)):
        if value is not None and value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    notes = list(getattr(frame, "attrs", {}).get(NOTES, ()))
    frame = frames.alike(frame, recipe.missing)
    wanted = target_names(frame, column)
    categories, ignore, keep = map(frames.names, (recipe.categories, recipe.ignore, recipe.keep))
    refuse_unknown(frame, [*wanted, *categories, *ignore, *keep])
    frame = frame.drop(columns=[name for name in ignore if name not in wanted])
    every = columns_of(frame)
    shown = [cells for name, cells in every.items() if name not in categories]
    conventions = Conventions.of(shown, recipe.decimal, recipe.dates)
    kinds = {}
    for name in wanted:
        task = "classification" if name in categories and recipe.task == "auto" else recipe.task
        kinds[name] = targets.kind_of_target(every[name], task, conventions)
    for name in wanted:
        frame, absent = with_target(frame, columns_of(frame[[name]])[name], kinds[name])
        notes += absent
        every = columns_of(frame) if absent else every
    truths = [(every.pop(name), kinds[name]) for name in wanted]
    features = kinds_of(every, categories, conventions, keep)
    left_out, leaks_found = _leaks(features, truths, keep)
    for cells, kind in truths:
        notes += targets.notes(cells, kind)
    return Examined(
        frame,
        recipe,
        truths,
        features,
        left_out,
        leaks_found,
        [*notes, *leaks_found],
    )


def target_names(frame: Frame, column: Any) -> tuple[str, ...]:
    """The names of the targets: of one column, or of each in a list."""
    if frames.name(column) in frame.columns:
        return (frames.name(column),)
    found = frames.names(column)
    if not found:
        raise ValueError("the target must be a column, or several")
    if twice := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"the target {quoted(min(twice))} is named twice")
    return found


def split(frame: Frame, column: str, recipe: Recipe, kind: Kind | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to train on and of those held out, in which every class has its share."""
    inputs.one_of("task", recipe.task, TASKS)
    target = targets.learn(frame, column, np.arange(len(frame)), recipe.task, kind)
    return _split(groups_of(target, target.encode(frame[column])), target, recipe)


def folds(groups: np.ndarray, count: int, random: np.random.Generator) -> list[np.ndarray]:
    """Positions of the rows of ``count`` parts; every row is in one, and every class in as many as can be.

    Args:
        groups: (n,) the class of every row.

    Raises:
        DataError: there are fewer rows than parts.
    """
    if len(groups) < count:
        raise DataError(f"{len(groups)} rows are too few for {count} folds")
    order = np.concatenate([random.permutation(np.flatnonzero(groups == group)) for group in np.unique(groups)])
    return [np.sort(order[k::count]) for k in range(count)]


def groups_of(target: Target, y: np.ndarray) -> np.ndarray:
    """(n,) the class of every row of these encoded targets; of several targets that of the first."""
    if isinstance(target, Classes):
        return y
    if isinstance(target, several.Several) and target.of_classes:
        return y[:, : target.members[0].outputs].argmax(axis=1)
    return np.zeros(len(y), np.int64)


def shares(groups: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Positions of this share of each group's rows, in order; at least one of each is left."""
    everything = np.arange(len(groups))
    held = []
    for group in np.unique(groups):
        members = random.permutation(everything[groups == group])
        held.append(members[: min(round(share * len(members)), len(members) - 1)])
    return np.sort(np.concatenate(held))


def _split(groups: np.ndarray, target: Target, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    held = shares(groups, recipe.validation, recipe.random(SPLIT))
    if not len(held):
        reason = f" if each of {len(target.labels)} classes has its share" if isinstance(target, Classes) else ""
        raise DataError(f"{len(groups)} rows are too few to hold {recipe.validation:.0%} out{reason}")
    return np.setdiff1d(np.arange(len(groups)), held), held


def _leaks(
    features: Features, truths: Sequence[tuple[Cells, Kind]], keep: Collection[str]
) -> tuple[list[str], list[str]]:
    """The columns to leave out, and sentences about them, for any of the targets."""
    left_out: list[str] = []
    notes: list[str] = []
    for truth in truths:
        found, said = leaks.find(features, truth, keep)
        left_out += [name for name in found if name not in left_out]
        notes += [note for note in said if note not in notes]
    return left_out, notes


def with_target(frame: Frame, truth: Cells, kind: Kind) -> tuple[Frame, list[str]]:
    """The rows that have a target, and a sentence about those that have none."""
    column = truth.name
    absent = kind.missing(truth)
    if not absent.any():
        return frame, []
    if absent.all():
        raise DataError(f"the target {quoted(column)} is missing in every row")
    row, written = frame.index[absent.argmax()], absent & ~truth.missing
    said = f", written {quoted(truth.series[written].iloc[0])}" if written.any() else ""
    rows = "1 row" if absent.sum() == 1 else f"{absent.sum()} rows"
    left = "is" if absent.sum() == 1 else "are"
    return frame[~absent], [f"{rows} without {quoted(column)} {left} left out (the first is row {row}{said})"]


def refuse_unknown(frame: Frame, names: Sequence[str], what: str = "the table") -> None:
    """Raise a DataError for a name that no column has; ``what`` is that of the table."""
    for name in names:
        if name not in frame.columns:
            meant = nearest(name, frame.columns)
            asked = "" if meant is None else f" (did you mean {quoted(meant)}?)"
            hint = "; what separates columns can be said with --separator" if len(frame.columns) == 1 else ""
            raise DataError(f"{what} has no column {quoted(name)}{asked}; it has {listed(frame.columns)}{hint}")
