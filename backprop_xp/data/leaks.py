"""Columns that give the answer away instead of explaining it: copies of the target, and numbers of rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from .cells import NUMBER, TEXT, Cells
from .kinds import MOST_CATEGORIES, Kind
from .wording import option, quoted

FEWEST_ROWS = 10  # fewer may well be in order by chance
SORTED = "differs in each row and is sorted like the rows, as an index is"
_NAMELESS = re.compile(r"Unnamed: \d+(_level_\d+)?")


#: Cells, and what they are.
Feature = tuple[Cells, Kind]
COPY, OTHER, USED = "copy", "other", "used"
#: What a column is to the target, why, and how it would be used or left out; a list, as JSON has it.
Verdict = Sequence[str]


def judged(name: str, feature: Feature, target: Feature) -> Verdict | None:
    """What this column is to the target; None where nothing is suspicious."""
    if _same(*feature, *target):
        return [COPY, "equals the target", _keep(name, *feature)]
    if reason := _numbers_rows(name, *feature) or _stands_for_classes(feature[0], *target):
        return [OTHER, reason, _keep(name, *feature)]
    if _in_proportion(*feature, *target):
        return [USED, "gives the target exactly", f"; {option('--ignore', name)} leaves it out"]
    return None


def find(verdicts: Mapping[str, Verdict | None]) -> tuple[list[str], list[str]]:
    """The columns to leave out, and sentences about these and about others that are suspicious.

    What isn't the target itself is used all the same if nothing else is left: a line of measurements has just that.

    Args:
        verdicts: of every column; None as well for those that the user wants in spite of it.
    """
    copies, others, notes = [], [], []
    for name, verdict in verdicts.items():
        if verdict is None:
            continue
        what, reason, otherwise = verdict
        said = f"column {quoted(name)} {reason}"
        if what == COPY:
            copies.append(name)
            notes.append(f"{said} and is left out{otherwise}")
        elif what == USED:
            notes.append(f"{said}{otherwise}")
        else:
            others.append((name, said, otherwise))
    if len(copies) + len(others) == len(verdicts):
        return copies, notes + [said for _, said, _ in others]
    notes += [f"{said}, and is left out{otherwise}" for _, said, otherwise in others]
    return copies + [name for name, _, _ in others], notes


def _keep(name: str, cells: Cells, kind: Kind) -> str:
    possible = kind.kind != TEXT or len(cells.distinct) <= MOST_CATEGORIES
    return f"; {option('--keep', name)} uses it" if possible else ""


def _same(cells: Cells, kind: Kind, target: Cells, target_kind: Kind) -> bool:
    """Whether a column is the target by another name: the same numbers, or the same texts."""
    if kind.kind == target_kind.kind == NUMBER:
        return bool(np.array_equal(kind.values(cells), target_kind.values(target)))
    if target_kind.kind == NUMBER or cells.missing.any():
        return False
    ours, theirs = cells.labels(), target.labels()
    return set(ours.distinct) == set(theirs.distinct) and _texts(ours) == _texts(theirs)


def _texts(cells: Cells) -> list[str]:
    return [cells.distinct[code] for code in cells.codes]


def _numbers_rows(name: str, cells: Cells, kind: Kind) -> str | None:
    """Why this column is taken for one that numbers the rows; None if it isn't."""
    if kind.kind == TEXT:
        texts = _texts(cells) if len(cells) == len(cells.distinct) >= FEWEST_ROWS else []
        for order in (str, _by_numbers):
            if texts and texts in (sorted(texts, key=order), sorted(texts, key=order, reverse=True)):
                return SORTED
        return None
    if kind.kind != NUMBER or len(cells) < 2:
        return None
    values = kind.values(cells)
    steps = np.diff(np.sort(values))
    if np.isnan(values).any() or not steps.all():
        return None
    whole = bool((values == np.rint(values)).all())
    if whole and _NAMELESS.fullmatch(name):
        return "has no name, and a number of its own for each row"
    if len(values) < FEWEST_ROWS:
        return None
    if (np.diff(values) > 0).all() or (np.diff(values) < 0).all():
        return SORTED
    return "numbers the rows in another order" if whole and (steps == 1).all() else None


def _by_numbers(text: str) -> str:
    """What sorts A2 before A10."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), text)


def _stands_for_classes(cells: Cells, target: Cells, target_kind: Kind) -> str | None:
    """Why this column is taken for the classes in other words; two of them may fall together by nature."""
    if target_kind.kind == NUMBER or cells.missing.any() or len(cells) < FEWEST_ROWS:
        return None
    theirs = target.labels()
    pairs = len(np.unique(cells.codes * len(theirs.distinct) + theirs.codes))
    one_to_one = pairs == len(cells.distinct) == len(np.unique(theirs.codes)) > 2
    return "has a value of its own for each class" if one_to_one else None


def _in_proportion(cells: Cells, kind: Kind, target: Cells, target_kind: Kind) -> bool:
    """Whether the target is this number times a constant, plus another one: it may be the same in other units."""
    if not kind.kind == target_kind.kind == NUMBER or len(cells) < FEWEST_ROWS:
        return False
    x, y = kind.values(cells), target_kind.values(target)
    with np.errstate(all="ignore"):
        x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
        return bool(abs((x * y).mean()) > 1 - 1e-12)
