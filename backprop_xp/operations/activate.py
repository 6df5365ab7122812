"""An activation as a node, and what a layer does with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import later
from ..activations import Activation, Identity, get_activation
from ..arrays import column_sums, in_launches
from ..backend import Array
from ..derivatives.activations import derivatives
from ..derivatives.chain_rule import Rules
from ..derivatives.signals import through, through_below
from ..formulas import is_formula
from ..scope import needs_whole_batch
from .base import called
from .built_in import BuiltInOperation
from .writing import Node, Writer

if TYPE_CHECKING:
    from ..programs import device_layers
else:
    device_layers = later.Module("backprop_xp.programs.device_layers")


class Activate(BuiltInOperation):
    """An activation as a node; a graph also takes the activation itself, or its name."""

    settings = {"activation": Activation}
    layer_part = "activation"

    def __init__(self, activation: str | Activation) -> None:
        self.activation: Any = get_activation(activation)

    @property
    def name(self) -> str:  # type: ignore[override]
        return called(self.activation)

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


def activate(activation: Any, t: Array, bias: Array | None = None) -> Array:
    """f(t), of the shape and dtype of ``t`` even where a user's code is careless about dtypes.

    A bias is first added to ``t``, in place; on CuPy that is one launch with a formula.
    """
    if in_launches(t) and is_formula(activation):
        return device_layers.forward(activation, t, bias)
    if bias is not None:
        t += bias
    return _checked(activation, "returned", activation(t), t)


def backpropagate(activation: Any, t: Array, grad_z: Array) -> Array:
    """grad_t = grad_z * f'(t), by the activation's own :meth:`Activation.backprop` where it has one."""
    if isinstance(activation, Activation):
        return _checked(activation, "has a gradient of", activation.backprop(t, grad_z), t)
    return _checked(activation, "has a gradient of", grad_z * activation.grad(t), t)


def layer_gradients(activation: Any, t: Array, grad_z: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """grad_t, and the bias's gradient: the sum of grad_t over the samples, None without a bias."""
    if in_launches(t) and is_formula(activation):
        return device_layers.backward(activation, t, grad_z, bias is not None)
    grad_t = backpropagate(activation, t, grad_z)
    return grad_t, None if bias is None else column_sums(grad_t)


def _checked(activation: Any, does: str, result: Array, t: Array) -> Array:
    if getattr(result, "shape", None) != t.shape:
        shape = getattr(result, "shape", type(result).__name__)
        raise ValueError(f"{type(activation).__name__} {does} shape {shape} for input of shape {t.shape}")
    return result if result.dtype == t.dtype else result.astype(t.dtype)
