"""Normalisation of each feature over the batch (Ioffe and Szegedy, 2015), as in PyTorch's BatchNorm1d."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import column_sums
from ..backend import Array
from ..derivatives.chain_rule import Rules
from ..ranges import Ranged
from .base import Context, Draw, WholeBatch
from .built_in import BuiltInOperation, flag
from .rounded import Computed, normalised
from .writing import Node, Writer


class BatchNorm(BuiltInOperation):
    """(z - mean) / sqrt(variance + eps) over the samples of a batch, times a gain, plus a bias.

    In training, mean and variance are the batch's, the variance divided by n. The buffers running_mean and running_var
    move by ``momentum`` towards them, the latter towards the variance divided by n - 1. Elsewhere the buffers take
    the place of the batch's, and every sample is treated for itself.

    Raises:
        ValueError: in training, of a batch of one sample.
    """

    name = "batch_norm"
    eps = Ranged("0 <= eps < inf")
    momentum = Ranged("0 <= momentum <= 1")
    scope = "batch in training"
    fewest_samples = 2  # the variance of one is divided by 0
    settings = {"eps": float, "momentum": float}
    vectors, constants = ("gain", "bias"), ("running_mean", "running_var")
    of_batch = 4  # sums, sums of squares, and what the buffers become

    def __init__(self, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum

    def initial(self, widths: tuple[int, ...], draw: Draw) -> Mapping[str, Any]:
        return {"gain": np.ones(widths[0]), "bias": np.zeros(widths[0])}

    def initial_buffers(self, widths: tuple[int, ...]) -> Mapping[str, Any]:
        return {"running_mean": np.zeros(widths[0]), "running_var": np.ones(widths[0])}

    def from_context(self, context: Context, *inputs: Array) -> Mapping[str, Any]:
        if context.training:
            return self.from_parts(context, inputs, WholeBatch(len(inputs[0])))
        return self._given(context, *(context.buffers[name] for name in self.constants))

    def from_parts(self, context: Context, inputs: Sequence[Array], batch: WholeBatch) -> Mapping[str, Any]:
        mean, variance = _statistics(context, inputs, batch)
        return self._given(context, mean, variance, batch)

    def _given(
        self, context: Context, mean: Array, variance: Array, batch: WholeBatch | None = None
    ) -> Mapping[str, Any]:
        scale = 1 / context.xp.sqrt(variance + context.dtype.type(self.eps))
        return {"mean": mean, "variance": variance, "scale": scale, "batch": batch}

    def forward(self, *inputs: Array, **given: Any) -> Array:
        normal = _normal(inputs[0], given)
        normal *= given["gain"]
        normal += given["bias"]
        return normal

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        batch = given["batch"]
        if batch is not None:
            return self.backward_of_parts([grad], inputs, **given)[0]
        normal = _normal(inputs[0], given)
        return grad * (given["gain"] * given["scale"]), column_sums(grad * normal), column_sums(grad)

    def backward_of_parts(
        self, grads: Sequence[Array], inputs: Sequence[Array], batch: WholeBatch, **given: Any
    ) -> list[Any]:
        normals = [_normal(z, given) for z in inputs]
        sums = [(column_sums(grad * normal), column_sums(grad)) for grad, normal in zip(grads, normals)]
        grad_gain, grad_bias = (batch.total([own[k] for own in sums], given["gain"]) for k in range(2))
        factor, n, found = given["gain"] * given["scale"], max(batch.samples, 1), []
        for grad, normal, own in zip(grads, normals, sums):
            normal *= grad_gain / n  # mean and variance depend on z as well
            normal += grad_bias / n
            found.append((factor * (grad - normal), *own))
        return found

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        """In use alone, where mean and variance are constants."""
        z = inputs[0] * (given["gain"] * given["scale"])
        z[0] = self.forward(inputs[0][0], **given)
        return z

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        normal = inputs[0] * given["scale"]
        normal[0] = _normal(inputs[0][0], given)
        below = grad * (given["gain"] * given["scale"])
        return below, column_sums((grad * normal).sum(axis=0)), column_sums(grad[0])

    def per_sample(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        """In use alone, where a sample's gradients are its own."""
        return grad * _normal(inputs[0], given), grad

    def new_buffers(self, context: Context, *inputs: Array, **given: Any) -> Mapping[str, Array]:
        n, share = given["batch"].samples, context.dtype.type(self.momentum)
        if n == 0:
            return {}
        found = given["mean"], given["variance"] * (n / (n - 1))
        return {name: (1 - share) * context.buffers[name] + share * value for name, value in zip(self.constants, found)}

    def computed(self, value: Array, inputs: Sequence[Array], own: Mapping[str, Array]) -> Computed:
        return normalised(inputs[0], 0, self.eps)

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str:
        arrays = [own[name] for name in (*self.vectors, *self.constants)]
        return writer.add("BatchNormalization", inputs[0], *arrays, epsilon=self.eps)

    def module(self, maker: Any, width: int, own: Mapping[str, Any]) -> Any:
        normalisation = maker.torch.nn.BatchNorm1d(width, self.eps, self.momentum, dtype=own["gain"].dtype)
        normalisation.weight, normalisation.bias = own["gain"], own["bias"]
        for name in self.constants:
            getattr(normalisation, name).copy_(own[name])
        return normalisation

    def in_torch(self, maker: Any, inputs: Sequence[Any], own: Mapping[str, Any]) -> Any:
        (z,) = inputs
        if maker.training:
            centred = z - z.mean(0)
            variance = (centred * centred).mean(0)
        else:
            mean, variance = (maker.buffer(name) for name in self.constants)
            centred = z - mean
        return centred * maker.torch.rsqrt(variance + self.eps) * own["gain"] + own["bias"]

    def facts(self) -> tuple[Any, ...]:
        return BatchNorm, self.eps, self.momentum

    # ---- compiled ---------------------------------------------------------------------------------------------------

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        place, source = writer.place(node), writer.values[inputs[0]]
        gain, bias = (f"params + {place.vectors[name][0]}" for name in self.vectors)
        mean, variance = (f"params + {place.constants[name]}" for name in self.constants)
        if writer.whole_batch:
            self._write_statistics(writer, node, source, f"{mean}, {variance}")
            self._write_normal(writer, node, source, f"{gain}, {bias}", to)
            return
        normal = writer.keep(node, node.width)
        call = f"{node.width}, S({self.eps!r}), {mean}, {variance}, {gain}, {bias}, b{source}, b{normal}, b{to}"
        writer.emit(f"bpx::graph_standardise<R, S>({call}, tile.used)", [source], [normal, to], {normal: (source,)})

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        place, width = writer.placed(node), node.width
        gains, biases = (place.vectors[name][1] for name in self.vectors)
        normal = self._normal_below(writer, node, inputs[0])
        writer.column_sums(width, grad, normal, gains)
        writer.column_sums(width, grad, None, biases)
        if inputs[0] not in writer.wanted:
            return
        gain = f"params + {place.vectors['gain'][0]}"
        if writer.whole_batch:
            writer.wait(gains)
            normal = self._normal_below(writer, node, inputs[0])  # rather than to keep it
            squares = writer.of_batch(node) + width
            step = f"batch_below<R, S>(args, {width}, S({self.eps!r}), {squares}, {gain}, {gains}, {biases}, b{normal}"
            reads = [normal, grad]
        else:
            variance = f"params + {place.constants['running_var']}"
            step, reads = f"standardise_below<R, S>({width}, S({self.eps!r}), {variance}, {gain}", [grad]
        to, add = writer.target(inputs[0])
        call = f"bpx::graph_{step}, b{grad}, b{to}, tile.used, {flag(add)})"
        writer.emit(call, [*reads, *([to] if add else [])], [to])

    def _write_statistics(self, writer: Writer, node: Node, source: int, running: str) -> None:
        """The batch's sums, then the sums of squares, which need them; and what the buffers become."""
        width, at = node.width, writer.of_batch(node)
        writer.column_sums(width, source, None, at)
        writer.wait(at, width)
        call = f"args, {width}, {at}, b{source}, grads + {at + width}, tile.valid, tile.add"
        writer.emit(f"bpx::graph_squares<R, S>({call})", [source], [])
        writer.wait(at + width, width)
        call = f"args, {width}, S({self.momentum!r}), {running}, {at}, tile.add"
        writer.emit(f"bpx::graph_move_statistics<R, S>({call})", [], [])

    def _write_normal(self, writer: Writer, node: Node, source: int, vectors: str, to: int) -> None:
        call = f"args, {node.width}, S({self.eps!r}), {writer.of_batch(node)}, {vectors}, b{source}, b{to}, tile.used"
        writer.emit(f"bpx::graph_batch_normalise<R, S>({call})", [source], [to], {to: (source,)})

    def _normal_below(self, writer: Writer, node: Node, piece: str) -> int:
        """The buffer that holds the value without gain and bias."""
        if not writer.whole_batch:
            return writer.kept[node.name][0]
        normal = writer.keep(node, node.width)
        self._write_normal(writer, node, writer.values[piece], "(const S*)nullptr, (const S*)nullptr", normal)
        return normal


def _statistics(context: Context, parts: Sequence[Array], batch: WholeBatch) -> tuple[Array, Array]:
    """Mean and variance of every feature over the samples."""
    if 0 < batch.samples < BatchNorm.fewest_samples:
        raise ValueError(
            f"node {context.node!r} (batch_norm) needs at least 2 samples in training, got 1; "
            "with training=False it takes its running mean and variance"
        )
    n, like = max(batch.samples, 1), context.buffers["running_mean"]
    mean = batch.total([column_sums(z) for z in parts], like) / n
    squares = []
    for z in parts:
        centred = z - mean
        centred *= centred
        squares.append(column_sums(centred))
    return mean, batch.total(squares, like) / n


def _normal(z: Array, given: Mapping[str, Any]) -> Array:
    normal = z - given["mean"]
    normal *= given["scale"]
    return normal
