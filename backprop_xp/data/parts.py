"""What one rank has of a table: some of its rows, and of some columns all cells.

Ranks read rows. What a column is, and what there is to learn from it, one of them finds out for all, from the whole
column, as it would be found out without ranks: so it has the same bits for any number of them. The columns of the
targets every rank has. A rank of R thus holds two R-ths of a table, and its targets; without ranks, the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..distributed import World
from ..distributed.world import EXCHANGE, TABLE
from ..messages import first_line
from . import frames, parquet
from .errors import DataError
from .frames import Frame
from .wording import quoted

_ROWS = ""  # the column of what rows are called, while they travel: no other has this name


@dataclass(frozen=True)
class Part:
    """One rank's part of a table, or the whole table.

    Attributes:
        rows: of this rank, with all columns.
        columns: the targets and this rank's other columns, with all rows.
        first: the number of the first of its rows, from 0.
        world: the ranks, None where this is the whole table.
    """

    rows: Frame
    columns: Frame
    first: int = 0
    world: World | None = None

    @property
    def whole(self) -> bool:
        """Whether the table isn't in parts."""
        return self.world is None

    def each(self, names: Iterable[str], find: Callable[[str], Any]) -> dict[str, Any]:
        """What ``find`` says, in JSON's terms, of these columns, in this order; each is asked for where its cells are.

        Raises:
            DataError: what it raises of the first column for which it does, on all ranks.
        """
        if self.world is None:
            return {name: find(name) for name in names}
        names, said = list(names), {}
        for name in filter(self.columns.columns.__contains__, names):
            try:
                said[name] = [find(name), None]
            except DataError as error:
                said[name] = [None, str(error)]
                break
        everywhere = self.world.told(TABLE, said)
        found = {}
        for name in names:
            found[name], refusal = next(rank[name] for rank in everywhere if name in rank)
            if refusal is not None:
                raise DataError(refusal)
        return found

    def alike(self, missing: Collection[str]) -> Part:
        """The part in which cells that are one of these texts are missing."""
        rows = frames.without(self.rows, missing)
        return replace(self, rows=rows, columns=rows if self.whole else frames.without(self.columns, missing))

    def having(self, present: np.ndarray) -> Part:
        """The part of the table that has these rows alone, of (n,) bool for all."""
        if self.whole:
            return replace(self, rows=self.rows[present], columns=self.columns[present])
        own = present[self.first : self.first + len(self.rows)]
        return Part(self.rows[own], self.columns[present], int(present[: self.first].sum()), self.world)


def dealt(world: World, rows: Frame, targets: Sequence[str]) -> Part:
    """The part of a rank that has these rows: columns go around, and targets to all."""
    others = [name for name in rows.columns if name not in targets]
    wanted = [[*targets, *others[rank :: world.size]] for rank in range(world.size)]
    lengths = world.told(TABLE, len(rows))
    columns = _unpacked(world.deal(EXCHANGE, [_packed(rows, names) for names in wanted]))
    return Part(rows, columns, sum(lengths[: world.rank]), world)


def _packed(rows: Frame, names: Sequence[str]) -> np.ndarray:
    """Columns as the bytes of an Arrow stream, with what the rows are called."""
    import pyarrow

    arrays = [pyarrow.array(rows.index)]
    for name in names:
        try:
            arrays.append(pyarrow.Array.from_pandas(rows[name]))
        except (pyarrow.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"column {quoted(name)} can't go to other ranks: {first_line(error)}") from None
    table = pyarrow.table(arrays, names=[_ROWS, *names])
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _unpacked(streams: Sequence[np.ndarray]) -> Frame:
    import pyarrow

    tables = [pyarrow.ipc.open_stream(pyarrow.py_buffer(stream)).read_all() for stream in streams]
    try:
        return parquet.as_frame(tables).set_index(_ROWS).rename_axis(None)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"the ranks' parts don't make one table: {error}") from None
