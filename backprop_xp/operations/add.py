"""The sum of several inputs."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from ..backend import Array
from ..derivatives.chain_rule import Rules
from .built_in import BuiltInOperation
from .folding import fold, fold_nodes, same
from .writing import Node, Writer


class Add(BuiltInOperation):
    """The sum of its inputs, which are of one width."""

    name = "add"
    scope = "sample"
    arity = None

    def width(self, *widths: int) -> int:
        return same(widths)

    def forward(self, *inputs: Array, **given: Any) -> Array:
        return fold("add", inputs)

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        return (grad,) * len(inputs)

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        return self.forward(*inputs, **given)

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        return self.backward(grad, *inputs, **given)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        return fold_nodes(writer, "Add", inputs)

    def fx(self, writer: Any, inputs: Sequence[Any]) -> Any:
        return fold_nodes(writer, operator.add, inputs)

    def passes_on(self, inputs: int, dropping: bool) -> bool:
        return inputs == 1

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        writer.sum(node.width, [writer.values[piece] for piece in inputs], to)

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        for piece in inputs:
            writer.pass_on(piece, grad)
