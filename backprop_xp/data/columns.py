"""A column's recipe: what it is, and what the training rows taught about it; as numbers for a net.

Each kind of column learns from cells, encodes other cells alike, and is described in JSON's terms.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from ..exchange.container import ModelFileError, as_object, field, short_text
from . import dates, scaling
from .cells import MOMENT, NUMBER, TEXT, Cells
from .errors import DataError
from .kinds import MOST_CATEGORIES, Kind
from .numerals import DECIMALS, GROUPS, PLAIN, Notation
from .scaling import Scaling
from .wording import listed, option, quoted

MANY_CATEGORIES = 20  # from which on a name of its own in nearly every row is refused
SOME_CATEGORIES = 5  # from which on names that few rows have are noted
NEARLY_ALL = 0.9


class Number(NamedTuple):
    """A column, scaled; a missing value takes the mean."""

    name: str
    scaling: Scaling
    notation: Notation = PLAIN

    @property
    def width(self) -> int:
        return 1

    def encode(self, cells: Cells) -> np.ndarray:
        """(n, 1) float64."""
        values = self.scaling(Kind(NUMBER, self.notation).values(cells))
        return np.where(np.isnan(values), 0.0, values)[:, None]

    def describe(self) -> dict[str, Any]:
        return {"column": self.name, **self.scaling.describe(), "notation": asdict(self.notation)}


class Category(NamedTuple):
    """A column that is one-hot: one place for each of the labels, and one for a missing value if there were any.

    What was not seen in training is refused, or, if the column is ``lenient``, in none of these places.
    """

    name: str
    labels: tuple[str, ...]
    missing: bool
    lenient: bool = False

    @property
    def width(self) -> int:
        return len(self.labels) + self.missing

    def encode(self, cells: Cells) -> np.ndarray:
        """(n, width) float64."""
        cells = cells.labels()
        places: dict[str, int] = {label: i for i, label in enumerate(self.labels)}
        last = len(self.labels) if self.missing else -1
        positions = np.array([*(places.get(label, -1) for label in cells.distinct), last], np.int64)[cells.codes]
        unseen = positions < 0
        if unseen.any() and not self.lenient:
            known = listed(self.labels, 10)
            raise DataError(f"{cells.show(unseen)} was not seen in training; known are {known}", unseen)
        result = np.zeros((len(cells), self.width))
        result[np.flatnonzero(~unseen), positions[~unseen]] = 1
        return result

    def describe(self) -> dict[str, Any]:
        return {"column": self.name, "labels": list(self.labels), "missing": self.missing}


class Moment(NamedTuple):
    """A column of dates or times: lines, each scaled, and circles, each sine and cosine.

    A missing value takes the mean of lines and the middle of circles.
    """

    name: str
    form: str
    lines: tuple[tuple[str, Scaling], ...]
    circles: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.lines) + 2 * len(self.circles)

    def encode(self, cells: Cells) -> np.ndarray:
        """(n, width) float64."""
        moments = Kind(MOMENT, form=self.form).values(cells)
        known = ~np.isnan(moments)
        result = np.zeros((len(cells), self.width))
        columns = [scaled(dates.LINES[line](moments[known])) for line, scaled in self.lines]
        columns += [turn(moments[known]) for circle in self.circles for turn in dates.CIRCLES[circle]]
        result[known] = np.stack(columns, axis=1)
        return result

    def describe(self) -> dict[str, Any]:
        lines = [{"line": line, **scaled.describe()} for line, scaled in self.lines]
        return {"column": self.name, "form": self.form, "lines": lines, "circles": list(self.circles)}


Column = Number | Category | Moment


def learn(cells: Cells, kind: Kind, rows: np.ndarray) -> tuple[Column | None, list[str]]:
    """The recipe of a column of this kind, None if it is constant, and sentences about whatever is odd.

    Args:
        rows: positions of the rows to train on: means and scales come from them alone.
    """
    column, notes = _LEARN[kind.kind](cells, kind, rows)
    if column is None:
        return None, [f"column {quoted(cells.name)} is constant and left out"]
    return column, [f"column {quoted(cells.name)}{'' if note[0] == ':' else ' '}{note}" for note in notes]


def build(saved: Any) -> Column:
    """What a column's ``describe`` described; from a file, which may hold anything."""
    name = short_text(as_object(saved, "its columns"), "column")
    if "labels" in saved:
        return Category(name, texts(saved, "labels"), field(saved, "missing", bool))
    if "form" in saved:
        lines = [(short_text(line, "line"), scaling.build(line)) for line in _lines(saved)]
        form, circles = short_text(saved, "form"), texts(saved, "circles")
        unknown = {form} - dates.FORMS.keys() | {line for line, _ in lines} - dates.LINES.keys()
        if unknown := unknown | set(circles) - dates.CIRCLES.keys():
            raise ModelFileError(f"its dates hold {listed(sorted(unknown), 3)}, which this version doesn't know")
        if not lines and not circles:
            raise ModelFileError("its dates must have lines or circles")
        return Moment(name, form, tuple(lines), circles)
    return Number(name, scaling.build(saved), notation(saved))


def notation(saved: dict[str, Any]) -> Notation:
    """A description's notation; older files have none, and were trained on what pandas took for numbers."""
    if "notation" not in saved:
        return Notation(truth=True)
    part = field(saved, "notation", dict)
    marks = {key: short_text(part, key) for key in ("decimal", "thousands", "front", "back")}
    if marks["decimal"] not in DECIMALS or marks["thousands"] not in ("", *GROUPS):
        raise ModelFileError("its notation must have a mark before decimals and one between thousands")
    return Notation(**marks, multiples=field(part, "multiples", bool), truth=field(part, "truth", bool))


def texts(saved: dict[str, Any], key: str) -> tuple[str, ...]:
    """A part of a description that is a list of different texts."""
    labels = field(saved, key, list)
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        raise ModelFileError(f"{key!r} of its description must be different texts")
    return tuple(labels)


def _lines(saved: dict[str, Any]) -> list[dict[str, Any]]:
    return [as_object(line, "the lines of its dates") for line in field(saved, "lines", list)]


def _learn_number(cells: Cells, kind: Kind, rows: np.ndarray) -> tuple[Number | None, list[str]]:
    values = kind.values(cells)
    if merged := cells.merged(values):
        raise DataError(
            f"column {quoted(cells.name)}: {listed(merged)} are one number in float64; take them as names with "
            f"{option('--categories', cells.name)}, or leave them out with {option('--ignore', cells.name)}"
        )
    learnt = scaling.learn(values[rows], cells.name)
    if learnt is None:
        return None, []
    notes = [f": {note}" for note in kind.notes]
    if missing := _missing(cells, kind.missing(cells)):
        notes.append(f": {missing} take the mean, {learnt.mean:.6g}")
    return Number(cells.name, learnt, kind.notation), notes


def _learn_moment(cells: Cells, kind: Kind, rows: np.ndarray) -> tuple[Moment | None, list[str]]:
    moments = kind.values(cells)
    some = moments[rows][~np.isnan(moments[rows])]
    learnt = ((name, scaling.learn(line(some), cells.name)) for name, line in dates.LINES.items())
    lines = [(name, found) for name, found in learnt if found is not None]
    circles = [name for name, turns in dates.CIRCLES.items() if any(np.ptp(t(some)) > 0 for t in turns if len(some))]
    if not lines and not circles:
        return None, []
    notes = [f": {note}" for note in kind.notes]
    if missing := _missing(cells, kind.missing(cells)):
        notes.append(f": {missing} take the mean")
    return Moment(cells.name, kind.form, tuple(lines), tuple(circles)), notes


def _learn_category(cells: Cells, kind: Kind, rows: np.ndarray) -> tuple[Category | None, list[str]]:
    cells = cells.labels()
    labels = sorted(label for label, count in cells.counts().items() if count)
    missing = cells.missing.any()
    if len(labels) + missing < 2:
        return None, []
    notes = list(kind.notes)
    present = int((~cells.missing).sum())
    advice = f"leave it out with {option('--ignore', cells.name)}"
    if len(labels) > MOST_CATEGORIES:
        raise DataError(
            f"column {quoted(cells.name)} has {len(labels)} different texts; {MOST_CATEGORIES} are possible: {advice}"
        )
    if len(labels) > MANY_CATEGORIES and len(labels) >= NEARLY_ALL * present and not cells.named:
        every = "every row" if len(labels) == present else f"nearly every row ({len(labels)} in {present})"
        raise DataError(f"column {quoted(cells.name)} has a different text in {every}: {advice}")
    if len(labels) > SOME_CATEGORIES and 2 * len(labels) > present:
        notes.append(f"has {len(labels)} different texts in {present} rows: few rows show what each one means")
    if missing:
        notes.append(f": {_missing(cells, cells.missing)} are a category of their own")
    return Category(cells.name, tuple(labels), bool(missing)), notes


_LEARN: dict[str, Any] = {NUMBER: _learn_number, MOMENT: _learn_moment, TEXT: _learn_category}


def _missing(cells: Cells, missing: np.ndarray) -> str:
    """How many values are missing, where the first is, and as which text; empty if none is."""
    if not missing.any():
        return ""
    count, first = int(missing.sum()), int(missing.argmax())
    said = "" if cells.missing[first] else f"{quoted(cells.distinct[cells.codes[first]])}, "
    return f"{count} missing value{'s' if count > 1 else ''} ({said}the first in row {cells.series.index[first]})"
