"""Softmax over the features of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import Array, module_of
from .built_in import BuiltInOperation


class Softmax(BuiltInOperation):
    """exp(z_k) / sum_j exp(z_j), the probabilities of classes from their logits.

    For training end with the logits instead, and take the loss "softmax_cross_entropy", which holds it: nothing is
    compiled for this one.
    """

    name = "softmax"
    scope = "sample"

    def forward(self, *inputs: Array, **given: Any) -> Array:
        return softmax(inputs[0])

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        p = self.forward(*inputs)
        return p * (grad - (p * grad).sum(axis=1, keepdims=True))

    def onnx(self, writer: Any, inputs: Sequence[str], own: Any) -> str:
        return writer.add("Softmax", inputs[0], axis=1)

    def module(self, maker: Any, width: int, own: Any) -> Any:
        return maker.torch.nn.Softmax(dim=-1)

    def in_torch(self, maker: Any, inputs: Sequence[Any], own: Any) -> Any:
        return maker.torch.softmax(inputs[0], -1)


def softmax(z: Array) -> Array:
    """exp(z_k) / sum_j exp(z_j) of every row of z (n, features)."""
    powers = module_of(z).exp(z - z.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
