"""State_dicts of PyTorch's modules into nets and back."""

import numpy as np
import pytest

from backprop_xp import Elementwise, Graph, Net
from backprop_xp.exchange import from_torch, load_state_dict, state_dict, to_torch

torch = pytest.importorskip("torch")
nn = torch.nn


def graph():
    g = Graph()
    h = g.batch_norm(g.layer_norm(g.linear(g.input(3, "x"), 4, name="h"), name="l"), name="n")
    return g.net(g.linear(h, 2, name="out"), rng=0, backend="numpy")


@pytest.mark.parametrize("make", [lambda: Net((3, 4, 2), bias=(True, False), rng=0, backend="numpy"), graph])
def test_there_and_back(make, random):
    net, x = make(), random.normal(size=(5, 3))
    model = to_torch(net)
    model.load_state_dict(state_dict(net), strict=False)
    for p in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        p.data.add_(0.25)
    load_state_dict(net, model.state_dict())
    np.testing.assert_allclose(net(x), model.eval()(torch.tensor(x)).detach(), rtol=1e-10, atol=1e-12)
    for key, value in state_dict(net).items():
        torch.testing.assert_close(value, model.state_dict()[key])


def test_keys_of_a_model_that_names_its_modules_differently(random):
    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))

        def forward(self, x):
            return self.encoder(x)

    model, net = Theirs().double(), Net((3, 4, 2), bias=True, rng=0, backend="numpy")
    load_state_dict(net, model.state_dict())
    x = random.normal(size=(5, 3))
    np.testing.assert_allclose(net(x), model(torch.tensor(x)).detach(), rtol=1e-12)
    assert [*state_dict(net)] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [*state_dict(from_torch(nn.Linear(2, 2)))] == ["0.weight", "0.bias"]


def test_activations_of_every_kind_have_no_state():
    net = Net((2, 3, 1), (Elementwise("bump", "exp(-t ** 2)"), "sin"), rng=0, backend="numpy")
    assert [*state_dict(net)] == ["0.weight", "2.weight"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("0.bias"), "it misses 0.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "it has, and the net doesn't, extra"),
        (lambda s: s.update({"2.weight": torch.ones(2, 5)}), r"2.weight must be \(2, 4\), got \(2, 5\)"),
    ],
)
def test_a_state_of_another_net_changes_nothing(change, message):
    net = Net((3, 4, 2), bias=True, rng=0, backend="numpy")
    state = {key: value + 1 for key, value in state_dict(net).items()}
    change(state)
    before = [tensor.data.copy() for tensor in net.parameters]
    with pytest.raises(ValueError, match=message):
        load_state_dict(net, state)
    for tensor, array in zip(net.parameters, before):
        np.testing.assert_array_equal(tensor.data, array)
