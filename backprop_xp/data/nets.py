"""The nets for tables: a chain, or with more than hidden layers a graph."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, get_args

from ..graph import Chain, Dropout, GraphNet, Input, LayerNorm, Linear, Residual
from ..literals import NormalisationName
from ..net import Net

NORMALISATIONS: tuple[NormalisationName, ...] = get_args(NormalisationName)


def net_of(
    width: int,
    hidden: Sequence[int],
    outputs: int,
    activation: Any,
    *,
    residual: bool = False,
    dropout: float = 0.0,
    normalisation: NormalisationName = "none",
    bias: bool = True,
    **options: Any,
) -> Net | GraphNet:
    """An untrained net from ``width`` features to ``outputs``.

    A hidden layer is W z + b, normalised if wanted, then the activation and dropout. With ``residual``, one of the
    width of the hidden layer before it is added to what it takes.

    Args:
        activation: of the hidden layers, a name or an object, or a sequence with one for each.
        bias: whether layers have one.
        options: loss, dtype and others that both kinds of nets take.

    Returns:
        A :class:`~backprop_xp.Net` if hidden layers are all there is, else a :class:`~backprop_xp.GraphNet` with the
        input "x", hidden layers "hidden0", "hidden1", ... and the output "y".
    """
    functions = list(activation) if isinstance(activation, (list, tuple)) else [activation] * len(hidden)
    if not residual and not dropout and normalisation == "none":
        return Net((width, *hidden, outputs), (*functions, "identity"), bias=bias, **options)
    nodes: dict[str, Any] = {"x": Input(width)}
    before = "x"
    for i, (features, function) in enumerate(zip(hidden, functions)):
        steps = [Linear(features, bias), function]
        if normalisation == "layer":
            steps.insert(1, LayerNorm())
        if dropout:
            steps.append(Dropout(dropout))
        kind = Residual if residual and i and hidden[i - 1] == features else Chain
        nodes[f"hidden{i}"] = kind(*steps), before
        before = f"hidden{i}"
    return GraphNet(nodes | {"y": (Linear(outputs, bias), before)}, **options)


def check(hidden: Sequence[int], residual: bool, dropout: float, normalisation: str) -> None:
    """Raise a ValueError where one of these would change nothing."""
    if residual and not any(a == b for a, b in pairwise(hidden)):
        shown = "-".join(map(str, hidden)) or "none"
        raise ValueError(f"residual needs two neighbouring hidden layers of one width, such as 64-64, got {shown}")
    for name, used in (("dropout", dropout > 0), ("normalisation", normalisation != "none")):
        if used and not hidden:
            raise ValueError(f"{name} is of the hidden layers, and there are none")


def widths(net: Any) -> tuple[int, int] | None:
    """How many numbers the net takes and gives; None if it isn't a net that takes one array."""
    if type(net) is Net:
        return net.sizes[0], net.sizes[-1]
    if type(net) is GraphNet and len(net.inputs) == 1:
        return next(iter(net.inputs.values())), net.nodes[-1].width
    return None
