"""Gradients of every sample for itself, against those of batches of one sample and against torch.func."""

from __future__ import annotations

import numpy as np
import pytest
from arrays import target
from graphs import arrays, descriptions, output_in_torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import (
    LOSSES,
    Activation,
    Equation,
    GraphNet,
    Input,
    Linear,
    Net,
    Operation,
    SoftmaxCrossEntropy,
    exchange,
)  # fmt: skip
from backprop_xp.operations import BatchNorm, Dropout, LayerNorm
from backprop_xp.passes import per_sample

torch = pytest.importorskip("torch")
func = pytest.importorskip("torch.func")


def one_by_one(net, x, y, **options):
    """What loss_and_grad gives of every sample alone."""
    rows = []
    for i in range(len(next(iter(x.values())) if isinstance(x, dict) else x)):
        one = {name: array[i : i + 1] for name, array in x.items()} if isinstance(x, dict) else x[i : i + 1]
        net.loss_and_grad(one, None if y is None else y[i : i + 1], **options)
        rows.append(np.concatenate([tensor.grad.ravel() for tensor in net.parameters]))
    return np.array(rows)


def assert_right(net, x, y, **options):
    found, norms = net.per_sample_grads(x, y, **options), net.per_sample_norms(x, y, **options)
    expected = one_by_one(net, x, y, **options)
    assert found.shape == expected.shape and found.dtype == norms.dtype == net.dtype
    tolerance = 1e-4 if net.dtype == np.float32 else 1e-10
    scale = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)
    np.testing.assert_allclose(norms, np.linalg.norm(expected, axis=1), rtol=tolerance, atol=tolerance * scale)


@settings(deadline=None, max_examples=30)
@given(
    loss=st.sampled_from(sorted(LOSSES)),
    reduction=st.sampled_from(["sum", "mean"]),
    bias=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    n=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_each_is_that_of_the_sample_alone(loss, reduction, bias, dtype, n, seed):
    net = Net((3, 4, 4, 2), ("tanh", "relu", "sigmoid"), loss, bias, dtype, seed, "numpy", reduction=reduction)
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3)).astype(dtype)
    y = target(loss, n, 2, random, dtype)
    if n == 0:
        assert net.per_sample_grads(x, y).shape == (0, sum(p.data.size for p in net.parameters))
        assert net.per_sample_norms(x, y).shape == (0,)
    else:
        assert_right(net, x, y)


def test_it_is_torch_funcs(random):
    net = Net((3, 8, 2), ("tanh", "identity"), "mse", True, "float64", 0, "numpy", reduction="mean")
    x, y = random.normal(size=(6, 3)), random.normal(size=(6, 2))
    module = exchange.to_torch(net)
    named = dict(module.named_parameters())

    def loss(parameters, one, goal):
        return ((func.functional_call(module, parameters, one[None])[0] - goal) ** 2).mean()

    theirs = func.vmap(func.grad(loss), (None, 0, 0))(named, torch.tensor(x), torch.tensor(y))
    names = [name for name in named if "weight" in name] + [name for name in named if "bias" in name]
    expected = torch.cat([theirs[name].reshape(6, -1) for name in names], 1).detach().numpy()
    np.testing.assert_allclose(net.per_sample_grads(x, y), expected, rtol=1e-10, atol=1e-12)
    assert all(tensor.grad is None for tensor in net.parameters)
    one = net.per_sample_grads(x[0], y[0])
    np.testing.assert_allclose(one, expected[0], rtol=1e-10, atol=1e-12)
    assert net.per_sample_norms(x[0], y[0]) == pytest.approx(np.linalg.norm(expected[0]))


@settings(deadline=None, max_examples=20)
@given(description=descriptions(most_nodes=6, widths=(1, 2, 3)), n=st.integers(1, 3), seed=st.integers(0, 1000))
def test_of_graphs_it_is_torch_funcs(description, n, seed):
    net = GraphNet(description, rng=seed, backend="numpy", init="glorot_normal", loss="mse")
    if not net.tensors:
        return
    x, y = arrays(net, n, seed)
    parameters = {name: torch.tensor(tensor.data) for name, tensor in net.tensors.items()}

    def loss(parameters, one, goal):
        output = output_in_torch(net, {name: array[None] for name, array in one.items()}, parameters)
        return ((output[0] - goal) ** 2).sum()

    points = {name: torch.tensor(array) for name, array in x.items()}
    theirs = func.vmap(func.grad(loss), (None, 0, 0))(parameters, points, torch.tensor(y))
    expected = torch.cat([theirs[name].reshape(n, -1) for name in net.tensors], 1).numpy()
    scale = max(1, np.abs(expected).max())
    found = net.per_sample_grads(x, y, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * scale)
    norms = net.per_sample_norms(x, y, training=False)
    np.testing.assert_allclose(norms, np.linalg.norm(expected, axis=1), rtol=1e-8, atol=1e-9 * scale)


def test_shared_weights_and_tensors_count_once(random):
    nodes = {
        "x": Input(3),
        "a": (Linear(3), "x"),
        "f": ("tanh", "a"),
        "b": (Linear(3, share="a"), "f"),
        "y": ("tanh", "b"),
    }
    x = random.normal(size=(4, 3))
    assert_right(GraphNet(nodes, rng=0, backend="numpy"), x, None)
    net = Net((3, 3, 3, 3), bias=True, rng=0, backend="numpy")
    net.weights[2] = net.weights[0]
    assert len(net.parameters) == 5
    assert_right(net, x, None)


def test_weights_of_classes_and_ignored_samples(random):
    x, y = random.normal(size=(6, 3)), np.array([0, 1, 2, 3, 1, 1])
    for reduction in ("sum", "mean"):
        loss = SoftmaxCrossEntropy(weight=[1.0, 2.0, 0.5, 3.0], ignore_index=1, label_smoothing=0.1)
        net = Net((3, 5, 4), loss=loss, rng=0, backend="numpy", reduction=reduction)
        assert_right(net, x, y)
        assert (net.per_sample_norms(x, y)[y == 1] == 0).all()


def test_normalisation_in_use_and_dropout(random):
    x, y = random.normal(size=(5, 3)), random.normal(size=(5, 2))
    nodes = {
        "x": Input(3), "h": (Linear(4), "x"), "b": (BatchNorm(), "h"), "l": (LayerNorm(), "b"), "y": (Linear(2), "l"),
    }  # fmt: skip
    net = GraphNet(nodes, rng=0, backend="numpy", loss="mse")
    for buffer in net.buffers.values():
        buffer.data = buffer.data + random.uniform(0.1, 1, buffer.data.shape)
    assert_right(net, x, y, training=False)
    with pytest.raises(ValueError, match="node 'b' needs the whole batch in training; with training=False they are"):
        net.per_sample_grads(x, y)
    nodes = {"x": Input(3), "h": (Linear(50), "x"), "d": (Dropout(0.5), "h"), "y": (Linear(2), "d")}
    net = GraphNet(nodes, rng=0, backend="numpy", loss="mse")
    draws = net.draws
    net.loss_and_grad(x, y)
    sums = np.concatenate([tensor.grad.ravel() for tensor in net.parameters])
    net.draws = draws
    np.testing.assert_allclose(net.per_sample_grads(x, y).sum(axis=0), sums, rtol=1e-10, atol=1e-12)


def test_in_tiles_as_at_once(monkeypatch, random):
    net = Net((3, 8, 2), loss="mse", bias=True, rng=0, backend="numpy")
    x, y = random.normal(size=(23, 3)), random.normal(size=(23, 2))
    whole, norms = net.per_sample_grads(x, y), net.per_sample_norms(x, y)
    monkeypatch.setattr(per_sample, "AT_ONCE", 40)
    np.testing.assert_allclose(net.per_sample_grads(x, y), whole, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(net.per_sample_norms(x, y), norms, rtol=1e-12)


def test_they_clip(random):
    """As the docstring says: clipped gradients, summed, without storing them."""
    net = Net((3, 8, 2), loss="mse", bias=True, rng=0, backend="numpy")
    x, y = random.normal(size=(20, 3)), random.normal(size=(20, 2))
    rows, norms = net.per_sample_grads(x, y), net.per_sample_norms(x, y)
    most = np.median(norms)
    clipped = np.minimum(1, most / norms)
    net.loss_and_grad(x, y, sample_weight=clipped)
    found = np.concatenate([tensor.grad.ravel() for tensor in net.parameters])
    np.testing.assert_allclose(found, (rows * clipped[:, None]).sum(axis=0), rtol=1e-10)


def test_norms_of_float32_don_t_overflow():
    net = Net((2, 2), ("identity",), "half_sum_sq", dtype="float32", rng=0, backend="numpy")
    x = np.full((1, 2), 1e14, np.float32)
    assert np.isfinite(net.per_sample_norms(x)[0])
    np.testing.assert_allclose(
        net.per_sample_norms(x)[0], np.linalg.norm(net.per_sample_grads(x)[0].astype(float)), rtol=1e-6
    )


class Scaled(Operation):
    """With a parameter, and no word on single samples."""

    scope = "sample"

    def initial(self, widths, draw):
        return {"factor": np.ones(widths[0])}

    def forward(self, *inputs, **given):
        return inputs[0] * given["factor"]

    def backward(self, grad, *inputs, **given):
        return grad * given["factor"], (grad * inputs[0]).sum(axis=0)


class OwnScaled(Scaled):
    scope = "sample"

    def forward(self, *inputs, **given):
        return super().forward(*inputs, **given)

    def per_sample(self, grad, *inputs, **given):
        return grad * inputs[0]


def around(operation):
    return GraphNet({"x": Input(3), "h": (Linear(3), "x"), "node": (operation, "h")}, rng=0, backend="numpy")


def test_operations_of_ones_own(random):
    x = random.normal(size=(4, 3))
    assert_right(around(OwnScaled()), x, None)
    with pytest.raises(
        TypeError, match=r"node 'node' \(Scaled\) gives no gradients sample by sample: define per_sample"
    ):
        around(Scaled()).per_sample_grads(x)

    class Other(LayerNorm):
        def backward(self, grad, *inputs, **given):
            return super().backward(grad, *inputs, **given)

    net = around(Other())
    with pytest.raises(ValueError, match="node 'node' needs the whole batch"):
        net.per_sample_grads(x)


class Mixing(Activation):
    def __call__(self, t):
        return t

    def grad(self, t):
        return t * 0 + 1


def test_what_looks_at_the_whole_batch_is_refused(random):
    x = random.normal(size=(4, 3))
    net = Net((3, 2), (Mixing(),), rng=0, backend="numpy")
    with pytest.raises(ValueError, match="not defined where the activation Mixing of layer 0 needs the whole batch"):
        net.per_sample_grads(x)
    with pytest.raises(TypeError, match="not of an equation"):
        net.per_sample_grads(x, loss=Equation("u_x", inputs="x y z", outputs="u v"))
    with pytest.raises(ValueError, match="needs a target"):
        Net((3, 2), ("tanh",), "mse", rng=0, backend="numpy").per_sample_norms(x)


@pytest.mark.gpu
def test_on_a_gpu(cupy, random):
    nodes = {"x": Input(3), "h": (Linear(4), "x"), "l": (LayerNorm(), "h"), "y": (Linear(2), "l")}
    x, y = random.normal(size=(5, 3)), random.normal(size=(5, 2))
    for net in (
        GraphNet(nodes, rng=0, backend="numpy", loss="mse"),
        Net((3, 4, 2), loss="mse", rng=0, backend="numpy"),
    ):
        rows, norms = net.per_sample_grads(x, y), net.per_sample_norms(x, y)
        net.to("cupy")
        np.testing.assert_allclose(cupy.asnumpy(net.per_sample_grads(cupy.asarray(x), y)), rows, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(cupy.asnumpy(net.per_sample_norms(x, cupy.asarray(y))), norms, rtol=1e-9)
