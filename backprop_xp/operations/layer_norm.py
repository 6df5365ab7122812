"""Normalisation of each sample over its features (Ba et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import column_sums
from ..backend import Array, module_of
from ..derivatives.chain_rule import Rules
from ..derivatives.signals import product, product_below, through, through_below
from ..ranges import Ranged
from .base import Draw
from .built_in import BuiltInOperation, flag
from .rounded import Computed, normalised
from .writing import Node, Writer


class LayerNorm(BuiltInOperation):
    """(z - mean) / sqrt(variance + eps) over the features of a sample, times a gain, plus a bias (Ba et al., 2016)."""

    name = "layer_norm"
    eps = Ranged("0 <= eps < inf")
    scope = "sample"
    settings = {"eps": float}
    vectors = ("gain", "bias")

    def __init__(self, eps: float = 1e-5) -> None:
        self.eps = eps

    def initial(self, widths: tuple[int, ...], draw: Draw) -> Mapping[str, Any]:
        return {"gain": np.ones(widths[0]), "bias": np.zeros(widths[0])}

    def forward(self, *inputs: Array, **given: Any) -> Array:
        normal, _ = self._normal(inputs[0])
        normal *= given["gain"]
        normal += given["bias"]
        return normal

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        normal, scale = self._normal(inputs[0])
        grad_normal = grad * given["gain"]
        mean = grad_normal.mean(axis=1, keepdims=True)
        along = (grad_normal * normal).mean(axis=1, keepdims=True)
        return scale * (grad_normal - mean - normal * along), column_sums(grad * normal), column_sums(grad)

    def _normal(self, z: Array) -> tuple[Array, Array]:
        centred = z - z.mean(axis=1, keepdims=True)
        variance = (centred * centred).mean(axis=1, keepdims=True)
        scale = 1 / module_of(z).sqrt(variance + z.dtype.type(self.eps))
        return centred * scale, scale

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        *_, normal = self._stacks(inputs[0], rules)
        normal *= given["gain"]
        normal[0] += given["bias"]
        return normal

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        centred, variance, scale, normal = self._stacks(inputs[0], rules)
        grad_normal = grad * given["gain"]
        grad_scale = product_below(grad_normal, centred, rules).sum(axis=-1, keepdims=True)
        grad_variance = through_below(_inverse_root(variance[0], rules.order + 1), variance, grad_scale, rules)
        grad_square = module_of(grad).broadcast_to(grad_variance / grad.shape[-1], grad.shape)
        grad_centred = product_below(grad_normal, scale, rules) + 2 * product_below(grad_square, centred, rules)
        below = grad_centred - grad_centred.mean(axis=-1, keepdims=True)
        return below, column_sums((grad * normal).sum(axis=0)), column_sums(grad[0])

    def _stacks(self, z: Array, rules: Rules) -> tuple[Array, Array, Array, Array]:
        """Of z - mean, of the variance + eps, of one over its root, and of their product: functions of the stack z."""
        centred = z - z.mean(axis=-1, keepdims=True)
        variance = product(centred, centred, rules).mean(axis=-1, keepdims=True)
        variance[0] += z.dtype.type(self.eps)
        scale = through(_inverse_root(variance[0], rules.order), variance, rules)
        return centred, variance, scale, product(centred, scale, rules)

    def per_sample(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        normal, _ = self._normal(inputs[0])
        return grad * normal, grad

    def computed(self, value: Array, inputs: Sequence[Array], own: Mapping[str, Array]) -> Computed:
        return normalised(inputs[0], -1, self.eps)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        return writer.add("LayerNormalization", inputs[0], own["gain"], own["bias"], epsilon=self.eps)

    def module(self, maker: Any, width: int, own: Mapping[str, Any]) -> Any:
        normalisation = maker.torch.nn.LayerNorm(width, self.eps)
        normalisation.weight, normalisation.bias = own["gain"], own["bias"]
        return normalisation

    def in_torch(self, maker: Any, inputs: Sequence[Any], own: Mapping[str, Any]) -> Any:
        gain = own["gain"]
        return maker.torch.nn.functional.layer_norm(inputs[0], gain.shape, gain, own["bias"], self.eps)

    def facts(self) -> tuple[Any, ...]:
        return LayerNorm, self.eps

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        place, source = writer.place(node), writer.values[inputs[0]]
        normal, scale = writer.keep(node, node.width), writer.keep(node, 1)
        gain, bias = (f"params + {place.vectors[name][0]}" for name in self.vectors)
        call = f"{node.width}, S({self.eps!r}), {gain}, {bias}, b{source}, b{normal}, b{scale}, b{to}, tile.used"
        writer.emit(f"bpx::graph_normalise<R, S>({call})", [source], [normal, scale, to], {normal: (source,)})

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        vectors, width = writer.placed(node).vectors, node.width
        normal, scale = writer.kept[node.name]
        writer.column_sums(width, grad, normal, vectors["gain"][1])
        writer.column_sums(width, grad, None, vectors["bias"][1])
        if inputs[0] in writer.wanted:
            to, add = writer.target(inputs[0])
            gain = f"params + {vectors['gain'][0]}"
            call = f"{width}, {gain}, b{normal}, b{scale}, b{grad}, b{to}, tile.used, {flag(add)}"
            reads = [normal, scale, grad, *([to] if add else [])]
            writer.emit(f"bpx::graph_normalise_below<R, S>({call})", reads, [to])


def _inverse_root(v: Array, order: int) -> list[Array]:
    """1 / sqrt(v) and its derivatives up to this order."""
    found = [1 / module_of(v).sqrt(v)]
    for k in range(order):
        found.append(found[-1] * (-0.5 - k) / v)
    return found
