"""One call of a net, computed in float64 on NumPy with everything kept, and what its parts are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backend import NUMPY
from ..check import in_double
from ..engines import layered
from ..formulas.notation import latex_name
from ..plan.call import Call, Values
from ..plan.plan import Node
from ..tensor import Tensor
from .math import Math

#: What the article calls the parameters of a layer, and the names of other parameters in LaTeX.
LETTERS = {"weight": "W", "bias": "b"}
GREEK = {"gain": r"\gamma", "bias": r"\beta"}


@dataclass
class Case:
    """A call, the values of all nodes and their gradients.

    Attributes:
        net: a copy of the user's net in float64 on NumPy.
        call: what was computed; its loss is without settings that are in its target and weights.
        values: of every node, (n, width), or (width,) for one sample of a chain.
        loss: the number.
        gradients: in every parameter by the node that owns it and its name there.
        sample: the number of the sample whose arithmetic is shown.
    """

    net: Any
    call: Call
    values: Values
    loss: float
    gradients: dict[tuple[str, str], np.ndarray]
    sample: int = 0
    nodes: dict[str, Node] = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.call.plan.nodes}

    @property
    def layered(self) -> bool:
        """Whether the net was written as layers, and is to be shown with the article's letters."""
        return self.call.plan.layered

    @property
    def samples(self) -> int:
        return self.call.samples

    def rows(self, name: str) -> np.ndarray:
        """A node's value, (n, width)."""
        return np.atleast_2d(self.values.data[name])

    def grad_rows(self, name: str) -> np.ndarray:
        """The gradient in a node's value, (n, width)."""
        return np.atleast_2d(self.values.grads[name])

    def value(self, name: str) -> np.ndarray:
        """A node's value of the sample that is shown, (width,)."""
        return self.rows(name)[self.sample]

    def grad(self, name: str) -> np.ndarray:
        """The gradient in a node's value of the sample that is shown, (width,)."""
        return self.grad_rows(name)[self.sample]

    def own(self, node: Node) -> dict[str, np.ndarray]:
        """A node's parameters by name, its own or shared."""
        return dict(self.call.parameters.get(node.owner, {}))

    @property
    def targets(self) -> np.ndarray | None:
        """The targets: (n, outputs), or (n,) class indices; None where the loss takes none."""
        y = self.call.y
        if y is None:
            return None
        single = y.ndim < len(self.call.output_shape) if y.dtype.kind in "biu" else y.ndim == 1
        return np.atleast_1d(y) if y.dtype.kind in "biu" else np.atleast_2d(y) if single else y

    @property
    def weights(self) -> np.ndarray | None:
        """What the samples' losses are multiplied by, (n,); None: 1."""
        return None if self.call.weight is None else np.atleast_1d(self.call.weight)

    @property
    def factor(self) -> float:
        """What the loss of the sample that is shown is multiplied by: the call's scale, times its weight."""
        return self.call.scale * (1.0 if self.weights is None else float(self.weights[self.sample]))

    @property
    def tensors(self) -> dict[Tensor, list[tuple[str, str]]]:
        """Every Tensor of the copy, with the places (node, parameter) where it stands."""
        places: dict[Tensor, list[tuple[str, str]]] = {}
        for node, own in self.net._tensors().items():
            for name, tensor in own.items():
                places.setdefault(tensor, []).append((node, name))
        return places

    # ---- names ------------------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> Math:
        """What a node's value is called: t_0 in a chain, the node's name in a graph."""
        text = self.call.plan.symbol(name)
        return Math(text, latex_name(name) if text == name else f"{name[0]}_{{{name[1:]}}}")

    def parameter(self, node: Node, name: str) -> Math:
        """What a parameter is called: W_0 in a chain, "h.weight" in a graph."""
        linear, owner = "weight" in self.own(node), self.symbol(node.owner)
        if self.layered and linear:
            letter, index = LETTERS[name], node.owner[1:]
            return Math(f"{letter}_{index}", f"{letter}_{{{index}}}")
        letter = (LETTERS if linear else GREEK).get(name, latex_name(name))
        return Math(f"{owner.text}.{name}", f"{letter}_{{{owner.latex}}}")


def on_host(given: Any) -> Any:
    """What a call is given, with arrays of a CUDA device copied to the host."""
    if isinstance(given, Mapping):
        return {name: on_host(array) for name, array in given.items()}
    return NUMPY.take(given) if hasattr(given, "__cuda_array_interface__") else given


def computed(net: Any, x: Any, y: Any, sample_weight: Any, training: bool) -> Case:
    """The call of ``net.loss_and_grad`` that would be next, on a copy; the net stays as it is."""
    double = in_double(net)
    call = double._loss_call(x, y, sample_weight, True, training)
    call.input_grad = True
    result = layered.loss_and_grad(call)
    assert result.values is not None
    places = [(owner, name) for owner, own in call.parameters.items() for name in own]
    return Case(double, call, result.values, float(result.loss), dict(zip(places, result.parameters)))
