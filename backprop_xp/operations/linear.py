"""W z + b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backend import Array
from ..numbers import whole
from .base import Draw
from .built_in import BuiltInOperation, flag
from .rounded import Computed, most
from .writing import Node, Writer


class Linear(BuiltInOperation):
    """W z + b. The article's loops compute it, see passes/article.py.

    Args:
        features: of the result.
        bias: whether there is a b, which starts at zero.
        share: the name of another linear node, whose W and b it takes.
    """

    name = "linear"
    scope = "sample"
    settings = {"features": int, "bias": bool, "share": str | None}
    is_linear = True
    layer_part = "linear"
    reads_pieces = True
    has_parameters = True
    in_layers = False

    def __init__(self, features: int, bias: bool = True, share: str | None = None) -> None:
        self.features, self.bias, self.share = whole("a linear node's features", features, 1), bool(bias), share

    def width(self, *widths: int) -> int:
        return self.features

    def initial(self, widths: tuple[int, ...], draw: Draw) -> Mapping[str, Any]:
        weight = {"weight": draw((self.features, widths[0]))}
        return weight | {"bias": np.zeros(self.features)} if self.bias else weight

    def multiply_adds(self, features: int, below: int) -> int:
        return self.features * (2 * features + below)

    def computed(self, value: Array, inputs: Sequence[Array], own: Mapping[str, Array]) -> Computed:
        bias = np.abs(own["bias"]) if "bias" in own else 0.0
        return Computed(most(np.abs(inputs[0]) @ np.abs(own["weight"]).T + bias))

    def shapes(self, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.features, widths[0])} | super().shapes(widths)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        return writer.add("Gemm", inputs[0], *own.values(), transB=1)

    def module(self, maker: Any, width: int, own: Mapping[str, Any]) -> Any:
        nn, features = maker.torch.nn, own["weight"].shape[1]
        linear = nn.utils.skip_init(nn.Linear, features, width, bias=self.bias)
        for name, parameter in own.items():
            setattr(linear, name, parameter)
        return linear

    def in_torch(self, maker: Any, inputs: Sequence[Any], own: Mapping[str, Any]) -> Any:
        return maker.torch.nn.functional.linear(inputs[0], own["weight"], own.get("bias"))

    @property
    def vectors(self) -> Sequence[str]:  # type: ignore[override]
        return ("bias",) if self.bias else ()

    def facts(self) -> tuple[Any, ...]:
        return Linear, self.bias

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        place = writer.place(node, [writer.width(piece) for piece in inputs])
        bias = f"params + {place.vectors['bias'][0]}" if "bias" in place.vectors else "(const S*)nullptr"
        at, size = 0, sum(piece.width for piece in place.pieces)
        for name, piece in zip(inputs, place.pieces):
            source = writer.values[name]
            weight = f"params + {piece.transposed}, {bias}"
            call = f"{size}, {at}, {piece.width}, {node.width}, {weight}, b{source}, b{to}"
            writer.emit(f"bpx::graph_linear<R, S>({call}, tile.used)", [source, *([to] if at else [])], [to])
            at += piece.width

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        place, out = writer.placed(node), node.width
        size = sum(piece.width for piece in place.pieces)
        if "bias" in place.vectors:
            writer.column_sums(out, grad, None, place.vectors["bias"][1])
        for name, piece in zip(inputs, place.pieces):
            value = writer.values[name]
            call = f"{size}, {piece.width}, {out}, b{grad}, b{value}, grads + {piece.grad}, tile.valid, tile.add"
            writer.emit(f"bpx::graph_outer<R, S>({call})", [grad, value], [])
        for name, piece in zip(inputs, place.pieces):
            if name in writer.wanted:
                to, add = writer.target(name)
                call = f"{piece.width}, {out}, params + {piece.weight}, b{grad}, b{to}, tile.used, {flag(add)}"
                writer.emit(f"bpx::graph_linear_below<R, S>({call})", [grad, *([to] if add else [])], [to])
