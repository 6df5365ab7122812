"""Nets to PyTorch and back: the same outputs, the same gradients."""

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, Activation, Cos, Elementwise, Net, Sin
from backprop_xp.exchange import from_torch, to_torch
from backprop_xp.exchange.pytorch import MODULES, from_module, to_module

torch = pytest.importorskip("torch")
nn = torch.nn

CHANGED = {
    "leaky_relu": {"negative_slope": 0.2}, "elu": {"alpha": 0.7}, "celu": {"alpha": 2.0},
    "softplus": {"beta": 3.0, "threshold": 5.0}, "hard_tanh": {"min_val": -2.0, "max_val": 0.5},
}  # fmt: skip


def assert_equal(net, model, x):
    """Outputs, and gradients of half the sum of squares in every parameter and in x."""
    model.zero_grad()
    tensor = torch.tensor(x, requires_grad=True)
    z = model(tensor)
    np.testing.assert_allclose(net(x), z.detach().numpy(), rtol=1e-12, atol=1e-12)
    (0.5 * (z * z).sum()).backward()
    _, grad_x = net.loss_and_grad(x, input_grad=True)
    # the derivative of nn.Hardsigmoid is a float32 1 / 6 in every dtype
    tolerance = 1e-6 if any(f.name == "hard_sigmoid" for f in net.activations) else 1e-11
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    pairs = [(w.grad, linear.weight.grad) for w, linear in zip(net.weights, linears, strict=True)]
    pairs += [(b.grad, linear.bias.grad) for b, linear in zip(net.biases, linears)]
    for mine, theirs in [*pairs, (grad_x, tensor.grad)]:
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_there_and_back(name, bias, random):
    for params in ({}, CHANGED.get(name, {})):
        f = ACTIVATIONS[name](**params)
        net = Net((4, 5, 3), (f, f), bias=bias, rng=0, engine="layered")  # nothing to compile
        for b in net.biases:
            b.data[:] = random.normal(size=b.data.shape)
        x = random.normal(size=(9, 4)) * 3
        model = to_torch(net)
        assert_equal(net, model, x)
        again = from_torch(model, engine="layered")
        assert_equal(again, model, x)
        assert repr(again.activations) == repr(net.activations)
        assert len(again.biases) == len(net.biases)


def test_the_table_is_whole():
    assert set(MODULES) <= set(ACTIVATIONS)
    assert {set(params) == set(ACTIVATIONS[name].params) for name, params in CHANGED.items()} == {True}
    for name in MODULES:
        assert from_module(to_module(ACTIVATIONS[name]())).name == name


def test_a_built_in_activation_that_pytorch_lacks_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.delitem(MODULES, "mish")
    with pytest.raises(TypeError, match="PyTorch has no counterpart of the activation Mish 'mish'"):
        to_torch(Net((3, 2), ("mish",), rng=0))


def test_parameters_are_copies():
    net = Net((2, 2), rng=0, bias=True)
    model = to_torch(net)
    again = from_torch(model)
    with torch.no_grad():
        model[0].weight += 1
        model[0].bias += 1
    for other in (net, again):
        assert other(np.ones(2)).tolist() == Net((2, 2), rng=0)(np.ones(2)).tolist()


def test_forms_of_chains(random):
    """Linear after Linear, an activation that is used twice, Identity anywhere, a chain within a chain."""
    tanh = nn.Tanh()
    inner = nn.Sequential(nn.Linear(5, 3), tanh, nn.Identity())
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 6), tanh, nn.Linear(6, 5), inner, nn.Linear(3, 2)).double()
    net = from_torch(model, loss="half_sum_sq", engine="layered")
    assert net.sizes == (4, 6, 5, 3, 2)
    assert [f.name for f in net.activations] == ["tanh", "identity", "tanh", "identity"]
    assert_equal(net, model, random.normal(size=(5, 4)))


def test_a_layer_with_nothing_before_one_with_a_normalisation(random):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 3)).double()
    net = from_torch(model)
    assert isinstance(net, Net) and [*net.tensors] == ["z1.0.gain", "z1.0.bias"]
    assert [tensor.name for tensor in net.parameters[:4]] == ["W0", "W1", "W2", "b0"]
    x = random.normal(size=(5, 4))
    np.testing.assert_allclose(net(x), model(torch.tensor(x)).detach().numpy(), rtol=1e-12)


def test_a_module_that_comes_twice(random):
    twice = nn.Linear(3, 3).double()
    model = nn.Sequential(twice, nn.Tanh(), twice)
    net = from_torch(model)
    assert isinstance(net, Net) and net.weights[0] is net.weights[1] and net.biases[0] is net.biases[1]
    x = random.normal(size=(5, 3))
    np.testing.assert_allclose(net(x), model(torch.tensor(x)).detach().numpy(), rtol=1e-12)


def test_options_and_dtype():
    net = from_torch(nn.Sequential(nn.Linear(3, 2)), loss="mse", reduction="mean", threads=1)
    assert (net.dtype, net.loss.name, net.reduction, net.threads) == ("float32", "mse", "mean", 1)
    assert to_torch(net)[0].weight.dtype == torch.float32


HOOKED = nn.Linear(2, 2)
HOOKED.register_forward_hook(lambda module, args, z: 2 * z)
REFUSED = [
    (nn.Sequential(), "how many features the input input has can't be told"),
    (nn.Sequential(nn.Linear(2, 2), nn.PReLU()), r"module 1 \(PReLU\) has no counterpart here; modules that"),
    (nn.Sequential(nn.Linear(2, 2), nn.Softmin(1)), r"module 1 \(Softmin\) has no counterpart here"),
    (nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.InstanceNorm1d(2))), r"module 0.1 \(InstanceNorm1d\)"),
    (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))), "ParametrizedLinear"),
    (nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 2)), "Linear 1 takes 2 features, 0 gives 3"),
    (
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()),
        "one dtype, got 0.weight torch.float32, 0.bias torch.float32, 1.weight torch.float64",
    ),
    (nn.Sequential(HOOKED), r"module 0 \(Linear\) has forward hooks"),
]


@pytest.mark.parametrize("model, message", REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_has_no_counterpart_is_refused_by_name(model, message):
    with pytest.raises(TypeError, match=message):
        from_torch(model)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="dtype must be 'float32' or 'float64', got 'bfloat16'"):
        from_torch(nn.Sequential(nn.Linear(2, 2)).bfloat16())


def test_your_own_activations_are_refused_by_name():
    class Cube(Activation):
        pass

    for f, shown in ((Cube(), "Cube"), (Elementwise("bump", "t * t"), "Elementwise 'bump'")):
        with pytest.raises(TypeError, match=f"PyTorch has no counterpart of the activation {shown}"):
            to_torch(Net((2, 2), (f,)))


def test_without_pytorch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    for call in (lambda: to_torch(Net((2, 2))), lambda: from_torch(None)):
        with pytest.raises(ImportError, match="needs PyTorch"):
            call()


@pytest.mark.gpu
def test_a_net_on_a_device():
    pytest.importorskip("cupy")
    net = Net((3, 2), rng=0, backend="cupy", bias=True)
    model = to_torch(net)
    x = np.ones((4, 3))
    np.testing.assert_allclose(net(x).get(), model(torch.tensor(x)).detach().numpy(), rtol=1e-12)
    np.testing.assert_array_equal(from_torch(model, backend="cupy").weights[0].data.get(), net.weights[0].data.get())


@pytest.mark.parametrize("omega", [1.0, 30.0])
def test_sin_and_cos_which_are_no_modules_there(omega, random):
    net = Net((3, 5, 4, 2), (Sin(omega=omega), Cos(omega=omega), "identity"), bias=True, rng=0, backend="numpy")
    model, x = to_torch(net), random.normal(size=(6, 3))
    assert_equal(net, model, x)
    if omega == 1:
        np.testing.assert_allclose(from_torch(model, backend="numpy")(x), net(x), rtol=1e-12)


def test_a_flatten_in_front_and_a_softmax_at_the_end(random):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
    x = random.normal(size=(6, 4))
    assert_equal(from_torch(model, backend="numpy", engine="layered"), model, x)
    model.append(nn.Softmax(dim=-1))
    np.testing.assert_allclose(from_torch(model, backend="numpy")(x), model(torch.tensor(x)).detach(), rtol=1e-12)
    for odd, message in (
        (nn.Softmax(0), "along dim=0, not along the features"),
        (nn.Flatten(0), "flattens dimensions 0 to -1"),
    ):
        with pytest.raises(TypeError, match=message):
            from_torch(nn.Sequential(nn.Linear(4, 3), odd))
