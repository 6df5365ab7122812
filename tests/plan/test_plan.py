"""Which nodes run as layers: by what they compute, not by the names of their classes."""

import pytest

from backprop_xp import GraphNet
from backprop_xp.graph import Activate, Input, Linear


class Named(Linear):
    name = "named"


class Doubled(Linear):
    def forward(self, z, **own):
        return 2 * z @ own["weight"].T


class Negated(Activate):
    def backward(self, grad, t):
        return -grad


def overridden(operation):
    operation.forward = lambda z, **own: z
    return operation


@pytest.mark.parametrize(
    "linear, activation, outputs",
    [
        (Linear(3), "tanh", ["z"]),
        (Named(3), Activate("tanh"), ["z"]),
        (Linear(3), Negated("tanh"), ["t", "z"]),
        (Linear(3), overridden(Activate("tanh")), ["t", "z"]),
        (Doubled(3), "tanh", ["t", "z"]),
        (overridden(Linear(3)), "tanh", ["t", "z"]),
    ],
)
def test_what_computes_otherwise_is_no_layer(linear, activation, outputs):
    net = GraphNet({"x": Input(3), "t": (linear, "x"), "z": (activation, "t")}, rng=0, backend="numpy")
    assert [step.output for step in net._plan().steps] == outputs
