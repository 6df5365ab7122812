"""A net with what it takes to feed it a table and to read its answers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..backend import NUMPY
from ..exchange import ModelFileError, load_with_extra, save
from ..exchange.container import field, short_text
from ..graph import GraphNet
from ..net import Net
from . import frames, several
from .cells import cells
from .columns import texts
from .errors import DataError
from .frames import Frame
from .nets import widths
from .sets import need
from .several import Target
from .table import Table, where_possible
from .wording import meant, quoted


class Model:
    """A trained net, the table it takes, and the target it gives.

    Attributes:
        net: from ``table.width`` inputs to ``target.outputs``.
        table, target: how cells become numbers, and numbers answers.
        missing: texts that mean a missing value, besides an empty cell.
        trained_on: the :func:`digest` of the table whose rows it was trained on and tested with; "" if it isn't known.
    """

    def __init__(
        self,
        net: Net | GraphNet,
        table: Table,
        target: Target,
        missing: tuple[str, ...] = (),
        trained_on: str = "",
    ) -> None:
        self.net, self.table, self.target, self.missing = net, table, target, missing
        self.trained_on = trained_on

    def outputs(self, frame: Frame) -> np.ndarray:
        """The net's outputs for every row, on the host."""
        return NUMPY.take(self.net(self.table.arrays(frames.alike(frame, self.missing))))

    def outputs_where_possible(self, frame: Frame) -> tuple[np.ndarray, np.ndarray, list[DataError]]:
        """The net's outputs for the rows that can be used, their positions, and why the others can't.

        See :func:`backprop_xp.data.table.where_possible`.
        """
        x, left, refused = where_possible(self.table.arrays, frames.alike(frame, self.missing))
        return NUMPY.take(self.net(x)), left, refused

    def predict(self, frame: Frame, probabilities: bool = False) -> Frame:
        """A table of answers with the rows of this one; of classes, with ``probabilities``, a column for each."""
        return self.answers(frame, self.outputs(frame), probabilities)

    def answers(self, frame: Frame, outputs: np.ndarray, probabilities: bool = False) -> Frame:
        """What these outputs for the rows of this table say."""
        answers = self.target.answers(outputs, probabilities)
        return need("pandas").DataFrame(answers, index=frames.alike(frame).index)

    def take_decimal(self, mark: str) -> None:
        """Read the numbers of tables, those of targets too, with this mark before decimals from now on."""
        self.table, self.target = self.table.with_decimal(mark), self.target.with_decimal(mark)

    def targets(self, frame: Frame, source: str) -> np.ndarray:
        """What the loss takes for the rows of this table.

        Args:
            source: where the table is from, for messages.

        Raises:
            DataError: it lacks a target.
        """
        for name in self.target.columns:
            if name not in frame.columns:
                asked = meant(name, frame.columns)
                raise DataError(f"{source} has no column {quoted(name)}{asked}, which the loss needs as a target")
        return self.target.encode(self.target.of(frame))

    def describe_score(self, frame: Frame, outputs: np.ndarray) -> str | None:
        """How good these outputs are, where the table has the targets in every row; None if it hasn't."""
        frame = frames.alike(frame, self.missing)
        if not set(self.target.columns) <= set(frame.columns):
            return None
        for member, _, truth in self.target.parts(outputs, frame):
            if member.kind.missing(cells(truth, member.column)).any():
                return None
        return self.target.describe_score(outputs, self.target.of(frame))

    def was_trained_on(self, frame: Frame) -> bool:
        """Whether this is the very table whose rows it was trained on and tested with."""
        x = self.table.arrays(frames.alike(frame, self.missing)).astype(self.net.dtype)
        return digest([x]) == self.trained_on

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to one safetensors file."""
        save(self.net, path, self._describe())

    def _describe(self) -> dict[str, Any]:
        described = {"table": self.table.describe(), "target": self.target.describe()}
        return described | {"missing": list(self.missing), "trained_on": self.trained_on}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, custom: Any = None, backend: Any = None) -> Model:
        """The model in a file.

        Raises:
            ModelFileError: the file is damaged, or has a net without table and target.
        """
        return cls.built(path, *load_with_extra(path, custom=custom, backend=backend))

    @classmethod
    def built(cls, path: str | os.PathLike[str], net: Any, extra: dict[str, Any]) -> Model:
        """The model of what :func:`~backprop_xp.exchange.load_with_extra` found in a file. Raises ModelFileError."""
        try:
            if not extra.keys() >= {"table", "target"}:
                raise ModelFileError("it holds a net, but not the table that the net was trained on")
            table = Table.build(field(extra, "table", list))
            target = several.build(field(extra, "target", dict))
            missing = texts(extra, "missing") if "missing" in extra else ()
            trained_on = short_text(extra, "trained_on") if "trained_on" in extra else ""
            if widths(net) != (table.width, target.outputs):
                raise ModelFileError(
                    f"its table gives {table.width} numbers and its target takes {target.outputs}, its net is {net}"
                )
        except (ModelFileError, OverflowError) as error:
            raise ModelFileError(f"{os.fspath(path)}: {error}") from None
        return cls(net, table, target, missing, trained_on)


def digest(blocks: Iterable[np.ndarray]) -> str:
    """What tells these inputs, in blocks of rows, from all others."""
    found = hashlib.sha256()
    for x in blocks:
        found.update(np.ascontiguousarray(x).data)
    return found.hexdigest()
