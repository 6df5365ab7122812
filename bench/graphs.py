"""How the layers of a case are connected, ours and everybody's: Case.form names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from backprop_xp import Graph

if TYPE_CHECKING:
    from backprop_xp.bench.cases import Case


def connect(form: str, layers: Sequence[Callable[[Any], Any]], z: Any, concatenate: Any) -> Any:
    """The output of layers, each a function of one value, for an input; see Case.form."""
    if form == "residual":
        for first, second in zip(layers[:-1:2], layers[1::2]):
            z = z + second(first(z))
        return layers[-1](z)
    if form == "dense":
        seen = [z]
        for layer in layers:
            seen.append(layer(concatenate(seen)))
        return seen[-1]
    for layer in layers:
        z = layer(z)
    return z


def net(case: Case, **options: Any) -> Any:
    """Ours for a case that is no chain; layer 0 has the parameters "0.weight" and "0.bias"."""
    g = Graph()

    def layer(i: int, z: Any) -> Any:
        return g.apply(case.activations[i], g.linear(z, case.sizes[i + 1], case.bias, name=str(i)))

    layers = [partial(layer, i) for i in range(len(case.activations))]
    end = connect(case.form, layers, g.input(case.sizes[0]), lambda seen: g.concatenate(*seen))
    return g.net(end, **options)
