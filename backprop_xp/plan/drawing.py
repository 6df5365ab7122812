"""A plan as text, and as a picture with the numbers of a call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from ..messages import unknown
from ..operations.base import called
from . import svg
from .plan import Node, Plan

DIRECTIONS = ("down", "right")
FEW, MANY = 4, 64  # numbers of an array that are written into a box, and into a tooltip


@dataclass(frozen=True)
class Numbers:
    """What a call computed, on the host.

    Attributes:
        values, grads: of every node by its name, (n, width) or (width,) for one sample, and the loss's gradients.
        loss: the number.
    """

    values: Mapping[str, np.ndarray]
    grads: Mapping[str, np.ndarray]
    loss: float


@dataclass(frozen=True)
class Drawing:
    """A picture of a net: ``print`` it, ``save`` it, or take ``svg``; a notebook shows it by itself."""

    text: str
    svg: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture (.svg) or the table (.txt).

        Raises:
            ValueError: a name that ends otherwise. OSError: it can't be written.
        """
        contents = {".svg": self.svg, ".txt": f"{self.text}\n"}
        suffix = Path(os.fsdecode(path)).suffix.lower()
        if suffix not in contents:
            raise ValueError(unknown("ending of a file", suffix, contents))
        with replacing(path) as file:
            file.write(contents[suffix].encode())

    def __str__(self) -> str:
        return self.text

    def _repr_svg_(self) -> str:
        return self.svg


def draw(
    plan: Plan,
    parameters: Mapping[str, int],
    loss: str | None = None,
    numbers: Numbers | None = None,
    direction: str = "down",
    title: str = "A net",
) -> Drawing:
    """Draw the nodes of a plan.

    Args:
        parameters: how many numbers the parameters of each node hold.
        loss: its name, to draw it too.
        numbers: what a call computed, which is then written into the boxes.
        direction: where the picture goes, "down" or "right".
        title: what the picture shows, for those who can't see it.

    Raises:
        ValueError: an unknown direction.
    """
    if direction not in DIRECTIONS:
        raise ValueError(unknown("direction", str(direction), DIRECTIONS))
    boxes = [_box(plan, node, parameters, numbers) for node in plan.nodes]
    if loss is not None:
        lines = [loss] if numbers is None else [loss, f"{numbers.loss:.6g}"]
        boxes.append(svg.Box("loss", "loss", lines, f"the loss, {loss}", (plan.output.name,), "loss"))
    text = _text(plan, parameters, numbers)
    return Drawing(text, svg.picture(boxes, direction, title, text))


def _text(plan: Plan, parameters: Mapping[str, int], numbers: Numbers | None) -> str:
    head = ["node", "operation", "inputs", "width", "parameters"]
    right = [False, False, False, True, True]
    rows = [head if numbers is None else [*head, "value", "gradient"]]
    for node in plan.nodes:
        count = f"{parameters[node.name]:,}" if node.name in parameters else ""
        if node.owner != node.name:
            count = f"of {plan.symbol(node.owner)}"
        inputs = ", ".join(map(plan.symbol, node.inputs))
        rows.append([plan.symbol(node.name), _called(node), inputs, f"{node.width:,}", count])
        if numbers is not None:
            rows[-1] += [_some(numbers.values[node.name], FEW), _some(numbers.grads.get(node.name), FEW)]
    rows.append(["", "", "", "", f"{sum(parameters.values()):,}", *([""] * (len(rows[0]) - len(head)))])
    if numbers is not None:
        rows.append(["loss", "", plan.symbol(plan.output.name), "", "", f"{numbers.loss:.6g}", ""])
    right += [False] * (len(rows[0]) - len(right))
    wide = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, wide, right)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _box(plan: Plan, node: Node, parameters: Mapping[str, int], numbers: Numbers | None) -> svg.Box:
    count = parameters.get(node.name, 0)
    lines = [f"{_called(node)} {node.width}" + (f", {count:,} parameters" if count else "")]
    title = plan.symbol(node.name)
    told = [f"{title}: {lines[0]}"]
    if numbers is not None:
        for what, arrays in (("value", numbers.values), ("grad", numbers.grads)):
            if (array := arrays.get(node.name)) is not None:
                lines.append(f"{what} {_some(array, FEW)}")
                told.append(f"{what} {_some(array, MANY)}")
    return svg.Box(node.name, title, lines, "\n".join(told), node.inputs, node.operation.name)


def _some(array: Any, most: int) -> str:
    """The numbers of one sample; of a batch their shape and norm."""
    if array is None:
        return ""
    if array.ndim == 2 and len(array) != 1:
        return f"{len(array)} x {array.shape[1]}, norm {np.linalg.norm(array):.3g}"
    flat = array.ravel()
    shown = " ".join(f"{number:.3g}" for number in flat[:most])
    return f"[{shown}{' ...' if flat.size > most else ''}]"


def _called(node: Node) -> str:
    name = called(node.operation)
    return f"{name}, shared" if node.owner != node.name else name
