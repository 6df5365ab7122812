"""What a net is to say: one of several classes, or an amount; as targets for training, and back as answers."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..exchange.container import ModelFileError, number, short_text
from ..losses import MSE, SoftmaxCrossEntropy
from ..operations.softmax import softmax
from . import columns
from .cells import MOMENT, NOT_KNOWN, NUMBER, TEXT, Cells, Series, cells
from .errors import DataError
from .frames import Frame, as_float
from .kinds import NAMES, Conventions, Kind, kind_of
from .numerals import PLAIN, Notation, survey
from .wording import listed, option, quoted

MOST_WHOLE_NUMBERS = 20  # that are taken as names of classes
TASKS = ("auto", "classification", "regression")


class _OfColumn:
    """What is to be told from one column alone."""

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def of(self, frame: Frame) -> Series:
        """The part of a table that it is about."""
        return frame[self.column]

    def parts(self: Any, outputs: np.ndarray, frame: Frame) -> list[Part]:
        """Itself, with these outputs for the rows of this table and their truth."""
        return [(self, outputs, frame[self.column])]


@dataclass(frozen=True)
class Classes(_OfColumn):
    """One of these labels, each as the table has it."""

    column: str
    labels: tuple[str, ...]

    scored: ClassVar[str] = "accuracy"

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def loss(self, truth: np.ndarray, balanced: bool) -> SoftmaxCrossEntropy:
        """What nets learn with; ``balanced``, every class counts alike, however many of ``truth``, (n,), it has."""
        if not balanced:
            return SoftmaxCrossEntropy()
        counts = np.bincount(truth, minlength=len(self.labels))
        return SoftmaxCrossEntropy(weight=len(truth) / ((counts > 0).sum() * np.maximum(counts, 1)))

    @property
    def kind(self) -> Kind:
        return NAMES

    def with_decimal(self, mark: str) -> Classes:
        """The same for a table whose numbers have this mark before decimals: labels are names."""
        return self

    def encode(self, series: Series) -> np.ndarray:
        """(n,) indices."""
        truth = cells(series, self.column).labels()
        indices = self.places(truth)
        if (indices < 0).any():
            known = listed(self.labels, 10)
            raise DataError(f"{truth.show(indices < 0)} was not seen in training; known are {known}", indices < 0)
        return indices

    def answers(self, outputs: np.ndarray, each: bool = False) -> dict[str, Any]:
        """Columns: the label, None where an output is NaN or infinite, and its probability; or that of ``each`` one."""
        said = self.said(outputs)
        labels = [*self.labels, None]
        _warn_of_no_answer(said < len(self.labels))
        probability = self.probabilities(outputs)
        found = {self.column: [labels[k] for k in said]}
        if not each:
            return found | {free("probability", found): probability.max(axis=1)}
        for label, column in zip(self.labels, probability.T):
            found[free(f"probability of {label}", found)] = column
        return found

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """(n, labels), NaN where an output is NaN or infinite."""
        with np.errstate(invalid="ignore"):  # of infinite outputs
            return softmax(outputs)

    def said(self, outputs: np.ndarray) -> np.ndarray:
        """(n,) indices of the labels that these outputs say; one past the last where they say none, as NaN does."""
        return np.where(np.isfinite(outputs.max(axis=1)), outputs.argmax(axis=1), len(self.labels))

    def score(self, outputs: np.ndarray, series: Series) -> float:
        """The share of right answers; none is right where the label wasn't seen in training."""
        return float((self.said(outputs) == self.places(cells(series, self.column).labels())).mean())

    def describe_score(self, outputs: np.ndarray, series: Series) -> str:
        text = f"accuracy {self.score(outputs, series):.4f} on {len(series)} rows"
        truth = cells(series, self.column).labels()
        unseen = self.places(truth) < 0
        return text + (
            f"; {unseen.sum()} have a class not seen in training, such as {truth.show(unseen)}" if unseen.any() else ""
        )

    def confusion(self, outputs: np.ndarray, series: Series) -> np.ndarray:
        """(labels, labels + 1) rows by their label and by what is said of them, nothing last; of known labels alone."""
        true, said = self.places(cells(series, self.column).labels()), self.said(outputs)
        counts = np.zeros((len(self.labels), len(self.labels) + 1), np.int64)
        np.add.at(counts, (true[true >= 0], said[true >= 0]), 1)
        return counts

    def baseline(self, truth: np.ndarray) -> np.ndarray:
        """(labels,) outputs that always say the commonest of the classes ``truth``, (n,)."""
        return np.eye(len(self.labels))[np.bincount(truth, minlength=len(self.labels)).argmax()]

    def describe_baseline(self, baseline: np.ndarray, series: Series) -> str:
        """How good it is to say the same of every row."""
        score = self.score(np.tile(baseline, (len(series), 1)), series)
        return f"always answering {quoted(self.labels[baseline.argmax()])} gets {score:.4f}"

    def from_units_of(self, other: Any, outputs: np.ndarray) -> np.ndarray:
        """Outputs that say here what these say to ``other``, the same target learnt from other rows."""
        return outputs

    def describe(self) -> dict[str, Any]:
        return {"kind": "classes", "column": self.column, "labels": list(self.labels)}

    def places(self, truth: Cells) -> np.ndarray:
        """(n,) indices, -1 where the label is missing or wasn't seen in training."""
        places = {label: i for i, label in enumerate(self.labels)}
        return np.array([*(places.get(label, -1) for label in truth.distinct), -1], np.int64)[truth.codes]


@dataclass(frozen=True)
class Amount(_OfColumn):
    """A number; nets learn (y - mean) / scale."""

    column: str
    mean: float
    scale: float
    notation: Notation = PLAIN

    outputs: ClassVar[int] = 1
    scored: ClassVar[str] = "R^2"

    @property
    def kind(self) -> Kind:
        return Kind(NUMBER, self.notation)

    def loss(self, truth: np.ndarray, balanced: bool) -> MSE:
        """What nets learn with."""
        if balanced:
            raise ValueError(f"class_weight is of classes, and the target {quoted(self.column)} is an amount")
        return MSE()

    def with_decimal(self, mark: str) -> Amount:
        """The same for a table whose numbers have this mark before decimals."""
        return replace(self, notation=self.notation.with_decimal(mark))

    def encode(self, series: Series) -> np.ndarray:
        """(n, 1)."""
        return ((self.truth(series) - self.mean) / self.scale)[:, None]

    def answers(self, outputs: np.ndarray, each: bool = False) -> dict[str, Any]:
        """A column of amounts, NaN where the output is NaN or infinite."""
        if each:
            raise ValueError(f"probabilities are of classes, and {quoted(self.column)} is an amount")
        amounts = self.amounts(outputs)
        known = np.isfinite(amounts)
        _warn_of_no_answer(known)
        return {self.column: np.where(known, amounts, np.nan)}

    def amounts(self, outputs: np.ndarray) -> np.ndarray:
        """(n,) in the target's own unit."""
        return outputs[:, 0].astype(np.float64) * self.scale + self.mean

    def truth(self, series: Series) -> np.ndarray:
        """(n,) the column's own numbers."""
        return self.kind.values(cells(series, self.column))

    def score(self, outputs: np.ndarray, series: Series) -> float:
        """R^2: the share of the variance that is explained."""
        truth = self.truth(series)
        variation = ((truth - truth.mean()) ** 2).sum()
        return float(1 - ((truth - self.amounts(outputs)) ** 2).sum() / variation) if variation else float("nan")

    def describe_score(self, outputs: np.ndarray, series: Series) -> str:
        error = self._error(outputs, series)
        return f"R^2 {self.score(outputs, series):.4f}, root mean square error {error:.4g} on {len(series)} rows"

    def baseline(self, truth: np.ndarray) -> np.ndarray:
        """(1,) the output that always says the mean of the rows that were learnt from."""
        return np.zeros(1)

    def describe_baseline(self, baseline: np.ndarray, series: Series) -> str:
        """How good it is to say the same of every row."""
        error = self._error(np.tile(baseline, (len(series), 1)), series)
        return f"always answering the mean, {self.mean:.6g}, gets an error of {error:.4g}"

    def from_units_of(self, other: Any, outputs: np.ndarray) -> np.ndarray:
        """Outputs that say here what these say to ``other``, the same target learnt from other rows."""
        return ((other.amounts(outputs) - self.mean) / self.scale)[:, None]

    def _error(self, outputs: np.ndarray, series: Series) -> float:
        """The root mean square error."""
        return float(np.sqrt(((self.truth(series) - self.amounts(outputs)) ** 2).mean()))

    def describe(self) -> dict[str, Any]:
        described = {"kind": "amount", "column": self.column, "mean": self.mean, "scale": self.scale}
        return described | {"notation": asdict(self.notation)}


One = Classes | Amount
Part = tuple[One, np.ndarray, Series]  # a target, outputs and truth of some rows


def kind_of_target(truth: Cells, task: str = "auto", conventions: Conventions | None = None) -> Kind:
    """Whether this column asks for a class (names) or an amount (numbers), and how amounts are written.

    Raises:
        DataError: it holds dates, or how its numbers are written is open.
    """
    if task == "classification":
        return NAMES
    kind = kind_of(truth, conventions or Conventions(), target=True)
    if kind.kind == MOMENT:
        raise DataError(
            f"the target {quoted(truth.name)} holds dates; --task classification takes each of them as a class"
        )
    if task == "regression":
        return kind if kind.kind == NUMBER else Kind(NUMBER)
    if kind.kind != NUMBER:
        return NAMES
    return Kind(TEXT, notes=_taken_for_classes(truth, kind)) if _names(truth, kind) else kind


def learn(frame: Frame, column: str, rows: np.ndarray, task: str = "auto", kind: Kind | None = None) -> One:
    """What this column, in which nothing is missing, asks for; a mean and a scale from these rows alone.

    Args:
        kind: what :func:`kind_of_target` said; asked for if left out.
    """
    truth = cells(frame[column], column)
    kind = kind or kind_of_target(truth, task)
    if kind.kind != NUMBER:
        labels = sorted((label for label, n in truth.labels().counts().items() if n), key=_in_order)
        if len(labels) < 2:
            raise DataError(
                f"the target {quoted(column)} is {labels[0]!r} in every row that has one: there is nothing to learn"
            )
        return Classes(column, tuple(labels))
    values = kind.values(truth)
    if merged := truth.merged(values):
        raise DataError(
            f"the target {quoted(column)}: {listed(merged)} are one number in float64; --task classification takes "
            "each of them as a class"
        )
    values = values[rows]
    mean, scale = float(values.mean()), float(values.std())
    if not (np.isfinite(scale) and scale > 0):
        raise DataError(f"the target {quoted(column)} is constant or too large: there is nothing to learn")
    return Amount(column, mean, scale, kind.notation)


def notes(truth: Cells, kind: Kind) -> list[str]:
    """Sentences about how this target was read."""
    if kind.kind == NUMBER:
        return [f"the target {quoted(truth.name)}: {note}" for note in kind.notes]
    found = [f"the target {quoted(truth.name)} {note}" for note in kind.notes]
    if strange := [text for text in truth.labels().distinct if text in NOT_KNOWN]:
        advice = f"{option('--missing', *strange)} leaves these rows out"
        found.append(f"the target {quoted(truth.name)}: {listed(strange)} is a class like the others; {advice}")
    return found


def build(saved: dict[str, Any]) -> One:
    """What ``describe`` described; from a file, which may hold anything."""
    kind, column = short_text(saved, "kind"), short_text(saved, "column")
    if kind == "classes" and len(labels := columns.texts(saved, "labels")) > 1:
        return Classes(column, labels)
    if kind == "amount":
        return Amount(column, number(saved, "mean"), number(saved, "scale"), columns.notation(saved))
    raise ModelFileError("its target must be of the kind 'classes', with labels, or 'amount'")


def free(name: str, taken: Collection[str]) -> str:
    """The name, with underscores behind it if a column is called so."""
    while name in taken:
        name += "_"
    return name


def _warn_of_no_answer(known: np.ndarray) -> None:
    if count := int((~known).sum()):
        rows = "1 row gets" if count == 1 else f"{count} rows get"
        warnings.warn(f"{rows} no answer: the net's outputs are NaN or infinite", RuntimeWarning, stacklevel=4)


def _names(truth: Cells, kind: Kind) -> bool:
    """Whether these numbers are names of classes: truth values, a few whole numbers, or codes such as 007."""
    if kind.notation.truth or (truth.kind != NUMBER and survey(truth.counts()).padded):
        return True
    values = kind.values(truth)
    values = values[~np.isnan(values)]
    return bool((values == np.rint(values)).all()) and len(np.unique(values)) <= MOST_WHOLE_NUMBERS


def _taken_for_classes(truth: Cells, kind: Kind) -> tuple[str, ...]:
    """A sentence that numbers are taken for classes; two are nothing else."""
    count = len(np.unique(kind.values(truth)[~kind.missing(truth)]))
    if kind.notation.truth or count <= 2:
        return ()
    return (f"has {count} different whole numbers, taken for classes; --task regression takes them for amounts",)


def _in_order(label: str) -> tuple[float, str]:
    """Numbers by their size, before texts."""
    value = as_float(label)
    return (float("inf") if value is None or value != value else value), label
