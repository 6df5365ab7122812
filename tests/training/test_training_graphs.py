"""Graph nets in training: inputs by name, dropout that goes on in a resumed run, nodes that are named."""

import numpy as np
import pytest
from runs import assert_same

from backprop_xp.graph import Add, Dropout, GraphNet, Input, LayerNorm, Linear
from backprop_xp.training import Adam, DivergedError, steps


def net(rng=0):
    return GraphNet(
        {
            "a": Input(3),
            "b": Input(2),
            "h": (Linear(6), "a"),
            "k": (Linear(6), "b"),
            "s": (Add(), "h", "k"),
            "n": (LayerNorm(), "s"),
            "t": ("tanh", "n"),
            "d": (Dropout(0.3), "t"),
            "y": (Linear(2), "d"),
        },
        loss="mse",
        reduction="mean",
        rng=rng,
        backend="numpy",
    )


@pytest.fixture
def data(random):
    a = random.normal(size=(40, 3))
    return {"a": a, "b": a[:, :2] ** 2}, np.sin(a[:, :2])


def test_several_inputs_by_name(data):
    losses = [
        epoch.loss
        for epoch in net().fit(*data, epochs=30, batch_size=8, optimiser=Adam(lr=0.01), validation=data).epochs
    ]
    assert losses[-1] < 0.7 * losses[0]


def test_a_run_is_the_same_twice_and_goes_on_where_it_ended(data, tmp_path):
    options = {"batch_size": 8, "checkpoint_every": 2, "checkpoint": tmp_path}
    whole, again, part, other = net(), net(), net(), net(rng=5)
    whole.fit(*data, epochs=4, batch_size=8)
    again.fit(*data, epochs=4, batch_size=8)
    assert_same(whole, again)
    part.fit(*data, epochs=2, **options)
    other.fit(*data, epochs=4, resume=True, **options)
    assert_same(whole, other)


def test_validation_draws_nothing(data):
    a, b = net(), net()
    a.fit(*data, epochs=2, validation=data)
    b.fit(*data, epochs=2)
    assert_same(a, b)


def test_the_generator(data):
    assert [step.samples for step in steps(net(), *data, batch_size=16)] == [16, 16, 8]


def test_the_first_node_that_is_not_finite_is_named(data):
    made = net()
    made.tensors["k.bias"].data[:] = 1e308
    made.tensors["h.bias"].data[:] = 1e308
    with pytest.raises(DivergedError, match="s is the first signal that isn't finite") as error:
        made.fit(*data)
    assert error.value.layer == "s"
