"""Plans: what a net computes, at one moment and at another."""

from __future__ import annotations

from backprop_xp import GraphNet, Input, Linear
from backprop_xp.activations import get_activation
from backprop_xp.operations import Activate, LayerNorm


def test_a_plan_has_the_activations_of_an_earlier_moment():
    node = Activate("tanh")
    description = {"x": Input(3), "n": (LayerNorm(), "x"), "a": (node, "n"), "h": (Linear(2), "a"), "y": ("relu", "h")}
    plan = GraphNet(description, backend="numpy")._plan()
    before = plan.functions()
    assert plan.with_functions(before) is plan
    node.activation = get_activation("gelu")
    earlier = plan.with_functions(before)
    assert all(map(lambda f, g: f is g, earlier.functions(), before))
    assert [n.operation.name for n in earlier.nodes] == ["input", "layer_norm", "tanh", "linear", "relu"]
    assert node.name == "gelu" and plan.functions() != before
