"""Labels of any kind, and the numbers that nets learn in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from .. import frames

NUMBERS = "biuf"  # kinds of dtypes


@dataclass(frozen=True)
class Labels:
    """The classes that samples are of.

    Attributes:
        classes: (classes,) in ascending order; for ``several`` 0, 1, ..., a label a column.
        several: whether a sample may have any number of labels: y is then (n, classes) of 0 and 1.
    """

    classes: np.ndarray
    several: bool

    @classmethod
    def of(cls, y: np.ndarray) -> Labels:
        """The labels in :func:`natural` targets."""
        if y.ndim == 2:
            return cls(np.arange(y.shape[1]), True)
        return cls(_distinct(y), False)

    @property
    def binary(self) -> bool:
        """Whether one number says which label a sample has."""
        return not self.several and len(self.classes) <= 2

    def codes(self, y: np.ndarray) -> np.ndarray:
        """Places in ``classes``, (n,) int64; or where a sample may have several labels (n, classes) of 0 and 1.

        Raises:
            ValueError: other labels.
        """
        if self.several != (y.ndim == 2) or (self.several and y.shape[1] != len(self.classes)):
            wanted = f"(n, {len(self.classes)})" if self.several else "(n,)"
            raise ValueError(f"y must be {wanted}, as in the first call, got {y.shape}")
        if self.several:
            return (y != 0).astype(np.int64)
        numbers = y.dtype.kind in NUMBERS and self.classes.dtype.kind in NUMBERS
        if not numbers and {y.dtype.kind, self.classes.dtype.kind} != {"U"}:
            places = {label: i for i, label in enumerate(self.classes.tolist())}
            codes = np.array([places.get(label, -1) for label in y.tolist()], np.int64)
        else:
            codes = np.searchsorted(self.classes, y).clip(0, len(self.classes) - 1).astype(np.int64)
            codes[self.classes[codes] != y] = -1
        if (codes < 0).any():
            unknown = _distinct(y[codes < 0]).tolist()
            raise ValueError(f"y has labels that are none of the classes {self.classes.tolist()}: {unknown}")
        return codes


def natural(y: np.ndarray) -> np.ndarray:
    """Targets of a classification as scikit-learn has them: (n,) labels, or (n, labels) of 0 and 1.

    Arrays of objects become arrays of what they hold, if it is of one kind. A single column is its elements.

    Raises:
        ValueError: amounts, not labels; or several columns of anything but 0 and 1.
    """
    if y.dtype == object and not (y.size and isinstance(y.flat[0], str)):
        plain = np.array(y.tolist())
        if plain.shape == y.shape and plain.dtype.kind in "biufM":
            y = plain
    if (nothing := _missing(y)) is not None:
        raise ValueError(f"y must hold a label for each sample, got {nothing}")
    if y.dtype != object or y.ndim == 2:
        check_classification_targets(y)
    if y.ndim == 2 and type_of_target(y) != "multilabel-indicator":
        raise ValueError(
            f"y holds {y.shape[1]} columns of labels; several columns must say by 0 and 1 which labels a sample has "
            "(for one label in each column: sklearn.multioutput.MultiOutputClassifier)"
        )
    return y


def right(said: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which answers are those of :func:`natural` targets, (n,); of several labels a sample, all must be."""
    if y.ndim == 2 or said.ndim == 2:
        return (said == y).all(axis=1)
    return np.array([a == b for a, b in zip(said.tolist(), y.tolist())])


def _missing(y: np.ndarray) -> str | None:
    """What stands for a missing label, None if there is nothing of the kind."""
    if y.dtype.kind == "f":
        return "NaN" if np.isnan(y).any() else None
    if y.dtype.kind in "mM":
        return "NaT" if np.isnat(y).any() else None
    found = (value for value in (y.flat if y.dtype == object else ()) if frames.is_nothing(value) or value != value)
    return next(map(repr, found), None)


def _distinct(y: np.ndarray) -> np.ndarray:
    """Each label once, in ascending order."""
    if y.dtype != object:
        return np.unique(y)
    try:
        every = set(y.tolist())
        found = sorted(every)
    except TypeError as error:
        if "unhashable" in str(error) or len({type(label) for label in every}) > 1:
            raise TypeError(f"the labels in y must be of one kind, such as texts or numbers: {error}") from None
        found = sorted(every, key=str)  # of a kind that has no order, such as members of an Enum
    result = np.empty(len(found), object)
    result[:] = found
    return result


def same(classes: np.ndarray, others: Any) -> bool:
    """Whether these are the same labels, in whatever order."""
    return set(classes.tolist()) == set(np.asarray(others).tolist())
