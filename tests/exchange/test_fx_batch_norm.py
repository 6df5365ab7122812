"""Batch normalisation between graphs and PyTorch: parameters, running statistics, both modes."""

import numpy as np
import pytest

from backprop_xp import Graph
from backprop_xp.exchange import from_torch, to_torch
from backprop_xp.torch_layer import as_torch

torch = pytest.importorskip("torch")
nn = torch.nn


def test_batch_normalisation_and_its_running_statistics(random):
    """There and back, in training and prediction, and in the layer that PyTorch trains."""
    g = Graph()
    net = g.net(g.linear(g.batch_norm(g.linear(g.input(5), 7), momentum=0.3), 2), loss="mse", rng=0, backend="numpy")
    x, y = random.normal(size=(9, 5)), random.normal(size=(9, 2))
    module, layer = to_torch(net), as_torch(net)
    theirs = module.train()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(layer.train()(torch.tensor(x)).detach(), theirs, rtol=1e-9, atol=1e-12)
    running = dict(module.named_buffers())
    for name, tensor in net.buffers.items():
        np.testing.assert_allclose(tensor.data, running[name], rtol=1e-9)
    back = from_torch(module)
    np.testing.assert_allclose(back(x), module.eval()(torch.tensor(x)).detach(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(layer.eval()(torch.tensor(x)).detach(), back(x), rtol=1e-9, atol=1e-12)
    assert back.loss_and_grad(x, y, loss="mse") == pytest.approx(net.loss_and_grad(x, y))


def test_batch_normalisation_without_what_it_has_here():
    for options in ({"affine": False}, {"track_running_stats": False}, {"momentum": None}):
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, **options), nn.Linear(4, 1))
        with pytest.raises(TypeError, match="must have a weight and a bias, running statistics and a momentum"):
            from_torch(torch.fx.symbolic_trace(module))


def test_running_statistics_are_in_the_state_of_the_layer(random):
    g = Graph()
    out = g.linear(g.batch_norm(g.linear(g.input(5), 7), name="n"), 2)
    first, second = (as_torch(g.net(out, loss="mse", rng=seed, backend="numpy")) for seed in (0, 1))
    x = torch.tensor(random.normal(size=(9, 5)))
    first.train()(x)
    state = first.state_dict()
    assert {"buffers.n.running_mean", "buffers.n.running_var"} <= state.keys()
    second.load_state_dict(state)
    torch.testing.assert_close(second.eval()(x), first.eval()(x))
    before = state["buffers.n.running_mean"].clone()
    first.train()(x)
    torch.testing.assert_close(state["buffers.n.running_mean"], before)  # a state is a copy of them
    with pytest.raises(RuntimeError, match=r"buffers\.n\.running_var"):
        second.load_state_dict({k: v for k, v in state.items() if k != "buffers.n.running_var"})
    with pytest.raises(RuntimeError, match=r"must be \(7,\), got \(3,\)"):
        second.load_state_dict(state | {"buffers.n.running_var": torch.ones(3)})
