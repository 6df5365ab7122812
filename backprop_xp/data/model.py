"""A net with what it takes to feed it a table and to read its answers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..backend import NUMPY
from ..exchange import ModelFileError, load_with_extra, save
from ..exchange.container import field
from ..graph import GraphNet
from ..net import Net
from . import frames, targets
from .cells import cells
from .columns import texts
from .frames import Frame
from .nets import widths
from .sets import need
from .table import Table
from .targets import Target


class Model:
    """A trained net, the table it takes, and the target it gives.

    Attributes:
        net: from ``table.width`` inputs to ``target.outputs``.
        table, target: how cells become numbers, and numbers answers.
        missing: texts that mean a missing value, besides an empty cell.
    """

    def __init__(self, net: Net | GraphNet, table: Table, target: Target, missing: tuple[str, ...] = ()) -> None:
        self.net, self.table, self.target, self.missing = net, table, target, missing

    def outputs(self, frame: Frame) -> np.ndarray:
        """The net's outputs for every row, on the host."""
        return NUMPY.take(self.net(self.table.arrays(frames.alike(frame, self.missing))))

    def predict(self, frame: Frame) -> Frame:
        """A table of answers with the rows of this one."""
        return self.answers(frame, self.outputs(frame))

    def answers(self, frame: Frame, outputs: np.ndarray) -> Frame:
        """What these outputs for the rows of this table say."""
        return need("pandas").DataFrame(self.target.answers(outputs), index=frames.alike(frame).index)

    def describe_score(self, frame: Frame, outputs: np.ndarray) -> str | None:
        """How good these outputs are, where the table has the target in every row; None if it hasn't."""
        frame, column = frames.alike(frame, self.missing), self.target.column
        if column not in frame.columns or self.target.kind.missing(cells(frame[column], column)).any():
            return None
        return self.target.describe_score(outputs, frame[column])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it to one safetensors file."""
        save(self.net, path, self._describe())

    def _describe(self) -> dict[str, Any]:
        described = {"table": self.table.describe(), "target": self.target.describe()}
        return described | {"missing": list(self.missing)}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, custom: Any = None, backend: Any = None) -> Model:
        """The model in a file.

        Raises:
            ModelFileError: the file is damaged, or has a net without table and target.
        """
        net, extra = load_with_extra(path, custom=custom, backend=backend)
        try:
            if not extra.keys() >= {"table", "target"}:
                raise ModelFileError("it holds a net, but not the table that the net was trained on")
            table = Table.build(field(extra, "table", list))
            target = targets.build(field(extra, "target", dict))
            missing = texts(extra, "missing") if "missing" in extra else ()
            if widths(net) != (table.width, target.outputs):
                raise ModelFileError(
                    f"its table gives {table.width} numbers and its target takes {target.outputs}, its net is {net}"
                )
        except (ModelFileError, OverflowError) as error:
            raise ModelFileError(f"{os.fspath(path)}: {error}") from None
        return cls(net, table, target, missing)
