"""Binary cross-entropy where digits would be lost and where logits are infinite, and its weights; in every engine."""

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import BCEWithLogits, Graph, Net, check
from backprop_xp.toolchain import compiler

torch = pytest.importorskip("torch")
INF, NAN = np.inf, np.nan
WAYS = ["layered", "tiled", "fused", "wide", "graph", "batch", "sample"]


@pytest.fixture(params=WAYS)
def way(request):
    if request.param not in ("layered", "tiled") and compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    return request.param


def loss_and_slope(way, z, y, dtype="float64", loss=None):
    """The loss of one logit and its derivative, from a net that is the identity, run in this way."""
    loss, engine = loss or BCEWithLogits(), {"wide": "fused", "graph": "fused"}.get(way, way)
    if way == "graph":
        g = Graph()
        x = g.input(1)
        # beside the identity something that is 0, so that it is no chain
        net = g.net(g.linear(x, 1, bias=False) + g.linear(x, 1, bias=False), loss=loss, dtype=dtype, engine=engine)
    else:
        sizes = (1, 1600, 1) if way == "wide" else (1, 1)
        options = {} if way in ("batch", "sample") else {"engine": engine}
        net = Net(sizes, ("identity",) * (len(sizes) - 1), loss, bias=True, dtype=dtype, **options)
    for p in net.parameters:
        p.data = np.zeros_like(p.data)
    if way == "graph":
        net.parameters[0].data[0, 0] = 1
    # through the bias, which 0 * inf doesn't reach: x is 0
    x = np.full((1,) if way == "sample" else (1, 1), z if way == "graph" else 0, dtype)
    if way != "graph":
        net.biases[-1].data[0] = z
    y = np.full_like(x, y)
    if way in ("batch", "sample"):
        value = net.loss_and_grad(x, y)
        assert net._prepared is not None
        return float(value), float(net.biases[-1].grad[0])
    value, grad = net.loss_and_grad(x, y, input_grad=True)
    return float(value), float(np.ravel(grad)[0]) if way == "graph" else float(net.biases[-1].grad[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("z, y, value, slope", [
    (INF, 0, INF, 1), (INF, 1, 0, 0), (-INF, 0, 0, 0), (-INF, 1, INF, -1), (INF, 0.25, INF, 0.75), (-INF, 0.25, INF, -0.25),
    (INF, 0.999999, INF, None), (NAN, 0, NAN, NAN), (NAN, 1, NAN, NAN), (NAN, 0.5, NAN, NAN),
    (0, NAN, NAN, NAN), (INF, NAN, NAN, NAN), (-INF, NAN, NAN, NAN),
])  # fmt: skip
def test_infinite_logits_and_nan(z, y, value, slope, dtype, way):
    if way == "graph" and np.isinf(z):
        pytest.skip("0 * inf in the node beside it")
    got = loss_and_slope(way, z, y, dtype)
    np.testing.assert_array_equal(got[0], value)
    if slope is not None:
        np.testing.assert_array_equal(got[1], slope)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_digit(dtype, way):
    eps = np.finfo(dtype).eps
    for z in (0.0, 1e-3, 0.7, 5.0, 16.0, 20.0, 50.0, 80.0, 1000.0):
        for y in (0.0, 1e-6, 0.3, 0.999, 0.999999, 1 - float(eps), 1.0):
            for a in (z, -z):
                given_z, given_y = (np.dtype(dtype).type(v) for v in (a, y))
                value, slope = loss_and_slope(way, given_z, given_y, dtype)
                expected, expected_slope = exact(given_z, given_y)
                assert abs(value - expected) <= 8 * eps * expected + np.finfo(dtype).tiny
                # of two shares that are nearly equal the difference is as good as the larger one
                size = min(abs(expected_slope) + 1 / (1 + mp.exp(abs(mp.mpf(float(given_z))))), 2)
                assert abs(slope - expected_slope) <= 8 * eps * size + np.finfo(dtype).tiny


@given(
    z=st.floats(-1e4, 1e4), y=st.floats(0, 1), weight=st.floats(-5, 5), pos_weight=st.floats(0, 1e3),
)  # fmt: skip
def test_weights_are_those_of_the_formula(z, y, weight, pos_weight):
    loss = BCEWithLogits(weight=weight, pos_weight=pos_weight)
    expected, slope = exact(z, y, weight, pos_weight)
    size = abs(weight) * (1 + pos_weight)
    assert float(loss(np.array([z]), np.array([y]))) == pytest.approx(float(expected), rel=1e-13, abs=1e-300)
    assert float(loss.grad(np.array([z]), np.array([y]))[0]) == pytest.approx(float(slope), rel=1e-12, abs=1e-15 * size)


def exact(z, y, weight=1.0, pos_weight=1.0):
    """(loss, derivative) of finite numbers."""
    z, y, weight, pos_weight = (mp.mpf(float(a)) for a in (z, y, weight, pos_weight))
    loss = weight * (pos_weight * y * mp.log1p(mp.exp(-z)) + (1 - y) * mp.log1p(mp.exp(z)))
    return loss, weight * ((1 - y) / (1 + mp.exp(-z)) - pos_weight * y / (1 + mp.exp(z)))


VECTORS = {"weight": [0.5, -2.0, 0.0], "pos_weight": [1.0, 3.0, 0.25]}


@pytest.mark.parametrize("reduction, weighted, dtype", [("sum", False, "float64"), ("mean", True, "float32")])
@pytest.mark.parametrize("params", [
    {"weight": VECTORS["weight"]}, {"pos_weight": VECTORS["pos_weight"]}, VECTORS, {"pos_weight": 2.5},
    {"weight": np.float32(0.5), "pos_weight": np.array(VECTORS["pos_weight"])}, {"weight": torch.tensor(VECTORS["weight"])},
], ids=str)  # fmt: skip
def test_vectors_are_pytorchs(params, reduction, weighted, dtype, engine, random):
    z, y = random.normal(size=(40, 4)), random.uniform(0, 1, (40, 3))
    weight = random.uniform(0, 2, 40) if weighted else None
    for sizes in ((4, 3), (4, 900, 3))[: 1 + weighted]:  # narrow and wide
        f = ("identity",) * (len(sizes) - 1)
        net = Net(
            sizes, f, BCEWithLogits(**params), dtype=dtype, reduction=reduction, engine=engine, init="he_normal", rng=0
        )
        report = check.check_against_torch(net, z, y, weight)
        assert report.ok, report


@pytest.mark.parametrize("shape", [(4,), (7, 4)])
def test_prepared_calls_take_vectors(shape, random):
    z, y = random.normal(size=shape), random.uniform(0, 1, (*shape[:-1], 3))
    nets = [Net((4, 3), ("tanh",), BCEWithLogits(**VECTORS), engine=e, rng=0) for e in ("layered", "auto")]
    a, b = (net.loss_and_grad(z, y) for net in nets)
    assert a == pytest.approx(b, rel=1e-13)
    np.testing.assert_allclose(*(net.weights[0].grad for net in nets), rtol=1e-12)
    nets[1].loss.pos_weight = np.array([1.0, 2.0, 3.0])
    nets[0].loss.pos_weight = [1.0, 2.0, 3.0]
    assert nets[1].loss_and_grad(z, y) == pytest.approx(nets[0].loss_and_grad(z, y), rel=1e-13)
    assert nets[1].loss_and_grad(z, y) != pytest.approx(a)
    if not compiler.missing():
        assert nets[1]._prepared is not None


def test_vectors_are_copied_and_checked(random, engine):
    mine = np.array([1.0, 2.0])
    loss = BCEWithLogits(pos_weight=mine)
    mine[0] = 5
    assert loss.pos_weight == (1.0, 2.0)
    assert repr(loss) == "BCEWithLogits(weight=1.0, pos_weight=(1.0, 2.0))"
    for x in (np.ones(4), np.ones((2, 4))):
        with pytest.raises(ValueError, match="hold 2 numbers, and the net has 3 outputs"):
            Net((4, 3), loss=loss, engine=engine).loss_and_grad(x, np.ones((*x.shape[:-1], 3)))
    with pytest.raises(ValueError, match="must have one length"):
        BCEWithLogits(weight=[1, 2, 3], pos_weight=[1, 2])
    with pytest.raises(ValueError, match="must have one length"):
        BCEWithLogits(weight=[])


def test_none_is_pytorchs_none():
    assert repr(BCEWithLogits(weight=None, pos_weight=None)) == "BCEWithLogits(weight=1.0, pos_weight=1.0)"
