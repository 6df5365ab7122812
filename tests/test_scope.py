"""Code that looks at the whole batch gets the whole batch, whatever the engine, and is refused by name elsewhere."""

import numpy as np
import pytest
from own import Doubled

from backprop_xp import (
    ACTIVATIONS,
    LOSSES,
    Activation,
    Elementwise,
    GraphNet,
    Input,
    Linear,
    Loss,
    Net,
    Operation,
    Tanh,
    scope,
)
from backprop_xp.graph import LayerNorm
from backprop_xp.operations import BUILT_IN, Activate, BatchNorm
from backprop_xp.training.fit import evaluate

N = 9000  # several tiles, and several pieces of an evaluation


class Centred(Operation):
    """z minus its mean over the batch."""

    def forward(self, z):
        return z - z.mean(axis=0)

    def backward(self, grad, z):
        return grad - grad.mean(axis=0)


class Ranked(Activation):
    """Softmax over the samples."""

    def __call__(self, x):
        e = np.exp(x - x.max(axis=0))
        return e / e.sum(axis=0)

    def grad(self, x):
        return self(x) * (1 - self(x))


class RankedDuck:
    __call__, grad = Ranked.__call__, Ranked.grad


class RankedTanh(Tanh):
    """A subclass doesn't inherit the scope of what it overrides."""

    __call__, grad = Ranked.__call__, Ranked.grad


class CentredNorm(LayerNorm):
    def forward(self, z, **parameters):
        return z - z.mean(axis=0)

    def backward(self, grad, z, **parameters):
        return grad - grad.mean(axis=0), *(np.zeros(z.shape[1]) for _ in parameters)


class Spread(Loss):
    """The samples' distance from their mean."""

    needs_target = False

    def __call__(self, z, y=None):
        return 0.5 * ((z - z.mean(axis=0)) ** 2).sum()

    def grad(self, z, y=None):
        return z - z.mean(axis=0)


def overridden(thing, **methods):
    for name, method in methods.items():
        setattr(thing, name, method)
    return thing


def chain(engine, activation="tanh", loss="half_sum_sq"):
    return Net((3, 4, 2), (activation, "identity"), loss, rng=0, engine=engine, backend="numpy")


def graph(engine, node, loss="half_sum_sq"):
    nodes = {"x": Input(3), "a": (Linear(4), "x"), "c": (node, "a"), "y": (Linear(2), "c")}
    return GraphNet(nodes, rng=0, loss=loss, engine=engine, backend="numpy")


CASES = {
    "operation": (lambda e: graph(e, Centred()), "node 'c'"),
    "subclass of an operation": (lambda e: graph(e, CentredNorm()), "node 'c'"),
    "overridden operation": (
        lambda e: graph(e, overridden(LayerNorm(), forward=CentredNorm().forward, backward=CentredNorm().backward)),
        "node 'c'",
    ),
    "activation in a graph": (lambda e: graph(e, Ranked()), "node 'c'"),
    "activation": (lambda e: chain(e, Ranked()), "the activation Ranked of layer 0"),
    "duck": (lambda e: chain(e, RankedDuck()), "the activation RankedDuck of layer 0"),
    "subclass of an activation": (lambda e: chain(e, RankedTanh()), "the activation tanh of layer 0"),
    "overridden activation": (
        lambda e: chain(e, overridden(Tanh(), __call__=Ranked().__call__, grad=Ranked().grad)),
        "the activation tanh of layer 0",
    ),
    "loss": (lambda e: chain(e, loss=Spread()), "the loss Spread"),
    "loss of a graph": (lambda e: graph(e, "tanh", Spread()), "the loss Spread"),
}


@pytest.mark.parametrize("make, name", CASES.values(), ids=CASES)
def test_it_gets_the_whole_batch(make, name):
    x = np.random.default_rng(0).normal(size=(N, 3))
    nets = [make(engine) for engine in ("auto", "layered")]
    got, expected = (net.loss_and_grad(x) for net in nets)
    assert got == expected
    for a, b in zip(nets[0].parameters, nets[1].parameters):
        np.testing.assert_array_equal(a.grad, b.grad)
    np.testing.assert_allclose(nets[0].forward(x), nets[1].forward(x), rtol=1e-12)
    assert nets[0].plan(x).engine == "layered"
    assert f"not tiled: {name} needs the whole batch" in nets[0].plan(x).reason
    for engine in ("tiled", "fused"):
        with pytest.raises(ValueError, match=f"the {engine} engine can't run this call: ") as error:
            make(engine).loss_and_grad(x)
        assert name in str(error.value) or "written in Python" in str(error.value)
    # in pieces, an evaluation would come to another number
    assert evaluate(make("layered"), x) == pytest.approx(expected / N, rel=1e-12)


def declared(thing, value="sample"):
    thing.scope = value
    return thing


def test_what_says_that_it_works_sample_by_sample_is_cut():
    class Tripled(Doubled):
        def width(self, *widths):
            return widths[0]

    x = np.ones((N, 3))
    for node in (Doubled(), Tripled(), declared(Centred()), Activate(declared(Ranked()))):
        assert graph("auto", node).plan(x).engine == "tiled"
    assert chain("auto", declared(Ranked())).plan(x).engine == "tiled"
    assert chain("auto", declared(Ranked()), declared(Spread())).plan(x).engine == "tiled"


def test_built_in_things_and_formulas_work_sample_by_sample():
    things = [cls() for cls in (*ACTIVATIONS.values(), *LOSSES.values(), *BUILT_IN.values())]
    things += [Input(3), Linear(3), Activate("tanh"), Elementwise("mine", value="t * t")]
    assert not scope.first_that_does((("", thing) for thing in things), training=False)
    assert [type(thing) for thing in things if scope.needs_whole_batch(thing, training=True)] == [BatchNorm]
    assert scope.needs_whole_batch(Activate(Ranked())) and scope.needs_whole_batch(object())


@pytest.mark.parametrize("make, who", [(lambda s: graph("auto", s(Centred())), "Centred"), (lambda s: chain("auto", s(Ranked())), "Ranked")])  # fmt: skip
def test_a_scope_that_is_none(make, who):
    with pytest.raises(ValueError, match=f"unknown scope of {who} 'samples'; did you mean 'sample'?"):
        make(lambda thing: declared(thing, "samples")).loss_and_grad(np.ones((3, 3)))


@pytest.mark.parametrize("kind", ["operation", "loss"])
def test_validation_in_fit_sees_all_samples(kind):
    net = CASES[kind][0]("auto")
    x = np.random.default_rng(1).normal(size=(N, 3))
    history = net.fit(x, epochs=1, batch_size=N, optimiser="sgd", validation=(x,), shuffle=False)
    assert history.epochs[0].validation_loss == pytest.approx(net.loss_and_grad(x) / N, rel=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("of", ["activation", "loss"])
def test_a_batch_that_lies_on_the_host_is_moved_whole(of, monkeypatch):
    pytest.importorskip("cupy")
    from backprop_xp.passes import streamed

    monkeypatch.setattr(streamed, "HOST_BYTES", 1 << 12)
    monkeypatch.setattr(streamed, "PIECE_BYTES", 1 << 13)
    import cupy

    class Centre(Activation):
        def __call__(self, x):
            return x - x.mean(axis=0)

        def grad(self, x):
            return cupy.ones_like(x)

    part = {"activation": {"activations": (Centre(), "identity")}, "loss": {"loss": Spread()}}[of]
    x = np.random.default_rng(0).normal(size=(2000, 3))
    nets = [Net((3, 4, 2), rng=0, backend="cupy", engine="layered", **part) for _ in range(2)]
    losses = [float(nets[0].loss_and_grad(x)), float(nets[1].loss_and_grad(cupy.asarray(x)))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert "computed in pieces" not in nets[0].plan(x).reason
    np.testing.assert_allclose(nets[0].forward(x).get(), nets[1].forward(cupy.asarray(x)).get(), rtol=1e-12)
