"""How tensors and nets look in a notebook: small tables of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from .backend import NUMPY

ROWS, COLUMNS = 8, 8  # of an array that are shown


def of_tensor(self: Any) -> str:
    """A tensor's array and its gradient, side by side; of a large one the first rows and columns."""
    tables = [_of_array(name, getattr(self, name)) for name in ("data", "grad")]
    return f"<div>{escape(repr(self))}<div style='display:flex;gap:2em;flex-wrap:wrap'>{''.join(tables)}</div></div>"


def of_net(self: Any) -> str:
    """A line for each parameter of a net: its shape, how its numbers are spread, and the norm of its gradient."""
    head = ("parameter", "shape", "mean", "deviation", "smallest", "largest", "norm of gradient")
    rows = []
    for name, tensor in self._by_place().items():
        data, grad = NUMPY.take(tensor.data), NUMPY.take(tensor.grad)
        numbers = [f"{f(data):.4g}" for f in (np.mean, np.std, np.min, np.max)] if data.size else [""] * 4
        norm = "" if grad is None else f"{np.linalg.norm(grad):.4g}"
        rows.append((name, " x ".join(map(str, data.shape)), *numbers, norm))
    return f"<div>{escape(repr(self))}{_table(rows, head)}</div>"


def _of_array(name: str, array: Any) -> str:
    host = NUMPY.take(array) if array is not None and hasattr(array, "shape") else array
    if not isinstance(host, np.ndarray):
        return _table([[str(host)]], caption=name)
    rows = np.atleast_2d(host)
    if rows.ndim > 2:
        rows = rows.reshape(-1, rows.shape[-1])
    shown = [[f"{value:.4g}" for value in row[:COLUMNS]] + ["…"] * (len(row) > COLUMNS) for row in rows[:ROWS]]
    shown += [["…"]] * (len(rows) > ROWS)
    return _table(shown, caption=name)


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), caption: str = "") -> str:
    lines = ["<table>"]
    if caption:
        lines.append(f"<caption>{escape(caption)}</caption>")
    if head:
        lines.append("<tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "".join([*lines, "</table>"])
