"""Derivatives that were written by hand, right ones and wrong ones."""

import numpy as np
import pytest
from own import Cube

from backprop_xp import ACTIVATIONS, LOSSES, Loss, Net, Tensor, check_gradients


class PlainTanh:
    """As in the article, without a base class."""

    def __call__(self, x):
        return np.tanh(x)

    def grad(self, x):
        return 1 - np.tanh(x) ** 2


class Cosh(Loss):
    def __call__(self, z, y):
        return np.log(np.cosh(z - y)).sum()

    def grad(self, z, y):
        return np.tanh(z - y)


class PlainLoss:
    def __call__(self, z):
        return (z**4).sum()

    def grad(self, z):
        return 4 * z**3


@pytest.mark.parametrize("what", [*ACTIVATIONS.values(), *LOSSES.values(), Cube, PlainTanh(), Cosh(), PlainLoss()])
def test_what_is_right(what):
    report = check_gradients(what)
    assert report.ok, report
    assert "central differences" in str(report)


def wrong(base, **methods):
    return type(f"Wrong{base.__name__}", (base,), methods)()


@pytest.mark.parametrize("what", [
    wrong(Cube, grad=lambda self, x: x**2),
    wrong(Cube, grad=lambda self, x: 3 * x**2 * (1 + 1e-4)),
    wrong(Cube, grad=lambda self, x: np.where(x < 0, -3, 3) * x**2),
    wrong(Cube, grad=lambda self, x: np.full(x.shape, np.nan)),
    wrong(Cube, backprop=lambda self, t, grad_z: grad_z * t),
    wrong(PlainTanh, grad=lambda self, x: 1 - np.tanh(x)),
    wrong(PlainTanh, grad=lambda self, x: np.where(np.abs(x) < 0.015, 2, 1 - np.tanh(x) ** 2)),  # one number of many
    wrong(Cosh, grad=lambda self, z, y: np.tanh(y - z)),
    wrong(Cosh, grad=lambda self, z, y: np.tanh(z - y) / z.size),
    wrong(PlainLoss, grad=lambda self, z: 3 * z**3),
])  # fmt: skip
def test_what_is_wrong(what):
    report = check_gradients(what)
    assert not report.ok and "WRONG" in str(report)


def test_ones_own_numbers_to_try():
    steep = wrong(Cube, __call__=lambda self, x: np.where(x > 50, x**2, x**3))
    assert check_gradients(steep).ok
    assert not check_gradients(steep, [60.0]).ok
    assert check_gradients(Cosh, [[0.5, 1.0]], [[1.0, 0.0]]).ok


def loss_and_grad(parameters, x, y):
    """A net with one hidden layer, as homework."""
    W0, b0, W1 = parameters
    z = np.tanh(W0 @ x + b0)
    d = W1 @ z - y
    g = (W1.T @ d) * (1 - z**2)
    return 0.5 * d @ d, [np.outer(g, x), g, np.outer(d, z)]


class TestAFunction:
    @pytest.fixture
    def given(self, random):
        parameters = [random.normal(size=shape) for shape in ((4, 3), (4,), (2, 4))]
        return {"parameters": parameters, "x": random.normal(size=3), "y": random.normal(size=2)}

    def test_right(self, given):
        before = [array.copy() for array in given["parameters"]]
        report = check_gradients(loss_and_grad, **given)
        assert report.ok, report
        assert [row.name for row in report.rows] == ["parameter 0", "parameter 1", "parameter 2"]
        for array, was in zip(given["parameters"], before):
            np.testing.assert_array_equal(array, was)

    def test_by_name_and_alone(self, given):
        def by_name(p, x, y):
            loss, grads = loss_and_grad([p["W0"], p["b0"], p["W1"]], x, y)
            return loss, dict(zip(("W1", "b0", "W0"), grads[::-1]))

        named = dict(zip(("W0", "b0", "W1"), given["parameters"]))
        report = check_gradients(by_name, given["x"], given["y"], parameters=named)
        assert report.ok and [row.name for row in report.rows] == ["W0", "b0", "W1"]
        assert check_gradients(lambda w, x: (w @ w * x, 2 * w * x), 3.0, parameters=np.array([1.0, 2.0])).ok

    def test_wrong(self, given):
        def forgets(parameters, x, y):
            loss, (first, bias, last) = loss_and_grad(parameters, x, y)
            return loss, [first, bias, last.T.reshape(last.shape)]

        report = check_gradients(forgets, **given)
        assert [row.ok for row in report.rows] == [True, True, False]

    @pytest.mark.parametrize(("change", "said"), [
        (lambda loss, grads: loss, r"must return \(loss, gradients\), got float"),
        (lambda loss, grads: (loss, grads[:2]), "must return gradients like the parameters, parameter 0, "),
        (lambda loss, grads: (loss, [grads[0].T, *grads[1:]]), r"the gradient of parameter 0 must have its shape \(4, 3\)"),
        (lambda loss, grads: (np.ones(2), grads), r"must return one number, .* got shape \(2,\)"),
    ])  # fmt: skip
    def test_results_of_a_wrong_form(self, change, said, given):
        with pytest.raises(ValueError, match=said):
            check_gradients(lambda *arguments: change(*loss_and_grad(*arguments)), **given)


def test_nets_and_their_own_loss_and_grad(random):
    x = random.normal(size=3)
    net = Net((3, 4, 2), rng=0)
    assert check_gradients(net, x).ok

    class Homework(Net):
        def loss_and_grad(self, x):
            z = np.tanh(self.weights[0].data @ x)
            out = self.weights[1].data @ z
            self.weights[1].grad = np.outer(out, z)
            self.weights[0].grad = np.outer(self.weights[1].data.T @ out * (1 - z**2), x)
            return 0.5 * out @ out

    mine = Homework((3, 4, 2), rng=0, dtype="float32")
    before = mine.weights[0].data
    report = check_gradients(mine, x)
    assert report.ok, report
    assert [row.name for row in report.rows] == ["W0", "W1"]
    assert mine.weights[0].data is before


def test_an_object_with_weights_and_no_base():
    class Own:
        def __init__(self):
            self.weights = [Tensor(np.array([1.0, 2.0]), "w")]

        def loss_and_grad(self, x):
            (w,) = self.weights
            w.grad = 2 * (w.data @ x) * x
            return (w.data @ x) ** 2

    own = Own()
    assert check_gradients(own, np.array([0.5, -1.0])).ok
    own.loss_and_grad = lambda x: 0.0
    own.weights[0].grad = None
    with pytest.raises(ValueError, match="the gradient of w must have its shape"):
        check_gradients(own, np.ones(2))


@pytest.mark.parametrize(("arguments", "options", "error", "said"), [
    ((3,), {}, TypeError, "can be checked, got int"),
    ((loss_and_grad, 1, 2), {}, TypeError, "a function and its parameters can be checked, got loss_and_grad"),
    ((Cube,), {"sample_weight": [1]}, TypeError, "sample_weight is for nets, got Cube"),
    ((3,), {"parameters": [1.0]}, TypeError, r"a function loss_and_grad\(parameters, x, y\) is needed"),
    ((wrong(Cube, __call__=lambda self, x: x.sum()),), {}, ValueError, r"must return the shape \(45,\)"),
])  # fmt: skip
def test_what_cannot_be_checked(arguments, options, error, said):
    with pytest.raises(error, match=said):
        check_gradients(*arguments, **options)


def test_an_activation_that_changes_its_input():
    def change(self, x):
        x *= x
        return x

    with pytest.raises(ValueError, match="changes the array that it is given"):
        check_gradients(wrong(Cube, __call__=change))
