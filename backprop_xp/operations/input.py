"""An input of the net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..numbers import whole
from .built_in import BuiltInOperation
from .writing import Node, Writer


class Input(BuiltInOperation):
    """An input of the net: (n, features), or (features,) for one sample."""

    name = "input"
    scope = "sample"
    arity = 0
    is_input = True
    settings = {"features": int}

    def __init__(self, features: int) -> None:
        self.features = whole("an input's features", features, 1)

    def width(self, *widths: int) -> int:
        return self.features

    def fx(self, writer: Any, inputs: Sequence[Any]) -> Any:
        return writer.input()

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        k = writer.inputs.index(node.name)
        writer.emit(f"bpx::graph_input<R>(args, {k}, tile.first, {node.width}, tile.valid, b{to})", [], [to])

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        k, width = writer.inputs.index(node.name), node.width
        place = f"(S*)args.x_grad[{k}] + tile.first * {width}"
        writer.emit(f"bpx::from_panels<R>(b{grad}, {width}, tile.valid, {place})", [grad], [])
