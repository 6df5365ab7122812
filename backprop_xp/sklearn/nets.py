"""The nets of estimators: a chain, or with dropout or normalisation a graph, and what both have in common."""

from __future__ import annotations

from typing import Any

from ..data.nets import net_of
from ..graph import GraphNet
from ..net import Net
from ..tensor import Tensor
from .settings import Settings

Layer = tuple[Tensor, Tensor | None]  # weight (out, in) and bias (out,) of a fully connected layer


def new(settings: Settings, features: int, outputs: int, **options: Any) -> Net | GraphNet:
    """An untrained net; ``options`` are those that both kinds take."""
    return net_of(
        features,
        settings.hidden,
        outputs,
        settings.activations,
        dropout=settings.dropout,
        normalisation=settings.normalisation,
        bias=settings.bias,
        reduction="mean",
        **options,
    )


def renewed(net: Net | GraphNet, settings: Settings, loss: Any) -> Net | GraphNet:
    """The net with the functions that the settings say now, and the parameters that it has.

    That is the net itself if it is a chain. A graph's functions can't be replaced, and another one takes its Tensors.
    """
    if isinstance(net, Net):
        net.activations, net.loss = [*settings.activations, net.activations[-1]], loss
        return net
    sizes = sizes_of(net)
    other = new(
        settings,
        sizes[0],
        sizes[-1],
        loss=loss,
        dtype=net.dtype,
        rng=0,
        backend=net.backend,
        engine=net.engine,
        threads=net.threads,
    )
    assert isinstance(other, GraphNet)
    other.tensors.update(net.tensors)
    other.seed, other.draws = net.seed, net.draws
    return other


def layers_of(net: Net | GraphNet) -> list[Layer]:
    """The fully connected layers, from the input on."""
    if isinstance(net, Net):
        return [(weight, bias) for weight, bias, _ in net.layers]
    linear = [net.tensors_of(node.name) for node in net.nodes if node.form.is_linear]
    return [(own["weight"], own.get("bias")) for own in linear]


def sizes_of(net: Net | GraphNet) -> tuple[int, ...]:
    """Widths of the layers, input first."""
    shapes = [weight.data.shape for weight, _ in layers_of(net)]
    return shapes[0][1], *(out for out, _ in shapes)


def functions_of(net: Net | GraphNet) -> dict[str, Any]:
    """What may be replaced in this net, by the names of its attributes."""
    return {name: getattr(net, name) for name in ("activations", "loss") if hasattr(net, name)}


def kind_of(settings: Settings) -> tuple[str, bool]:
    """What a net that goes on can't change besides its layers."""
    return settings.normalisation, settings.dropout > 0
