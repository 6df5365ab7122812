"""Nets as layers of PyTorch models with one Parameter: the same numbers as with one for each array."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from backprop_xp import GraphNet, Input, Linear, Net
from backprop_xp.exchange import to_torch
from backprop_xp.graph import Dropout, LayerNorm

torch = pytest.importorskip("torch")

from backprop_xp.torch_layer import as_torch  # noqa: E402


def chain(dtype="float64", **options):
    return Net((3, 5, 4, 2), ("tanh", "gelu", "identity"), "mse", (True, False, True), dtype, 0, "numpy", **options)


def normalised(dtype="float64", **options):
    layers = ([LayerNorm(), "tanh"], [Dropout(0.2), "tanh"], "identity")
    return Net((3, 5, 4, 2), layers, "mse", True, dtype, 0, "numpy", **options)


def tied(dtype="float64", **options):
    net = Net((3, 3, 3, 2), ("tanh", "gelu", "identity"), "mse", True, dtype, 0, "numpy", **options)
    net.weights[1] = net.weights[0]
    return net


def graph(dtype="float64", **options):
    description = {"x": Input(3), "h": (Linear(3), "x"), "n": (LayerNorm(), "h"), "m": ("multiply", "n", "x")}
    return GraphNet(description | {"y": (Linear(2), "m")}, None, "mse", dtype, 0, "numpy", **options)


NETS = [chain, normalised, tied, graph]


def samples(n=6, dtype=torch.float64, grad=False):
    return torch.linspace(-1, 1, 3 * n, dtype=dtype).sin().view(n, 3).requires_grad_(grad)


def parts(layer):
    """The gradient of every place of the net, as the flat module has it."""
    return layer._link.flat.split(layer.flat.grad)


@pytest.mark.parametrize("engine", ["auto", "layered"])
@pytest.mark.parametrize("n", [1, 6, 700])
@pytest.mark.parametrize("make", NETS)
def test_outputs_and_gradients_are_those_of_separate_parameters(make, n, engine):
    results = []
    for flat in (False, True):
        net = make(engine=engine)
        layer, x = as_torch(net, flat).eval(), samples(n, grad=True)
        z = layer(x)
        z.square().sum().backward()
        grads = parts(layer) if flat else [parameter.grad for parameter in layer._in_places()]
        results.append([z, x.grad, *grads])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)
    assert [name for name, _ in layer.named_parameters()] == ["flat"]
    for tensor in net._places():
        assert np.shares_memory(tensor.data, layer.flat.detach().numpy())


@pytest.mark.parametrize("make", NETS)
def test_it_is_differentiated_and_transformed(make):
    layer, x = as_torch(make(), flat=True).eval(), samples(4, grad=True)
    assert torch.autograd.gradcheck(lambda x, _: layer(x), (x, layer.flat))
    assert torch.autograd.gradgradcheck(lambda x, _: layer(x), (x, layer.flat))

    def loss(flat, one):
        return torch.func.functional_call(layer, {"flat": flat}, one[None]).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(layer.flat.detach(), x.detach())
    layer(x).square().sum().backward()
    torch.testing.assert_close(each.sum(0), layer.flat.grad)
    tangent = torch.ones_like(layer.flat)
    _, along = torch.func.jvp(lambda flat: loss(flat, x.detach()[0]), (layer.flat.detach(),), (tangent,))
    torch.testing.assert_close(along, each[0].sum())


@pytest.mark.parametrize("make", NETS)
def test_it_is_compiled_and_exported(make):
    layer, x = as_torch(make(), flat=True).eval(), samples(4)
    expected = layer(x)
    expected.square().sum().backward()
    grad, layer.flat.grad = layer.flat.grad, None
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, expected)
    compiled.square().sum().backward()
    torch.testing.assert_close(layer.flat.grad, grad)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=["plain", "fused", "foreach"])
def test_adam_trains_it_as_it_does_pytorchs_module(options):
    net = chain()
    models = to_torch(net), as_torch(net, flat=True)
    x, y = samples(), samples()[:, :2]
    optimisers = [torch.optim.Adam(model.parameters(), 0.05, **options) for model in models]
    for _ in range(10):
        losses = []
        for model, optimiser in zip(models, optimisers):
            optimiser.zero_grad()
            losses.append(((model(x) - y) ** 2).mean())
            losses[-1].backward()
            optimiser.step()
        torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(net(x.numpy()), models[0](x).detach(), rtol=1e-9)


def test_lbfgs_trains_it():
    layer, x = as_torch(chain(), flat=True), samples()
    optimiser = torch.optim.LBFGS(layer.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = (layer(x) - 0.3).square().mean()
        loss.backward()
        return loss

    before = closure().item()
    optimiser.step(closure)
    assert closure().item() < before / 10


def waves(layer):
    return torch.arange(len(layer.flat), dtype=layer.flat.dtype).cos()


def fitted(net, layer):
    net.fit(np.ones((8, 3)), np.zeros((8, 2)), epochs=1)


def rebound(net, layer):
    place = net._places()[0]
    place.data = np.cos(np.arange(place.data.size)).reshape(place.data.shape)


def turned(net, layer):
    net._places()[0].data = net._places()[0].data[::-1]


def loaded(net, layer):
    layer.load_state_dict({"flat": waves(layer)}, assign=True)


def replaced(net, layer):
    layer.flat = torch.nn.Parameter(waves(layer))


def other_memory(net, layer):
    layer.flat.data = waves(layer).repeat_interleave(2)[::2]


def converted(net, layer):
    layer.float().double()


CHANGES = [fitted, rebound, turned, loaded, replaced, other_memory, converted]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("make", NETS)
def test_both_sides_share_memory_again(make, change):
    net = make()
    layer, x = as_torch(net, flat=True).eval(), samples()
    layer(x).sum().backward()
    change(net, layer)
    expected = layer(x).detach()
    np.testing.assert_allclose(net(x.numpy()), expected, rtol=1e-12)
    with torch.no_grad():
        layer.flat.mul_(0.5)
    np.testing.assert_allclose(net(x.numpy()), layer(x).detach(), rtol=1e-12)
    assert not np.allclose(net(x.numpy()), expected)
    net._places()[0].data += 1
    np.testing.assert_allclose(net(x.numpy()), layer(x).detach(), rtol=1e-12)


def test_its_memory_may_be_changed_before_the_backward_pass_but_not_unnoticed():
    net = chain()
    layer = as_torch(net, flat=True)
    for change in (lambda: layer.flat.detach().add_(1), lambda: (fitted(net, layer), layer.net)):
        z = layer(samples()).sum()
        change()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.backward()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("make", NETS)
def test_a_copy_has_a_net_of_its_own(make, clone):
    net = make()
    layer, x = as_torch(net, flat=True).eval(), samples()
    other, before = clone(layer), net(x.numpy())
    with torch.no_grad():
        other.flat.zero_()
    assert not other.net(x.numpy()).any() and not other(x).any()
    np.testing.assert_allclose(layer(x).detach(), before, rtol=1e-12)


def test_what_can_not_be_is_said():
    with pytest.raises(ValueError, match="flat=True is for nets with parameters, and this one has none"):
        as_torch(GraphNet({"x": Input(3), "y": ("tanh", "x")}, backend="numpy"), flat=True)
    with pytest.raises(ValueError, match="flat must be True or False, got 'yes'"):
        as_torch(chain(), flat="yes")
    net = chain()
    layer = as_torch(net, flat=True)
    net.weights[1] = net.weights[0]
    with pytest.raises(RuntimeError, match=r"share others, than its module's: call as_torch\(net\) again"):
        layer(samples())
    layer = as_torch(chain(), flat=True)
    layer.flat = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"the module's parameter must be \(50,\), got \(7,\)"):
        layer(samples())
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weights\.0"'):
        as_torch(chain(), flat=True).load_state_dict(as_torch(chain()).state_dict())
