"""The product of several inputs."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from ..backend import Array
from ..derivatives.chain_rule import Rules
from ..derivatives.signals import product, product_below
from .built_in import BuiltInOperation
from .folding import fold, fold_nodes, same
from .writing import Node, Writer


class Multiply(BuiltInOperation):
    """The product of its inputs, element by element; they are of one width."""

    name = "multiply"
    scope = "sample"
    arity = None

    def width(self, *widths: int) -> int:
        return same(widths)

    def forward(self, *inputs: Array, **given: Any) -> Array:
        return fold("multiply", inputs)

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        # the products of all others, not a quotient: factors may be 0
        return tuple(fold("multiply", (grad, *inputs[:i], *inputs[i + 1 :])) for i in range(len(inputs)))

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        return _product(inputs, rules)

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        if len(inputs) == 1:
            return grad
        others = (_product(inputs[:i] + inputs[i + 1 :], rules) for i in range(len(inputs)))
        return tuple(product_below(grad, other, rules) for other in others)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        return fold_nodes(writer, "Mul", inputs)

    def fx(self, writer: Any, inputs: Sequence[Any]) -> Any:
        return fold_nodes(writer, operator.mul, inputs)

    def passes_on(self, inputs: int, dropping: bool) -> bool:
        return inputs == 1

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        writer.product(node.width, [writer.values[piece] for piece in inputs], to)

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        for i, piece in enumerate(inputs):
            writer.add_product(piece, grad, [writer.values[other] for k, other in enumerate(inputs) if k != i])


def _product(stacks: Sequence[Array], rules: Rules) -> Array:
    return reduce(lambda a, b: product(a, b, rules), stacks)
