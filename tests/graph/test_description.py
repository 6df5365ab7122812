"""What may be written down as a graph, and what is said about the rest."""

import itertools

import numpy as np
import pytest

from backprop_xp import GraphNet, Tanh
from backprop_xp.graph import Chain, Dropout, Input, LayerNorm, Linear, Residual
from backprop_xp.graph.description import as_nodes

GOOD = {
    "x": Input(4),
    "h": (Linear(4), "x"),
    "a": ("tanh", "h"),
    "s": ("add", "a", "x"),
    "y": (Linear(3), "s"),
}


def test_the_order_of_the_mapping_does_not_matter():
    x = np.ones((2, 4))
    losses = set()
    for names in itertools.permutations(GOOD):
        net = GraphNet({name: GOOD[name] for name in names}, rng=0)
        losses.add(float(net.loss_and_grad(x)))
        assert [node.name for node in net.nodes] == ["x", "h", "a", "s", "y"]
    assert len(losses) == 1


def test_every_node_comes_after_its_inputs_and_has_a_width():
    nodes = as_nodes({"z": ("concatenate", "b", "a", "b"), "b": Input(3), "a": (Linear(2), "b")})
    assert [(node.name, node.width) for node in nodes] == [("b", 3), ("a", 2), ("z", 8)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": (Linear(4), "s")}, r"the nodes '\w' -> '\w' -> '\w' -> '\w' form a cycle"),
        ({"h": (Linear(4), "h")}, "the nodes 'h' -> 'h' form a cycle"),
        ({"h": (Linear(4), "X")}, "node 'h' takes an input that is not there: unknown node 'X'"),
        ({"lost": ("tanh", "h")}, "a graph has one output: the nodes 'y', 'lost' are used by no other"),
        ({"h": (Linear(5), "x")}, r"node 's' \(add\): its inputs must be of one width; 'a' has 5 features, 'x' has 4"),
        ({"h": (Linear(4), "x", "x")}, r"node 'h' \(linear\) takes 1 input\(s\), got 2"),
        ({"s": ("add",)}, r"node 's' \(add\) takes at least 1 input\(s\), got 0"),
        ({"x": (Input(4), "h")}, r"node 'x' \(input\) takes 0 input\(s\), got 1"),
        ({"a": ("tahn", "h")}, "node 'a': unknown operation 'tahn'; did you mean 'tanh'"),
        ({"y": (Linear(3, share="h"), "s")}, r"node 'y' can't share the weights of 'h': they are \(4, 4\) with a bias, and it needs \(3, 4\)"),
        ({"y": (Linear(3, share="a"), "s")}, "node 'y' can't share weights of 'a', which is no linear node"),
        ({"y": (Linear(3, share="b"), "s")}, "node 'y' shares weights: unknown node 'b'"),
        ({"h": (Residual(Linear(5)), "x")}, r"node 'h' \(add\): its inputs must be of one width; 'x' has 4"),
        ({"h": (Chain("tanh"), "x", "x")}, r"node 'h' \(chain\) takes 1 input, got 2"),
        ({"a": (Chain("tanh", "relu"), "h"), "a.0": ("relu", "x")}, "two nodes are called 'a.0'"),
    ],
)  # fmt: skip
def test_mistakes_name_the_nodes(change, message):
    with pytest.raises(ValueError, match=message):
        as_nodes(GOOD | change)


def test_a_node_that_the_named_output_does_not_use_is_an_error():
    with pytest.raises(ValueError, match="the output 'a' does not use 's', 'y'"):
        as_nodes(GOOD, "a")
    with pytest.raises(ValueError, match="the output is not there: unknown node 'end'"):
        as_nodes(GOOD, "end")
    with pytest.raises(ValueError, match="a graph has one output: there is no node"):
        as_nodes({})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((Linear, "x"), "node 'h': an operation is a name, an Operation or an activation, got Linear"),
        ((3, "x"), "node 'h': an operation is a name, an Operation or an activation, got int"),
        ((Linear(4), 7), "node 'h': the inputs must be names of nodes, got 7"),
    ],
)
def test_what_is_no_operation(entry, message):
    with pytest.raises(TypeError, match=message):
        as_nodes(GOOD | {"h": entry})
    with pytest.raises(TypeError, match="a node's name must be a printable string, got 5"):
        as_nodes({5: Input(3)})


@pytest.mark.parametrize(
    "make", [lambda: Linear(0), lambda: Input(-1), lambda: Linear(2.5), lambda: Dropout(1.5), Chain]
)
def test_arguments_of_operations_are_checked(make):
    with pytest.raises(ValueError, match=r"must be|at least one|needs"):
        make()


def test_chains_and_residual_blocks_become_nodes():
    block = Residual(Linear(4), Tanh(), Linear(4), LayerNorm())
    nodes = as_nodes({"x": Input(4), "y": (Chain(block, "relu", Linear(2)), "x")})
    assert [(node.name, node.inputs) for node in nodes] == [
        ("x", ()), ("y.0.0", ("x",)), ("y.0.1", ("y.0.0",)), ("y.0.2", ("y.0.1",)), ("y.0.3", ("y.0.2",)),
        ("y.0", ("x", "y.0.3")), ("y.1", ("y.0",)), ("y", ("y.1",)),
    ]  # fmt: skip
