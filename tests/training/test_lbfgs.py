"""L-BFGS against PyTorch's, and in runs."""

import copy
import math

import numpy as np
import pytest
from fitting import assert_same, net, parameters

from backprop_xp import GraphNet, Input, Linear
from backprop_xp.operations import Dropout
from backprop_xp.tensor import Tensor
from backprop_xp.training import LBFGS, fit, get_optimiser

torch = pytest.importorskip("torch")


def rosenbrock(w):
    """Of (n,): sum of 100 (w_i+1 - w_i^2)^2 + (1 - w_i)^2, in either library."""
    return (100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2).sum()


def ours(start, steps, **options):
    """The weights after every step, and how often the loss was evaluated."""
    tensor, optimiser, count, found = Tensor(np.array(start)), LBFGS(**options), 0, []

    def again():
        nonlocal count
        count += 1
        w = torch.tensor(tensor.data, requires_grad=True)
        loss = rosenbrock(w)
        loss.backward()
        tensor.grad = w.grad.numpy()
        return loss.item()

    for _ in range(steps):
        loss = again()
        optimiser.step([tensor], loss=loss, again=again)
        found.append(tensor.data.copy())
    return found, count


def theirs(start, steps, **options):
    w, count, found = torch.tensor(start, requires_grad=True), 0, []
    optimiser = torch.optim.LBFGS([w], **{"lr": 1.0} | options, line_search_fn="strong_wolfe")

    def closure():
        nonlocal count
        count += 1
        optimiser.zero_grad()
        loss = rosenbrock(w)
        loss.backward()
        return loss

    for _ in range(steps):
        optimiser.step(closure)
        found.append(w.detach().numpy().copy())
    return found, count


@pytest.mark.parametrize(
    "options", [{}, {"history_size": 3}, {"max_iter": 4}, {"lr": 0.3}, {"max_eval": 7}, {"tolerance_grad": 1e-2}]
)
def test_every_step_is_that_of_pytorch(options):
    start = np.random.default_rng(0).normal(size=6)
    found, count = ours(start, 6, **options)
    expected, their_count = theirs(start, 6, **options)
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert abs(count - their_count) <= 2


@pytest.mark.parametrize("maximize", [False, True])
def test_a_penalty_is_part_of_what_is_minimised(maximize):
    """Of the matrices alone, as PyTorch finds it where its closure has the penalty."""
    start = np.random.default_rng(1).normal(size=(2, 3))
    sign = -1.0 if maximize else 1.0
    matrix, vector, optimiser = Tensor(start.copy()), Tensor(np.ones(3)), LBFGS(max_iter=3)
    optimiser.maximize = maximize
    w, v = (torch.tensor(tensor.data.copy(), requires_grad=True) for tensor in (matrix, vector))
    other = torch.optim.LBFGS([w, v], lr=1.0, max_iter=3, line_search_fn="strong_wolfe")

    def loss_of(w, v):
        return ((w @ v - 1) ** 2).sum() + ((v - 2) ** 4).sum()

    def again():
        ours = [torch.tensor(tensor.data, requires_grad=True) for tensor in (matrix, vector)]
        loss = sign * loss_of(*ours)
        loss.backward()
        matrix.grad, vector.grad = (each.grad.numpy() for each in ours)
        return loss.item()

    def closure():
        other.zero_grad()
        loss = loss_of(w, v) + 0.25 * (w**2).sum()
        loss.backward()
        return loss

    for _ in range(4):
        optimiser.step([matrix, vector], loss=again(), again=again, l2=0.5)
        other.step(closure)
        np.testing.assert_allclose(matrix.data, w.detach(), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(vector.data, v.detach(), rtol=1e-6, atol=1e-8)


def test_it_finds_the_minimum():
    found, count = ours(np.zeros(10), 10)
    np.testing.assert_allclose(found[-1], np.ones(10), rtol=1e-4)
    assert count < 250


def test_defaults_are_those_of_pytorch():
    defaults = torch.optim.LBFGS([torch.zeros(1)]).param_groups[0]
    assert all(getattr(LBFGS(), name) == defaults[name] for name in LBFGS().options)
    assert isinstance(get_optimiser("lbfgs"), LBFGS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_falls_far_below_adams(data, dtype):
    x, y = data
    made = net(dtype=dtype)
    history = fit(made, x, y, epochs=10, optimiser="lbfgs", batch_size=None)
    other = fit(net(dtype=dtype), x, y, epochs=100, optimiser="adam", batch_size=None)
    losses = [epoch.loss for epoch in history.epochs]
    assert losses == sorted(losses, reverse=True) and losses[-1] < other.epochs[-1].loss / 10


def test_a_copy_goes_on_as_the_original(data):
    x, y = data
    one = net()
    optimiser = LBFGS(max_iter=3)
    fit(one, x, y, epochs=2, optimiser=optimiser, batch_size=None)
    kept, copied = parameters(one), copy.deepcopy(optimiser)
    fit(one, x, y, epochs=2, optimiser=optimiser, batch_size=None)
    after = parameters(one)
    for tensor, array in zip(one.parameters, kept):
        tensor.data = array
    fit(one, x, y, epochs=2, optimiser=copied, batch_size=None)
    assert_same(after, parameters(one))
    with pytest.raises(ValueError, match="has trained other parameters"):
        fit(net(bias=False), x, y, optimiser=copied, batch_size=None)


def test_dropout_drops_the_same_in_all_of_a_step(random):
    nodes = {"x": Input(3), "h": (Linear(30), "x"), "a": ("tanh", "h"), "d": (Dropout(0.5), "a"), "y": (Linear(1), "d")}
    made = GraphNet(nodes, rng=0, backend="numpy", loss="mse", reduction="mean", init="glorot_normal")
    x, y = random.normal(size=(20, 3)), random.normal(size=(20, 1))
    draws, losses = made.draws, []
    loss_and_grad = made.loss_and_grad

    def noted(*args, **kwargs):
        losses.append((made.draws, loss_and_grad(*args, **kwargs)))
        return losses[-1][1]

    made.loss_and_grad = noted
    fit(made, x, y, epochs=2, optimiser="lbfgs", batch_size=None)
    assert made.draws == draws + 2 and {each for each, _ in losses} == {draws, draws + 1}
    first = [loss for each, loss in losses if each == draws]
    assert min(first) < first[0] / 2
    losses.clear()
    fit(made, {"a": (x, y), "b": (x[:5], y[:5])}, optimiser="lbfgs", batch_size=None)
    assert made.draws == draws + 4 and [each for each, _ in losses] == [draws + 2, draws + 3] * (len(losses) // 2)


def test_maximizing_goes_up(data):
    x, y = data
    optimiser = LBFGS(max_iter=2)
    optimiser.maximize = True
    history = fit(net(), x, y, epochs=3, optimiser=optimiser, batch_size=None)
    assert history.epochs[-1].loss > history.epochs[0].loss


def test_a_step_to_infinity_is_not_made():
    tensor = Tensor(np.array([1.0]))

    def again():
        w = tensor.data[0]
        tensor.grad = np.array([1 / w if w > 0 else math.nan])
        return math.log(w) if w > 0 else math.nan

    LBFGS(lr=100.0).step([tensor], loss=again(), again=again)
    assert np.isfinite(tensor.data).all() and tensor.data[0] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 1.0}, "LBFGS takes no clip_norm or l1"),
        ({"l1": 0.1}, "LBFGS takes no clip_norm or l1"),
    ],
)
def test_what_it_does_not_take(data, options, message):
    with pytest.raises(ValueError, match=message):
        fit(net(), *data, optimiser="lbfgs", **options)


def test_messages():
    with pytest.raises(ValueError, match="LBFGS evaluates the loss itself: train by fit"):
        LBFGS().step([Tensor(np.ones(2))])
    for options in ({"max_iter": 0}, {"history_size": 0}, {"tolerance_grad": -1.0}, {"max_eval": 1.5}):
        with pytest.raises((ValueError, TypeError), match=f"{next(iter(options))} of LBFGS"):
            LBFGS(**options)
    with pytest.raises(TypeError, match="unknown option of LBFGS 'line_search_fn'"):
        LBFGS(line_search_fn="strong_wolfe")


@pytest.mark.gpu
def test_on_a_gpu(cupy, data):
    x, y = data
    one, other = net(backend="numpy"), net(backend="cupy")
    fit(one, x, y, epochs=2, optimiser="lbfgs", batch_size=None)
    fit(other, x, y, epochs=2, optimiser="lbfgs", batch_size=None)
    for p, q in zip(one.parameters, other.parameters):
        np.testing.assert_allclose(cupy.asnumpy(q.data), p.data, rtol=1e-4, atol=1e-6)
