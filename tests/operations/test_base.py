"""Operations of the user's: what they are told, and what is said where they return something odd."""

from __future__ import annotations

import numpy as np
import pytest

from backprop_xp import GraphNet, Input, Linear, Operation


class Plain(Operation):
    scope = "sample"

    def forward(self, z, **given):
        return z

    def backward(self, grad, z, **given):
        return grad


class Noisy(Plain):
    """Adds what its context gives it."""

    scope = "sample"
    needs_key = True

    def __init__(self):
        self.seen = []

    def from_context(self, context, z):
        self.seen.append((context.node, context.training, context.key, context.first, context.shape, context.dtype))
        return {"noise": context.xp.full(context.shape, (context.key or 0) % 1000, context.dtype)}

    def forward(self, z, noise):
        return z + noise


def test_the_context_says_where_it_runs():
    noisy = Noisy()
    net = GraphNet({"x": Input(3), "a": (noisy, "x"), "b": (Linear(2), "a")}, rng=0, engine="layered", dtype="float32")
    x = np.ones((5, 3), np.float32)
    net.loss_and_grad(x)
    net.loss_and_grad(x)
    net.forward(x)
    keys = [key for _, _, key, *_ in noisy.seen]
    assert keys[0] != keys[1] and keys[2] is None  # each training call draws anew
    assert [training for _, training, *_ in noisy.seen] == [True, True, False]
    assert {(node, first, shape, dtype) for node, _, _, first, shape, dtype in noisy.seen} == {
        ("a", 0, (5, 3), np.dtype("float32"))
    }
    assert net.draws == 2


def test_it_is_told_where_its_tile_begins_and_draws_alike_there():
    noisy = Noisy()
    net = GraphNet({"x": Input(3), "a": (noisy, "x")}, rng=0, engine="tiled", threads=1)
    net.loss_and_grad(np.ones((100_000, 3)))
    keys = {key for _, _, key, *_ in noisy.seen}
    firsts = [first for _, _, _, first, *_ in noisy.seen]
    assert len(keys) == 1 and len(firsts) > 1
    assert firsts == [sum(shape[0] for *_, shape, _ in noisy.seen[:i]) for i in range(len(firsts))]


class Counting(Plain):
    """Counts the samples it has seen."""

    scope = "sample"
    returned: object = None

    def initial_buffers(self, widths):
        return {"seen": np.zeros(1)}

    def new_buffers(self, context, z, seen):
        return {"seen": seen + len(z)} if self.returned is None else self.returned


def test_what_changes_its_buffers_does_so_once_a_call_of_all_samples():
    net = GraphNet({"x": Input(3), "c": (Counting(), "x")}, rng=0)
    x = np.ones((9000, 3))
    assert "not tiled: node 'c' needs the whole batch in training, to change its buffers" in net.plan(x).reason
    net.loss_and_grad(x)
    net.loss_and_grad(x[:5])
    net.loss_and_grad(x[0])
    assert net.buffers["c.seen"].data == 9006
    net.engine = "tiled"
    net.forward(x)
    net.loss_and_grad(x, training=False)
    assert net.buffers["c.seen"].data == 9006


@pytest.mark.parametrize(
    "returned, message",
    [
        ({"sene": np.zeros(1)}, "node 'c' returned a buffer 'sene' that it doesn't have"),
        ({"seen": np.zeros(2)}, r"node 'c' returned as buffer 'seen' shape \(2,\), expected \(1,\)"),
        ({"seen": 1.0}, r"node 'c' returned as buffer 'seen' shape float, expected \(1,\)"),
    ],
)
def test_odd_buffers_are_named_and_nothing_is_changed(returned, message):
    operation = Counting()
    operation.returned = returned
    net = GraphNet({"x": Input(3), "c": (operation, "x")}, rng=0)
    with pytest.raises(ValueError, match=message):
        net.loss_and_grad(np.ones((4, 3)))
    assert net.buffers["c.seen"].data == 0


def test_a_parameter_and_a_buffer_of_one_name():
    class Both(Counting):
        def initial(self, widths, draw):
            return {"seen": np.zeros(1)}

    with pytest.raises(ValueError, match="node 'c' has a parameter and a buffer called 'seen'"):
        GraphNet({"x": Input(3), "c": (Both(), "x")})


def test_attributes_of_a_users_operation_may_be_called_anything():
    """What graphs ask of built-in operations is not asked of it."""

    class Own(Plain):
        scope = "sample"

        def __init__(self):
            self.share = self.settings = self.shapes = self.functions = self.vectors = self.facts = self.write = 7
            self.is_input = self.joins = self.wanted = self.multiply_adds = self.onnx = self.fewest_samples = "mine"

    nodes = {"x": Input(3), "a": (Own(), "x"), "y": (Linear(2), "a")}
    net = GraphNet(nodes, rng=0)
    x = np.random.default_rng(0).normal(size=(2000, 3))
    assert net.plan(x).engine == "tiled" and net.plan(x).flops == 2 * 2000 * 2 * 6
    net.fit(x, epochs=1)
    assert "Own" in str(net.draw())
    assert net.save and net.loss_and_grad(x) > 0
