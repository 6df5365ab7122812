"""Dropout: which numbers are dropped is a pure function of the context's key and of where the number stands.

Every engine and backend, in any order and on any tile, drops the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backend import Array
from ..derivatives.chain_rule import Rules
from ..ranges import Ranged
from .base import Context
from .built_in import BuiltInOperation, flag
from .draws import numbers
from .writing import Node, Writer

DRAW_BITS = 24


class Dropout(BuiltInOperation):
    """Each number is 0 with this probability, else divided by 1 - p; in training only.

    Which ones are 0 depends on the net's seed, the number of the training step, the node and the sample's number in
    the batch, not on engine, backend or threads.
    """

    name = "dropout"
    p = Ranged("0 <= p <= 1")
    scope = "sample"
    needs_key = True
    settings = {"p": float}

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    @property
    def factor(self) -> float:
        """What the numbers that stay are multiplied by."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0

    def from_context(self, context: Context, *inputs: Array) -> Mapping[str, Any]:
        if context.key is None:
            return {}
        factors = kept(context.xp, context.key, self.p, self.factor, context.first, context.shape, context.dtype)
        return {"kept": factors}

    def forward(self, *inputs: Array, **given: Any) -> Array:
        return inputs[0] * given["kept"] if "kept" in given else inputs[0]

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        return grad * given["kept"] if "kept" in given else grad

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        return self.forward(*inputs, **given)

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        return self.backward(grad, *inputs, **given)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        return inputs[0]  # it drops nothing in use

    def module(self, maker: Any, width: int, own: Mapping[str, Any]) -> Any:
        return maker.torch.nn.Dropout(self.p)

    def in_torch(self, maker: Any, inputs: Sequence[Any], own: Mapping[str, Any]) -> Any:
        return self.forward(*inputs, **maker.drawn(self, inputs[0]))

    def facts(self) -> tuple[Any, ...]:
        return Dropout, self.p

    def passes_on(self, inputs: int, dropping: bool) -> bool:
        return not dropping

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        self._write(writer, node, writer.values[inputs[0]], to, add=False)

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        if inputs[0] in writer.wanted:
            self._write(writer, node, grad, *writer.target(inputs[0]))

    def _write(self, writer: Writer, node: Node, source: int, to: int, add: bool) -> None:
        key = f"args.keys[{writer.random.index(node.name)}]"
        call = f"{node.width}, tile.first, {key}, {threshold(self.p)}, S({self.factor!r}), b{source}"
        reads = [source, to] if add else [source]
        writer.emit(f"bpx::graph_drop<R, S>({call}, b{to}, tile.used, {flag(add)})", reads, [to], {to: (source,)})


def threshold(p: float) -> int:
    """A number is dropped if its draw of DRAW_BITS bits is below this."""
    return round(p * (1 << DRAW_BITS))


def kept(xp: Any, key: int, p: float, factor: float, first: int, shape: tuple[int, int], dtype: np.dtype) -> Any:
    """0 for numbers that are dropped, ``factor`` for others, for a batch of this shape whose first row is ``first``."""
    stays = (numbers(xp, key, first, shape) >> np.uint64(64 - DRAW_BITS)) >= np.uint64(threshold(p))
    return stays.astype(dtype) * dtype.type(factor)
