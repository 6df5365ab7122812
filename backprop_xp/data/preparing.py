"""From a table to arrays: what its columns are, which rows are for what, and what the training rows teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import inputs
from ..distributed import World
from ..distributed.world import EXCHANGE
from . import columns, frames, leaks, several, targets
from .cells import Cells, cells
from .dates import EITHER
from .errors import DataError
from .frames import Frame
from .kinds import Conventions, Kind, evidence
from .leaks import Feature
from .numerals import DECIMALS
from .parts import Part, dealt
from .reader import NOTES
from .settings import SPLIT, Recipe
from .several import Target
from .table import Table, feature
from .targets import TASKS, Classes
from .wording import listed, meant, quoted


@dataclass
class Prepared:
    """A table as arrays, and which of its rows are for what.

    Attributes:
        frame: the rows that have a target; where ranks have the table in parts, their targets alone.
        x: inputs of them, in parts of those from row ``start`` on that this rank has.
        y: targets of all of them.
        first, held: positions of the rows to train on, and of those held out.
        table, target: what was learnt from the former.
        notes: sentences about what is odd.
        test: the rows of another table, if those are the ones held out; ``x`` and ``y`` have them after the others, but
            for rows with a class that was not seen in training. ``asked`` are the inputs of all of them.
        world: the ranks that have the table in parts, None where this is all of it.
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
    asked: np.ndarray | None = None
    start: int = 0
    world: World | None = None

    def arrays(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of these rows, of which in parts only those that this rank has."""
        own = rows[(rows >= self.start) & (rows < self.start + len(self.x))]
        return self.x[own - self.start], self.y[own]

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """(m, width) inputs of these rows, which ascend, on every rank."""
        own, _ = self.arrays(rows)
        if self.world is None:
            return own
        return np.concatenate(self.world.gather(EXCHANGE, own.reshape(-1))).reshape(-1, self.table.width)

    def asked_of(self, which: np.ndarray) -> np.ndarray:
        """(m, width) inputs of those of the rows held out that stand at these positions."""
        return self.inputs(self.held[which]) if self.asked is None else self.asked[which]

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
        part: the rows that have every target, or this rank's part of them.
        truths: cells and kind of every target.
        used: the names of the columns to learn from.
        features: cells and kind of those of them that are here.
        notes: sentences about what is odd.
    """

    part: Part
    recipe: Recipe
    truths: list[Feature]
    used: list[str]
    features: dict[str, Feature]
    leaks_found: list[str]
    notes: list[str]

    @property
    def frame(self) -> Frame:
        """The rows that have every target; in parts their targets alone."""
        return self.part.columns if self.part.whole else self.part.columns[[cells.name for cells, _ in self.truths]]

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

        def learnt(name: str) -> tuple[dict[str, Any] | None, list[str]]:
            column, odd = columns.learn(*self.features[name], first)
            return None if column is None else column.describe(), odd

        described = self.part.each(self.used, learnt).values()
        found = ((None if column is None else columns.build(column), odd) for column, odd in described)
        table, odd = Table.of(found, self.leaks_found)
        target, frame = self.target(first), self.frame
        x, y = table.arrays(self.part.rows).astype(self.recipe.dtype), target.encode(target.of(frame))
        notes = [*self.notes, *odd]
        return Prepared(frame, x, y, first, held, table, target, notes, start=self.part.first, world=self.part.world)


def prepare(frame: Frame, column: Any, recipe: Recipe, world: World | None = None) -> Prepared:
    """Everything before the training, with the rows held out that the recipe says; see :func:`examine`."""
    examined = examine(frame, column, recipe, world)
    return examined.prepared(*_split(*examined.groups(), recipe))


def examine(frame: Frame, column: Any, recipe: Recipe, world: World | None = None) -> Examined:
    """What the columns of a table are.

    Args:
        column: the target's name, or the names of several.
        world: ranks, each of which is given some of the rows, rank 0 the first ones; without, the table is whole.
    """
    inputs.one_of("task", recipe.task, TASKS)
    for name, value, known in (("decimal", recipe.decimal, DECIMALS), ("dates", recipe.dates, EITHER)):
        if value is not None and value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    notes = list(getattr(frame, "attrs", {}).get(NOTES, ()))
    frame = frames.alike(frame) if world is None else frames.named(frame)
    wanted = target_names(frame, column)
    categories, ignore, keep = map(frames.names, (recipe.categories, recipe.ignore, recipe.keep))
    refuse_unknown(frame, [*wanted, *categories, *ignore, *keep])
    frame = frame.drop(columns=[name for name in ignore if name not in wanted])
    part = (Part(frame, frame) if world is None else dealt(world, frame, wanted)).alike(recipe.missing)
    every: dict[str, Cells] = {}

    def look(name: str) -> Any:
        every[name] = cells(part.columns[name], name)
        return (None, None) if name in categories else evidence(every[name])

    conventions = Conventions.of(part.each(frame.columns, look).values(), recipe.decimal, recipe.dates)
    kinds = {}
    for name in wanted:
        task = "classification" if name in categories and recipe.task == "auto" else recipe.task
        kinds[name] = targets.kind_of_target(every[name], task, conventions)
    absent: list[str] = []
    for name in wanted:
        present, note = with_target(cells(part.columns[name], name), kinds[name])
        if note:
            part = part.having(present)
            absent.append(note)
    if absent:
        every = {name: cells(part.columns[name], name) for name in every}
    truths: list[Feature] = [(every[name], kinds[name]) for name in wanted]
    features: dict[str, Feature] = {}

    def judge(name: str) -> list[leaks.Verdict | None]:
        features[name] = feature(every[name], conventions, name in categories, name in keep)
        return [None if name in keep else leaks.judged(name, features[name], truth) for truth in truths]

    verdicts = part.each([name for name in frame.columns if name not in wanted], judge)
    left_out, leaks_found = _leaks(verdicts, len(truths))
    used = [name for name in verdicts if name not in left_out]
    notes += absent
    for truth, kind in truths:
        notes += targets.notes(truth, kind)
    return Examined(part, recipe, truths, used, features, leaks_found, [*notes, *leaks_found])


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


def _leaks(verdicts: Mapping[str, Sequence[leaks.Verdict | None]], count: int) -> tuple[list[str], list[str]]:
    """The columns to leave out, and sentences about them, of what each column is to any of so many targets."""
    left_out: list[str] = []
    notes: list[str] = []
    for k in range(count):
        found, said = leaks.find({name: each[k] for name, each in verdicts.items()})
        left_out += [name for name in found if name not in left_out]
        notes += [note for note in said if note not in notes]
    return left_out, notes


def with_target(truth: Cells, kind: Kind) -> tuple[np.ndarray, str]:
    """Which rows have this target, (n,) bool, and a sentence about those that have none; "" where all have one."""
    column = truth.name
    absent = kind.missing(truth)
    if not absent.any():
        return ~absent, ""
    if absent.all():
        raise DataError(f"the target {quoted(column)} is missing in every row")
    row, written = truth.series.index[absent.argmax()], absent & ~truth.missing
    said = f", written {quoted(truth.series[written].iloc[0])}" if written.any() else ""
    rows = "1 row" if absent.sum() == 1 else f"{absent.sum()} rows"
    left = "is" if absent.sum() == 1 else "are"
    return ~absent, f"{rows} without {quoted(column)} {left} left out (the first is row {row}{said})"


def refuse_unknown(frame: Frame, names: Sequence[str], what: str = "the table") -> None:
    """Raise a DataError for a name that no column has; ``what`` is that of the table."""
    for name in names:
        if name not in frame.columns:
            hint = "; what separates columns can be said with --separator" if len(frame.columns) == 1 else ""
            asked = meant(name, frame.columns)
            raise DataError(f"{what} has no column {quoted(name)}{asked}; it has {listed(frame.columns)}{hint}")
