"""The article's programs, on our names."""

import numpy as np
import pytest

from backprop_xp import Activation, HalfSumSq, Identity, Net, Sigmoid, Tanh, Tensor


class ArticleNet:
    """The article's net as its reader would write it, with Tensor and the functions from this package."""

    def __init__(self):
        shapes = [(10, 5), (4, 10), (12, 4)]
        self.weights = [Tensor(np.random.randn(*shape)) for shape in shapes]  # noqa: NPY002
        self.linear_outputs = [Tensor(np.zeros(rows)) for rows, _ in shapes]
        self.nonlinear_outputs = [Tensor(np.zeros(rows)) for rows, _ in shapes]
        self.activations = [Tanh(), Sigmoid(), Identity()]
        self.loss = HalfSumSq()

    def loss_and_grad(self, x):
        signal = x
        for i in range(3):
            self.linear_outputs[i].data = self.weights[i].data @ signal
            self.nonlinear_outputs[i].data = self.activations[i](self.linear_outputs[i].data)
            signal = self.nonlinear_outputs[i].data
        value = self.loss(signal)
        self.nonlinear_outputs[-1].grad = self.loss.grad(signal)
        for i in (2, 1, 0):
            t, z = self.linear_outputs[i], self.nonlinear_outputs[i]
            t.grad = self.activations[i].grad(t.data) * z.grad
            before = self.nonlinear_outputs[i - 1].data if i else x
            self.weights[i].grad = np.outer(t.grad, before)
            if i:
                self.nonlinear_outputs[i - 1].grad = self.weights[i].data.T @ t.grad
        return value


@pytest.fixture
def nets():
    np.random.seed(100)  # noqa: NPY002
    article = ArticleNet()
    np.random.seed(100)  # noqa: NPY002
    return article, Net()


def test_the_same_weights_are_drawn(nets):
    for a, b in zip(*(net.weights for net in nets), strict=True):
        assert np.array_equal(a.data, b.data)
        assert b.data.dtype == np.float64


def test_the_same_numbers(nets):
    article, net = nets
    x = np.ones(5, dtype=float)
    assert net.loss_and_grad(x) == pytest.approx(article.loss_and_grad(x), rel=1e-14)
    assert np.ndim(net.loss_and_grad(x)) == 0
    for name in ("weights", "linear_outputs", "nonlinear_outputs"):
        for a, b in zip(getattr(article, name), getattr(net, name), strict=True):
            np.testing.assert_allclose(b.data, a.data, rtol=1e-13)
            np.testing.assert_allclose(b.grad, a.grad, rtol=1e-12, atol=1e-14)


def test_gradients_equal_pytorch(nets):
    torch = pytest.importorskip("torch")
    _, net = nets
    model = torch.nn.Sequential()
    for w, kind in zip(net.weights, (torch.nn.Tanh, torch.nn.Sigmoid, torch.nn.Identity)):
        linear = torch.nn.Linear(w.data.shape[1], w.data.shape[0], bias=False)
        linear.weight.data = torch.tensor(w.data, dtype=float)
        model.extend([linear, kind()])
    loss = 0.5 * torch.sum(model(torch.ones(5, dtype=float)) ** 2)
    loss.backward()
    assert net.loss_and_grad(np.ones(5)) == pytest.approx(loss.item())
    for w, parameter in zip(net.weights, model.parameters(), strict=True):
        assert np.allclose(w.grad, parameter.grad.numpy())


def test_descent_lowers_the_loss(nets):
    _, net = nets
    x, losses = np.ones(5), []
    for _ in range(20):
        losses.append(net.loss_and_grad(x))
        for w in net.weights:
            w.data -= 0.01 * w.grad
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2


def test_an_activation_of_the_readers_own():
    class Sine(Activation):
        def __call__(self, x):
            return np.sin(x)

        def grad(self, x):
            return np.cos(x)

    net = Net((3, 2), (Sine(),), rng=0)
    x = np.array([0.1, 0.2, 0.3])
    t = net.weights[0].data @ x
    assert net.loss_and_grad(x) == pytest.approx(0.5 * np.sum(np.sin(t) ** 2))
    np.testing.assert_allclose(net.weights[0].grad, np.outer(np.sin(t) * np.cos(t), x))


def test_attributes_before_the_first_call():
    net = Net()
    assert [w.data.shape for w in net.weights] == [(10, 5), (4, 10), (12, 4)]
    assert [t.data.shape for t in net.linear_outputs] == [(10,), (4,), (12,)]
    assert all(not t.data.any() and t.grad is None for t in net.nonlinear_outputs)
    assert [type(f) for f in net.activations] == [Tanh, Sigmoid, Identity]
    assert type(net.loss) is HalfSumSq
    assert net.backend.name == "numpy"


def test_tensor():
    t = Tensor(np.ones(3), name="t")
    assert t.data.shape == (3,)
    assert t.grad is None
    assert t.name == "t"
    assert Tensor(1.0).name is None
    assert repr(t) == "Tensor(t: float64[3], grad=None)"
