"""What a net is to say: one of several classes, or an amount; as targets for training, and back as answers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..exchange.container import ModelFileError, number, short_text
from .errors import DataError
from .sets import Frame
from .table import Series, as_labels, as_numbers, kind_of, texts

MOST_WHOLE_NUMBERS = 20  # that are taken as names of classes
TASKS = ("auto", "classification", "regression")


@dataclass(frozen=True)
class Classes:
    """One of these labels."""

    column: str
    labels: tuple[str, ...]

    loss: ClassVar[str] = "softmax_cross_entropy"

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def encode(self, series: Series) -> np.ndarray:
        """(n,) indices."""
        places: dict[str | None, int] = {label: i for i, label in enumerate(self.labels)}
        indices = [places.get(label, -1) for label in as_labels(series)]
        if -1 in indices:
            position = indices.index(-1)
            raise DataError(
                f"row {series.index[position]}, column {self.column!r}: {series.iloc[position]!r} was not seen in "
                f"training; known are {', '.join(self.labels[:10])}{', ...' if len(self.labels) > 10 else ''}"
            )
        return np.array(indices, np.int64)

    def answers(self, outputs: np.ndarray) -> dict[str, Any]:
        """Columns: the label, None where an output is NaN or infinite, and its probability."""
        said = self.said(outputs)
        labels = [*self.labels, None]
        _warn_of_no_answer(said < len(self.labels))
        with np.errstate(invalid="ignore"):  # of infinite outputs
            shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            probability = shifted.max(axis=1) / shifted.sum(axis=1)
        return {self.column: [labels[k] for k in said], "probability": probability}

    def said(self, outputs: np.ndarray) -> np.ndarray:
        """(n,) indices of the labels that these outputs say; one past the last where they say none, as NaN does."""
        return np.where(np.isfinite(outputs.max(axis=1)), outputs.argmax(axis=1), len(self.labels))

    def score(self, outputs: np.ndarray, series: Series) -> float:
        """The share of right answers."""
        return float((self.said(outputs) == self.encode(series)).mean())

    def describe_score(self, outputs: np.ndarray, series: Series) -> str:
        return f"accuracy {self.score(outputs, series):.4f} on {len(series)} rows"

    def describe(self) -> dict[str, Any]:
        return {"kind": "classes", "column": self.column, "labels": list(self.labels)}


@dataclass(frozen=True)
class Amount:
    """A number; nets learn (y - mean) / scale."""

    column: str
    mean: float
    scale: float

    loss: ClassVar[str] = "mse"
    outputs: ClassVar[int] = 1

    def encode(self, series: Series) -> np.ndarray:
        """(n, 1)."""
        return ((as_numbers(series, self.column) - self.mean) / self.scale)[:, None]

    def answers(self, outputs: np.ndarray) -> dict[str, Any]:
        """A column of amounts, NaN where the output is NaN or infinite."""
        amounts = self.amounts(outputs)
        known = np.isfinite(amounts)
        _warn_of_no_answer(known)
        return {self.column: np.where(known, amounts, np.nan)}

    def amounts(self, outputs: np.ndarray) -> np.ndarray:
        """(n,) in the target's own unit."""
        return outputs[:, 0].astype(np.float64) * self.scale + self.mean

    def score(self, outputs: np.ndarray, series: Series) -> float:
        """R^2: the share of the variance that is explained."""
        truth = as_numbers(series, self.column)
        variation = ((truth - truth.mean()) ** 2).sum()
        return float(1 - ((truth - self.amounts(outputs)) ** 2).sum() / variation) if variation else float("nan")

    def describe_score(self, outputs: np.ndarray, series: Series) -> str:
        error = np.sqrt(((as_numbers(series, self.column) - self.amounts(outputs)) ** 2).mean())
        return f"R^2 {self.score(outputs, series):.4f}, root mean square error {error:.4g} on {len(series)} rows"

    def describe(self) -> dict[str, Any]:
        return {"kind": "amount", "column": self.column, "mean": self.mean, "scale": self.scale}


Target = Classes | Amount


def learn(frame: Frame, column: str, rows: np.ndarray, task: str = "auto") -> Target:
    """What this column, in which nothing is missing, asks for; a mean and a scale from these rows alone."""
    series = frame[column]
    if task == "auto":
        task = "classification" if _names(series, column) else "regression"
    if task == "classification":
        labels = sorted({label for label in as_labels(series) if label is not None}, key=_in_order)
        if len(labels) < 2:
            raise DataError(f"the target {column!r} is {labels[0]!r} in every row: there is nothing to learn")
        return Classes(column, tuple(labels))
    values = as_numbers(series, column)[rows]
    mean, scale = float(values.mean()), float(values.std())
    if not (np.isfinite(scale) and scale > 0):
        raise DataError(f"the target {column!r} is constant or too large: there is nothing to learn")
    return Amount(column, mean, scale)


def build(saved: dict[str, Any]) -> Target:
    """What ``describe`` described; from a file, which may hold anything."""
    kind, column = short_text(saved, "kind"), short_text(saved, "column")
    if kind == "classes" and len(labels := texts(saved, "labels")) > 1:
        return Classes(column, labels)
    if kind == "amount":
        return Amount(column, number(saved, "mean"), number(saved, "scale"))
    raise ModelFileError("its target must be of the kind 'classes', with labels, or 'amount'")


def _warn_of_no_answer(known: np.ndarray) -> None:
    if count := int((~known).sum()):
        rows = "1 row gets" if count == 1 else f"{count} rows get"
        warnings.warn(f"{rows} no answer: the net's outputs are NaN or infinite", RuntimeWarning, stacklevel=4)


def _names(series: Series, column: str) -> bool:
    """Whether these are names of classes: texts, truth values, or a few whole numbers."""
    if series.dtype.kind == "b" or kind_of(series, column) == "category":
        return True
    values = as_numbers(series, column)
    return bool((values == np.rint(values)).all()) and len(np.unique(values)) <= MOST_WHOLE_NUMBERS


def _in_order(label: str) -> tuple[float, str]:
    """Numbers by their size, before texts."""
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label
