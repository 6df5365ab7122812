"""An activation as a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..activations import Activation, Identity, activate, backpropagate, get_activation
from ..backend import Array
from ..derivatives.activations import derivatives
from ..derivatives.chain_rule import Rules
from ..derivatives.signals import through, through_below
from ..scope import needs_whole_batch
from .built_in import BuiltInOperation
from .writing import Node, Writer


class Activate(BuiltInOperation):
    """An activation as a node; a graph also takes the activation itself, or its name."""

    settings = {"activation": Activation}

    def __init__(self, activation: str | Activation) -> None:
        self.activation: Any = get_activation(activation)

    @property
    def name(self) -> str:  # type: ignore[override]
        return getattr(self.activation, "name", "") or type(self.activation).__name__

    def in_layer(self) -> Any:
        return self.activation

    @property
    def scope(self) -> str:
        return "batch" if needs_whole_batch(self.activation) else "sample"

    def forward(self, *inputs: Array, **given: Any) -> Array:
        return activate(self.activation, inputs[0])

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        return backpropagate(self.activation, inputs[0], grad)

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        (t,) = inputs
        return through(derivatives(self.activation, t[0], rules.order), t, rules)

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        (t,) = inputs
        return through_below(derivatives(self.activation, t[0], rules.order + 1), t, grad, rules)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        return writer.activation(self.activation, inputs[0])

    def module(self, maker: Any, width: int, own: Mapping[str, Any]) -> Any:
        return maker.activation(self.activation)

    def in_torch(self, maker: Any, inputs: Sequence[Any], own: Mapping[str, Any]) -> Any:
        return maker.activation(self.activation, inputs[0])

    @property
    def functions(self) -> Sequence[Any]:
        return (self.activation,)

    def facts(self) -> tuple[Any, ...]:
        return Activate, self.activation.text

    def passes_on(self, inputs: int, dropping: bool) -> bool:
        return self.activation.text == Identity.text

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        source, slope, writes = writer.values[inputs[0]], "nullptr", [to]
        over: dict[int, tuple[int, ...]] = {to: (source,)}
        if writer.backward and node.name in writer.wanted:
            kept = writer.keep(node, node.width)
            slope, writes, over = f"b{kept}", [kept, to], {kept: (source,)}
        kind, scalars = writer.function(self.activation)
        call = f"{node.width}, scalars + {scalars}, b{source}, b{to}, (S*){slope}, tile.used"
        writer.emit(f"bpx::graph_activate<{kind}, R, S>({call})", [source], writes, over)

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        writer.add_product(inputs[0], grad, writer.kept[node.name])
