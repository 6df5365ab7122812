"""Several inputs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..backend import Array, module_of
from ..derivatives.chain_rule import Rules
from .built_in import BuiltInOperation, flag
from .writing import Node, Writer


class Concatenate(BuiltInOperation):
    """The features of its inputs side by side."""

    name = "concatenate"
    scope = "sample"
    arity = None
    joins = True

    def width(self, *widths: int) -> int:
        return sum(widths)

    def forward(self, *inputs: Array, **given: Any) -> Array:
        return module_of(inputs[0]).concatenate(inputs, axis=-1)

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        gradients, at = [], 0
        for array in inputs:
            gradients.append(grad[..., at : at + array.shape[-1]])
            at += array.shape[-1]
        return tuple(gradients)

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        return self.forward(*inputs, **given)

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        return self.backward(grad, *inputs, **given)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        return writer.add("Concat", *inputs, axis=1)

    def fx(self, writer: Any, inputs: Sequence[Any]) -> Any:
        return writer.add(writer.torch.cat, inputs, -1)

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        at = 0
        for piece in inputs:
            source, width = writer.values[piece], writer.width(piece)
            writer.emit(f"bpx::graph_join<R>({width}, b{source}, {at}, b{to}, tile.used)", [source, to], [to])
            at += width

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        at = 0
        for piece in inputs:
            width = writer.width(piece)
            if piece in writer.wanted:
                to, add = writer.target(piece)
                call = f"{width}, b{grad}, {at}, b{to}, tile.used, {flag(add)}"
                writer.emit(f"bpx::graph_split<R, S>({call})", [grad, *([to] if add else [])], [to])
            at += width
