"""Batch normalisation between graphs and PyTorch: parameters, running statistics, both modes."""

from __future__ import annotations

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
