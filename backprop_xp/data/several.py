"""Several targets that one net is to say at once: all of them classes, or all of them amounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ..exchange.container import ModelFileError, as_object, field, short_text
from ..losses import MSE, BCEWithLogits
from . import targets
from .frames import Frame
from .targets import Amount, Classes, One, Part
from .wording import quoted

KIND = "several"


@dataclass(frozen=True)
class Several:
    """Several targets, and one net for all of them.

    Amounts are learnt with the mean of their squared errors. Of classes each label is an output, whose sigmoid says
    whether the row has it; the probabilities of a target's labels are those, divided by their sum.

    Attributes:
        members: the targets, which are of one kind and of different columns.
    """

    members: tuple[One, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(member.column for member in self.members)

    @property
    def column(self) -> str:
        """All of their names, for people."""
        return ", ".join(self.columns)

    @property
    def of_classes(self) -> bool:
        return isinstance(self.members[0], Classes)

    @property
    def scored(self) -> str:
        return f"mean {self.members[0].scored}"

    @property
    def outputs(self) -> int:
        return sum(member.outputs for member in self.members)

    def loss(self, truth: np.ndarray, balanced: bool) -> MSE | BCEWithLogits:
        """What nets learn with."""
        if balanced:
            raise ValueError(f"class_weight is of one target, and there are {len(self.members)}")
        return BCEWithLogits() if self.of_classes else MSE()

    def with_decimal(self, mark: str) -> Several:
        """The same for a table whose numbers have this mark before decimals."""
        return Several(tuple(member.with_decimal(mark) for member in self.members))

    def of(self, frame: Frame) -> Frame:
        """The part of a table that it is about."""
        return frame[list(self.columns)]

    def parts(self, outputs: np.ndarray, frame: Frame) -> list[Part]:
        """Every target with its own outputs, of those for the rows of this table, and its truth."""
        return [(member, own, frame[member.column]) for member, own in zip(self.members, self._split(outputs))]

    def encode(self, frame: Frame) -> np.ndarray:
        """(n, outputs): 1 for the label that a row has and 0 for the others; or amounts as each target has them."""
        found = [member.encode(frame[member.column]) for member in self.members]
        if not self.of_classes:
            return np.concatenate(found, axis=1)
        return np.concatenate([np.eye(member.outputs)[codes] for member, codes in zip(self.members, found)], axis=1)

    def answers(self, outputs: np.ndarray, each: bool = False) -> dict[str, Any]:
        """The columns of every target; what isn't its answer begins with its name."""
        found: dict[str, Any] = {}
        for member, own in zip(self.members, self._split(outputs)):
            for name, values in member.answers(own, each).items():
                ours = name if name == member.column else f"{member.column} {name}"
                found[ours if ours in self.columns else targets.free(ours, {*found, *self.columns})] = values
        return found

    def score(self, outputs: np.ndarray, frame: Frame) -> float:
        """The mean of the targets' scores."""
        return float(np.mean([member.score(own, truth) for member, own, truth in self.parts(outputs, frame)]))

    def describe_score(self, outputs: np.ndarray, frame: Frame) -> str:
        parts = self.parts(outputs, frame)
        return "; ".join(f"{member.column}: {member.describe_score(own, truth)}" for member, own, truth in parts)

    def baseline(self, truth: np.ndarray) -> np.ndarray:
        """(outputs,) what always says the commonest classes, or the means."""
        if not self.of_classes:
            return np.zeros(self.outputs)
        each = zip(self.members, np.split(truth, self._places, axis=1))
        return np.concatenate([member.baseline(part.argmax(axis=1)) for member, part in each])

    def describe_baseline(self, baseline: np.ndarray, frame: Frame) -> str:
        """How good it is to say the same of every row."""
        parts = self.parts(baseline[None], frame)
        return "; ".join(f"{member.column}: {member.describe_baseline(own[0], truth)}" for member, own, truth in parts)

    def from_units_of(self, other: Any, outputs: np.ndarray) -> np.ndarray:
        """Outputs that say here what these say to ``other``, the same targets learnt from other rows."""
        if self.of_classes:
            return outputs
        each = zip(self.members, other.members, self._split(outputs))
        return np.concatenate([ours.from_units_of(theirs, own) for ours, theirs, own in each], axis=1)

    def describe(self) -> dict[str, Any]:
        return {"kind": KIND, "members": [member.describe() for member in self.members]}

    @property
    def _places(self) -> list[int]:
        """Where the outputs of every target but the first begin."""
        return list(accumulate(member.outputs for member in self.members))[:-1]

    def _split(self, outputs: np.ndarray) -> list[np.ndarray]:
        """The outputs of every target, of which the softmax are its probabilities."""
        found = np.split(outputs, self._places, axis=1)
        if not self.of_classes:
            return found
        with np.errstate(invalid="ignore"):  # of outputs that are NaN
            return [-np.logaddexp(0, -own) for own in found]


Target = One | Several


def together(members: Sequence[One]) -> Target:
    """One target as it is, or several as one.

    Raises:
        ValueError: some are classes and some amounts.
    """
    if len(members) == 1:
        return members[0]
    kinds = {type(member): member for member in members}
    if len(kinds) > 1:
        amount, classes = kinds[Amount], kinds[Classes]
        raise ValueError(
            f"several targets must be all classes or all amounts: {quoted(classes.column)} is one of "
            f"{classes.outputs} classes and {quoted(amount.column)} an amount; train a net for each, or say what they "
            "are with --task"
        )
    return Several(tuple(members))


def build(saved: dict[str, Any]) -> Target:
    """What ``describe`` described; from a file, which may hold anything."""
    if short_text(saved, "kind") != KIND:
        return targets.build(saved)
    members = [as_object(member, "its targets") for member in field(saved, "members", list)]
    found = [targets.build(member) for member in members]
    if len({member.column for member in found}) != len(found) or len(found) < 2:
        raise ModelFileError("its several targets must be of different columns")
    if len({type(member) for member in found}) > 1:
        raise ModelFileError("its several targets must be all classes or all amounts")
    return Several(tuple(found))
