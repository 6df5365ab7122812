"""Losses that users write as formulas: run by every engine as a built-in one is."""

import copy
import pickle

import numpy as np
import pytest
from arrays import everything
from here import needs_compiler

from backprop_xp import LOSSES, BCEWithLogits, ElementwiseLoss, Graph, Net, check
from backprop_xp.exchange import ModelFileError
from backprop_xp.formulas import FormulaError

LOG_COSH = {"value": "abs(d) + log1p(exp(-2 * abs(d))) - 0.6931471805599453", "let": {"d": "z - y"}}
HUBER = {
    "value": "where(abs(z - y) <= delta, 0.5 * (z - y) ** 2, delta * (abs(z - y) - 0.5 * delta))",
    "params": {"delta": 0.7},
    "mean_over": "elements",
}


def poisson(**options):
    return ElementwiseLoss("poisson", value="exp(z) - y * z", **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction, weighted", [("sum", True), ("mean", False), ("mean", True)])
def test_the_formula_of_a_built_in_one_is_that_loss(reduction, weighted, dtype, engine, random):
    x, y, weight = random.normal(size=(50, 4)), random.normal(size=(50, 3)), random.uniform(0, 2, 50)
    losses = ElementwiseLoss("mine", **HUBER), LOSSES["huber"](delta=0.7)
    nets = [Net((4, 3), ("tanh",), loss, dtype=dtype, reduction=reduction, engine=engine, rng=0) for loss in losses]
    got, expected = (everything(net, x, y, sample_weight=weight if weighted else None) for net in nets)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=50 * np.finfo(dtype).eps, atol=50 * np.finfo(dtype).eps)
    assert nets[0].plan(x).engine == engine


@pytest.mark.parametrize("sizes", [(4, 5, 3), (4, 500, 3)])
@pytest.mark.parametrize("mean_over, parts", [("samples", 1), ("elements", 3)])
def test_narrow_and_wide_are_compiled(sizes, mean_over, parts, engine, random):
    loss, x, y = poisson(mean_over=mean_over), random.normal(size=(40, 4)), random.uniform(0, 3, (40, 3))
    net = Net(sizes, ("tanh", "identity"), loss, reduction="mean", engine=engine, init="glorot_normal", rng=0)
    z = net(x)
    assert net.loss_and_grad(x, y) == pytest.approx((np.exp(z) - y * z).sum() / 40 / parts)
    assert net.plan(x).engine == engine
    if sizes == (4, 5, 3):
        report = check.check_gradients(net, x, y, random.uniform(0, 2, 40))
        assert report.ok, report


def test_graphs_compile_it(engine, random):
    g = Graph()
    h = x = g.input(3)
    h = g.apply("tanh", g.linear(h, 3)) + x
    net = g.net(g.linear(h, 2), loss=poisson(), engine=engine, rng=0)
    x, y = random.normal(size=(30, 3)), random.uniform(0, 2, (30, 2))
    z = net(x)
    assert net.loss_and_grad(x, y) == pytest.approx((np.exp(z) - y * z).sum())
    assert net.plan(x).engine == engine


@needs_compiler
@pytest.mark.parametrize("shape", [(4,), (9, 4)])
def test_prepared_calls_take_it_and_see_changes(shape, random):
    x, y = random.normal(size=shape), random.normal(size=(*shape[:-1], 3))
    nets = [Net((4, 3), ("tanh",), ElementwiseLoss("mine", **HUBER), engine=e, rng=0) for e in ("layered", "auto")]
    for delta in (0.7, 0.1):
        for net in nets:
            net.loss.delta = delta
        a, b = (net.loss_and_grad(x, y) for net in nets)
        assert a == pytest.approx(b, rel=1e-13)
        assert nets[1]._prepared is not None
    other = poisson()
    for net in nets:
        net.loss = other  # two losses of one class are two kernels
    assert nets[1].loss_and_grad(x, y) == pytest.approx(nets[0].loss_and_grad(x, y), rel=1e-13)


def test_no_target_where_no_formula_reads_one(engine, random):
    loss, x = ElementwiseLoss("energy", value="w * z ** 2", params={"w": [1.0, 2.0]}), random.normal(size=(20, 3))
    net = Net((3, 2), ("identity",), loss, engine=engine, rng=0)
    assert net.loss_and_grad(x) == pytest.approx((net(x) ** 2 * [1, 2]).sum())
    with pytest.raises(ValueError, match="the loss energy takes no target"):
        net.loss_and_grad(x, np.ones((20, 2)))
    with pytest.raises(ValueError, match="the loss poisson needs a target"):
        Net((3, 2), loss=poisson(), engine=engine).loss_and_grad(x)


def test_a_given_gradient_is_used(engine):
    loss = ElementwiseLoss("straight", value="abs(z - y)", grad="3 + 0 * y")
    _, grad = Net((1, 1), ("identity",), loss, engine=engine, init=lambda r, s: np.ones(s)).loss_and_grad(
        np.ones((4, 1)), np.zeros((4, 1)), input_grad=True
    )
    np.testing.assert_array_equal(grad, np.full((4, 1), 3.0))


def test_names_of_the_engines_own_are_free(engine, random):
    """Parameters may be called as what engines add, or like words of C++."""
    x, y = random.normal(size=(20, 3)), random.normal(size=(20, 2))
    params = {"weight": 2.0, "scale": [1.0, 3.0], "factor": 0.5, "double": 1.5}
    loss = ElementwiseLoss("odd", value="weight * scale * factor * double * (z - y) ** 2", params=params)
    net = Net((3, 2), ("identity",), loss, engine=engine, rng=0)
    expected = (1.5 * np.array([1, 3]) * (net(x) - y) ** 2).sum()
    assert net.loss_and_grad(x, y) == pytest.approx(expected)
    assert net.loss_and_grad(x, y, sample_weight=np.full(20, 0.5)) == pytest.approx(expected / 2)


def test_files_keep_it_by_name_and_parameters(tmp_path, random):
    x, y = random.normal(size=(5, 4)), random.normal(size=(5, 3))
    mine = ElementwiseLoss("mine", **HUBER)
    net = Net((4, 3), loss=mine, rng=0)
    net.save(tmp_path / "net")
    again = Net.load(tmp_path / "net", custom={"mine": mine})
    assert again.loss_and_grad(x, y) == net.loss_and_grad(x, y)
    with pytest.raises(ModelFileError, match=r"its loss 'mine' is not built in: give it with load"):
        Net.load(tmp_path / "net")
    other = ElementwiseLoss("mine", **{**HUBER, "params": {"delta": 2.0}})
    with pytest.raises(ModelFileError, match=r"was saved with \{'delta': 0.7\}, custom has \{'delta': 2.0\}"):
        Net.load(tmp_path / "net", custom={"mine": other})


def test_files_keep_vectors(tmp_path):
    for loss in (BCEWithLogits(pos_weight=[1.0, np.inf]), ElementwiseLoss("v", "w * z", params={"w": [1.0, -2.0]})):
        Net((4, 2), loss=loss).save(tmp_path / "net")
        assert Net.load(tmp_path / "net", custom={"v": loss}).loss.settings == loss.settings


def test_copies_and_pickles_are_the_same_loss(random):
    loss, z, y = ElementwiseLoss("mine", **HUBER), random.normal(size=(5, 3)), random.normal(size=(5, 3))
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(z, y) == loss(z, y)
        assert other.kernel == loss.kernel
        other.delta = 3.0
        assert loss.delta == 0.7


@pytest.mark.parametrize("make, error, message", [
    (lambda: ElementwiseLoss("a", value="z - t"), FormulaError, "unknown name 't'"),
    (lambda: ElementwiseLoss("a", value="__import__('os')"), FormulaError, "unknown function"),
    (lambda: ElementwiseLoss("a", value="z", grad="open(y)"), FormulaError, "unknown function 'open'"),
    (lambda: ElementwiseLoss("a", value="z", params={"z": 1.0}), FormulaError, "'z' is defined twice"),
    (lambda: ElementwiseLoss("a", value="z", params={"grad": 1.0}), ValueError, "can't be called 'grad'"),
    (lambda: ElementwiseLoss("a", value="z * w", params={"w": np.nan}), ValueError, "needs a number as w"),
    (lambda: ElementwiseLoss("a", value="z * w", params={"w": [1.0, "2"]}), TypeError, "w must be a real number"),
    (lambda: ElementwiseLoss("a", value="z", mean_over="element"), ValueError, "did you mean 'elements'"),
])  # fmt: skip
def test_mistakes_are_said_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_one_that_overrides_a_method_is_run_by_it(random):
    class Twice(LOSSES["mse"]):
        def grad(self, z, y=None):
            return 2 * super().grad(z, y)

    x, y = random.normal(size=(6, 3)), random.normal(size=(6, 2))
    nets = [Net((3, 2), loss=loss, rng=0) for loss in (Twice(), "mse")]
    a, b = (net.loss_and_grad(x, y, input_grad=True)[1] for net in nets)
    np.testing.assert_allclose(a, 2 * b)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["layered", "fused", "cooperative"])
@pytest.mark.parametrize("params", [{"w": 1.5}, {"w": [1.0, 0.0, -2.0]}], ids=str)
def test_on_the_gpu(engine, params, random):
    loss = ElementwiseLoss("weighted_poisson", value="w * (exp(z) - y * z)", params=params)
    x, y, weight = random.normal(size=(40, 4)), random.uniform(0, 3, (40, 3)), random.uniform(0, 2, 40)
    nets = [
        Net((4, 5, 3), ("tanh", "identity"), loss, backend=backend, engine=e, rng=0)
        for backend, e in (("numpy", "layered"), ("cupy", engine))
    ]
    expected, got = (everything(net, x, y, sample_weight=weight) for net in nets)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
