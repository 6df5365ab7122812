"""Every loss: PyTorch's numbers, weights, extremes, and the shapes it takes."""

import numpy as np
import pytest
from arrays import target

import backprop_xp
from backprop_xp import LOSSES, Loss, Net, check, get_loss

torch = pytest.importorskip("torch")


def ours_and_theirs(name, z, y, weight=None, reduction="sum", **params):
    """(loss, gradient in z) of a net that is the identity, and PyTorch's."""
    net = Net((z.shape[1], z.shape[1]), ("identity",), LOSSES[name](**params), dtype=z.dtype, reduction=reduction)
    net.weights[0].data = np.eye(z.shape[1], dtype=z.dtype)
    loss, grad = net.loss_and_grad(z, y if net.loss.needs_target else None, sample_weight=weight, input_grad=True)
    tz = torch.tensor(z, requires_grad=True)
    theirs = check._torch_loss(net, tz, y, weight)
    theirs.backward()
    return (loss, grad), (theirs.detach().numpy(), tz.grad.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_equal_to_pytorch(name, weighted, reduction, dtype, random):
    z = (3 * random.normal(size=(9, 4))).astype(dtype)
    weight = random.uniform(0, 2, 9) if weighted else None
    ours, theirs = ours_and_theirs(name, z, target(name, 9, 4, random), weight, reduction)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=100 * np.finfo(dtype).eps, atol=10 * np.finfo(dtype).eps)
        assert a.dtype == dtype


@pytest.mark.parametrize("name, function", [
    ("mse", "mse_loss"), ("mae", "l1_loss"), ("huber", "huber_loss"),
    ("bce_with_logits", "binary_cross_entropy_with_logits"), ("softmax_cross_entropy", "cross_entropy"),
])  # fmt: skip
def test_mean_is_pytorchs_own(name, function, random):
    z, y = random.normal(size=(9, 4)), target(name, 9, 4, random)
    (loss, _), _ = ours_and_theirs(name, z, y, reduction="mean")
    assert loss == pytest.approx(getattr(torch.nn.functional, function)(torch.tensor(z), torch.tensor(y)).item())


@pytest.mark.parametrize("delta", [0.3, 1.0, 5.0])
def test_huber_delta(delta, random):
    z, y = 3 * random.normal(size=(9, 4)), random.normal(size=(9, 4))
    for a, b in zip(*ours_and_theirs("huber", z, y, delta=delta), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_probabilities_as_targets(random):
    z, y = random.normal(size=(9, 4)), random.dirichlet(np.ones(4), 9)
    for a, b in zip(*ours_and_theirs("softmax_cross_entropy", z, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", ["bce_with_logits", "softmax_cross_entropy"])
def test_extreme_logits(name):
    z = np.array([[1000.0, -1000.0], [-1e30, 1e30], [0.0, 0.0], [88.0, -709.0]])
    y = np.array([0, 1, 1, 0]) if name == "softmax_cross_entropy" else np.array([[1.0, 0], [0, 1], [1, 1], [0, 1]])
    for a, b in zip(*ours_and_theirs(name, z, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-300)
        assert np.isfinite(a).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_an_empty_batch_is_pytorchs(name, reduction, random):
    ours, theirs = ours_and_theirs(name, np.zeros((0, 4)), target(name, 0, 4, random), reduction=reduction)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1].shape == (0, 4)
    assert np.isnan(ours[0]) == (reduction == "mean")


@pytest.mark.parametrize("name", LOSSES)
def test_nan_is_not_lost(name, random):
    z = random.normal(size=(5, 4))
    z[2, 1] = np.nan
    (loss, grad), _ = ours_and_theirs(name, z, target(name, 5, 4, random))
    assert np.isnan(loss)
    assert np.isnan(grad[2, 1])
    assert np.isfinite(np.delete(grad, 2, axis=0)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_one_sample_is_a_batch_of_one(name, random):
    net = Net((3, 4), loss=name, rng=0, engine="layered")
    x, y = random.normal(size=3), target(name, 1, 4, random) if net.loss.needs_target else None
    single = net.loss_and_grad(x, None if y is None else y[0], sample_weight=0.5)
    assert single == pytest.approx(net.loss_and_grad(x[None], y, sample_weight=[0.5]), rel=1e-14)


def test_called_directly_as_in_the_article():
    z = np.array([1.0, -2.0, 3.0])
    loss = backprop_xp.HalfSumSq()
    assert loss(z) == 0.5 * np.sum(z**2)
    np.testing.assert_array_equal(loss.grad(z), z)
    assert backprop_xp.MSE()(z, z + 1) == 3.0
    assert backprop_xp.SoftmaxCrossEntropy()(z, np.array(2)) == pytest.approx(-np.log(np.exp(3) / np.exp(z).sum()))


def test_a_sum_over_many_blocks():
    z = np.ones((300_000, 3), np.float32)
    assert backprop_xp.HalfSumSq()(z) == 450_000


def test_a_loss_of_the_users(random):
    class Cubes(Loss):
        needs_target = False

        def __call__(self, z):
            return (z**3).sum()

        def grad(self, z):
            return 3 * z**2

    net, x = Net((3, 2), loss=Cubes(), rng=0, reduction="mean"), random.normal(size=(5, 3))
    assert net.loss_and_grad(x) == pytest.approx((net(x) ** 3).sum() / 5)
    assert check.check_gradients(net, x).ok
    with pytest.raises(TypeError, match="Cubes takes no sample_weight"):
        net.loss_and_grad(x, sample_weight=np.ones(5))


def test_names_and_mistakes():
    with pytest.raises(ValueError, match="unknown loss 'msee'; did you mean 'mse'"):
        get_loss("msee")
    with pytest.raises(TypeError, match="a loss is a name or an object with __call__ and grad, got int"):
        get_loss(3)
    with pytest.raises(TypeError, match="Huber has no parameter 'd'; it has delta"):
        LOSSES["huber"](d=1)
    for method in ("__call__", "grad"):
        with pytest.raises(NotImplementedError, match=f"Loss must define {method}"):
            getattr(Loss(), method)(1.0)
    assert repr(LOSSES["huber"]()) == "Huber(delta=1.0)"


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_samples_without_weight_add_nothing(name, n, reduction, random):
    z, y = random.normal(size=(n, 4)), target(name, n, 4, random)
    ours, _ = ours_and_theirs(name, z, y, np.zeros(n), reduction)
    assert np.isnan(ours[0]) if n == 0 and reduction == "mean" else ours[0] == 0
    np.testing.assert_array_equal(ours[1], np.zeros((n, 4)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_central_differences(name, reduction, weighted, random):
    net = Net((3, 4), ("identity",), name, rng=0, reduction=reduction)
    y = target(name, 6, 4, random) if net.loss.needs_target else None
    report = check.check_gradients(net, random.normal(size=(6, 3)), y, random.uniform(0, 2, 6) if weighted else None)
    assert report.ok, report


@pytest.mark.parametrize("engine", ["layered", "tiled", "auto"])
@pytest.mark.parametrize("shape", [(3,), (5, 3)])
def test_a_loss_in_the_articles_plain_style_needs_no_base_class(shape, engine, random):
    class NoTarget:
        scope = "sample"

        def __call__(self, z):
            return 0.5 * np.sum(z**2)

        def grad(self, z):
            return z

    class WithTarget:
        needs_target = True
        scope = "sample"

        def __call__(self, z, y):
            return 0.5 * np.sum((z - y) ** 2)

        def grad(self, z, y):
            return z - y

    x, y = random.normal(size=shape), random.normal(size=(*shape[:-1], 2))
    for plain, name, args in ((NoTarget(), "half_sum_sq", ()), (WithTarget(), "half_squared_error", (y,))):
        nets = [Net((3, 2), loss=loss, rng=0, engine=engine, reduction="mean") for loss in (plain, name)]
        got, expected = (net.loss_and_grad(x, *args) for net in nets)
        assert got == pytest.approx(expected, rel=1e-14)
        np.testing.assert_allclose(nets[0].weights[0].grad, nets[1].weights[0].grad, rtol=1e-13)
