"""A net and its PyTorch module share their parameters, whatever is done to either."""

import copy
import io
import pickle

import numpy as np
import pytest

from backprop_xp import Net, Tensor

torch = pytest.importorskip("torch")

from backprop_xp import torch_link  # noqa: E402
from backprop_xp.torch_layer import as_torch  # noqa: E402


def make(tied=False, dtype="float64", seed=0):
    net = Net((4, 4, 4), ("tanh", "identity"), "mse", True, dtype, seed, "numpy", "glorot_normal")
    if tied:
        net.weights[1] = net.weights[0]
    return net


def ones(layer):
    return torch.ones(2, 4, dtype=layer.weights[0].dtype)


def assert_shared(layer, net=None):
    """The numbers of the net are those of the module, and a change on one side is seen on the other."""
    if net is None:
        layer(ones(layer))
        net = layer._net
    for _ in range(2):
        ours = net(np.ones((2, 4), net.dtype))
        np.testing.assert_allclose(layer(ones(layer)).detach().numpy(), ours, rtol=1e-5)
        with torch.no_grad():
            layer.weights[0].mul_(0.5)
            layer.biases[1].add_(1)
        assert not np.allclose(net(np.ones((2, 4), net.dtype)), ours)
        net.weights[0].data += 0.25
    for tensor, parameter in zip((*net.weights, *net.biases), (*layer.weights, *layer.biases), strict=True):
        assert np.shares_memory(tensor.data, parameter.detach().numpy())


def saved(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": saved,
    "of a copy": lambda layer: copy.deepcopy(saved(layer)),
    "within another": lambda layer: copy.deepcopy(torch.nn.Sequential(layer, torch.nn.Tanh()))[0],
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("clone", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("before", ["as made", "after fit"])
def test_a_copy_has_a_net_of_its_own(clone, before, tied):
    net = make(tied)
    layer = as_torch(net)
    if before == "after fit":
        net.fit(np.ones((8, 4)), np.zeros((8, 4)), epochs=1)
    numbers = net(np.ones(4))
    other = clone(layer)
    np.testing.assert_array_equal(other.net(np.ones(4)), numbers)
    assert_shared(other, other._net)
    assert (other.weights[1] is other.weights[0]) == tied == (other.net.weights[1] is other.net.weights[0])
    np.testing.assert_array_equal(net(np.ones(4)), numbers)
    assert_shared(layer, net)


def state(layer):
    return {name: torch.full_like(tensor, 0.5) for name, tensor in layer.state_dict().items()}


ON_THE_MODULE = {
    "load": lambda layer: layer.load_state_dict(state(layer)),
    "load, assign": lambda layer: layer.load_state_dict(state(layer), assign=True),
    "load within another, assign": lambda layer: torch.nn.Sequential(layer).load_state_dict(
        {f"0.{name}": tensor for name, tensor in state(layer).items()}, assign=True
    ),
    "share_memory": lambda layer: layer.share_memory(),
    "float": lambda layer: layer.float(),
    "float and back": lambda layer: layer.float().double(),
    "to": lambda layer: torch.nn.Sequential(layer).to(torch.float32),
    "requires_grad": lambda layer: layer.requires_grad_(False),
}


@pytest.mark.parametrize("change", ON_THE_MODULE.values(), ids=ON_THE_MODULE)
def test_what_is_done_to_the_module_is_seen_by_the_net_at_once(change):
    net = make()
    net.loss_and_grad(np.ones((2, 4)), np.ones((2, 4)), keep_signals=True)
    layer = as_torch(net)
    layer(ones(layer))
    change(layer)
    expected = layer.weights[0].detach().clone()
    np.testing.assert_array_equal(net.weights[0].data, expected)
    assert net.dtype == net.weights[0].data.dtype
    assert_shared(layer, net)
    loss = net.loss_and_grad(np.ones((2, 4)), np.zeros((2, 4)), accumulate=True)
    assert loss.dtype == net.weights[0].grad.dtype == net.dtype


def test_parameters_that_are_replaced_by_hand_are_taken_at_the_next_use():
    net = make()
    layer = as_torch(net)
    layer.weights[0] = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    layer.biases[0].data = torch.ones(4, dtype=torch.float64)
    assert layer.net is net and not net.weights[0].data.any() and net.biases[0].data.all()
    layer.weights[1].data = layer.weights[1].data.t()  # the same memory, read in another order
    assert_shared(layer)
    layer.weights[1] = torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"must have a parameter of shape \(4, 4\), torch.float64.*has \(3, 4\)"):
        layer(ones(layer))


def fitted(net):
    net.fit(np.ones((8, 4)), np.zeros((8, 4)), epochs=2, batch_size=4)


def rebound(net):
    net.weights[0].data = np.full((4, 4), 0.5)


def turned(net):
    net.weights[0].data = net.weights[0].data.T


def backwards(net):
    net.weights[1].data = net.weights[1].data[::-1]


def a_list(net):
    net.biases[0].data = [1, 2, 3, 4]


def another_tensor(net):
    net.weights[0] = Tensor(np.eye(4))


ON_THE_NET = [fitted, rebound, turned, backwards, a_list, another_tensor]


@pytest.mark.parametrize("use", ["call", "state_dict", "float"])
@pytest.mark.parametrize("change", ON_THE_NET, ids=lambda change: change.__name__)
def test_what_is_done_to_the_net_is_seen_by_the_module_at_its_next_use(change, use):
    net = make()
    layer = as_torch(net)
    parameters = list(layer.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1)
    layer(ones(layer)).sum().backward()
    change(net)
    expected = np.array(net.weights[0].data)
    if use == "state_dict":
        np.testing.assert_array_equal(layer.state_dict()["weights.0"], expected)
    elif use == "float":
        np.testing.assert_array_equal(layer.float().weights[0].detach(), expected.astype(np.float32))
    else:
        layer(ones(layer)).sum().backward()
        optimizer.step()
        assert not np.array_equal(net.weights[0].data, expected)
    assert all(p is q for p, q in zip(parameters, layer.parameters()))
    assert_shared(layer)


def test_a_backward_pass_after_the_net_was_trained_is_refused():
    net = make()
    layer = as_torch(net)
    loss = layer(ones(layer)).sum()
    fitted(net)
    layer(ones(layer))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_shared_tensor_is_one_parameter():
    net = make(tied=True)
    layer = as_torch(net)
    assert layer.weights[1] is layer.weights[0] and len(list(layer.parameters())) == 3
    x = torch.randn(5, 4, dtype=torch.float64)
    (layer(x) ** 2).mean().backward()
    net.reduction = "mean"
    net.loss_and_grad(x.numpy(), np.zeros((5, 4)))
    np.testing.assert_allclose(layer.weights[0].grad, net.weights[0].grad, rtol=1e-12)
    layer.float()
    assert layer.weights[1] is layer.weights[0]
    assert_shared(layer, net)


def tie(net, layer):
    net.weights[1] = net.weights[0]


def tie_in_the_module(net, layer):
    layer.weights[1] = layer.weights[0]


def without_biases(net, layer):
    net.biases = []


def both(net, layer):
    fitted(net)
    layer.weights[0].data = torch.zeros(4, 4, dtype=torch.float64)


@pytest.mark.parametrize("change", [tie, tie_in_the_module, without_biases, both], ids=lambda change: change.__name__)
def test_what_can_not_be_shared_again_is_said(change):
    net = make()
    layer = as_torch(net)
    change(net, layer)
    for use in (lambda: layer(ones(layer)), lambda: layer.net, layer.state_dict, layer.float):
        with pytest.raises(RuntimeError, match=r"(have other parameters|both the net).*: call as_torch\(net\) again"):
            use()


@pytest.mark.parametrize("change", ["half", "bfloat16", "meta"])
def test_what_no_net_computes_in_is_refused_and_nothing_has_changed(change):
    net = make()
    layer = as_torch(net)
    with pytest.raises(TypeError, match=r"a net computes (in torch.float32 or torch.float64|on 'cpu' or 'cuda'), got"):
        layer.to("meta") if change == "meta" else getattr(layer, change)()
    assert_shared(layer, net)


def test_a_net_of_wrong_arrays():
    net = make()
    layer = as_torch(net)
    net.weights[0].data = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"weights\[0\].data must have shape \(4, 4\), got \(3, 4\)"):
        layer(ones(layer))


def test_other_tensors_may_stand_in_for_the_parameters():
    net = make()
    layer = as_torch(net)
    zeros = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    assert not torch.func.functional_call(layer, zeros, ones(layer)).any()
    assert_shared(layer, net)


@pytest.mark.gpu
def test_weights_that_run_backwards_on_a_device_are_put_straight(cupy, monkeypatch):
    """CuPy tells PyTorch of a negative stride as of a very large one, and PyTorch then ends the process."""
    handed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_link, "as_tensor", lambda a, backend: (handed.append(a), torch.from_numpy(a.get()))[1])
    net = make().to("cupy")
    net.weights[0].data, net.biases[1].data = net.weights[0].data[::-1, ::-1], net.biases[1].data[::-1]
    expected = [tensor.data.get() for tensor in net._places()]
    torch_link.Link(net).make()
    for tensor, array, numbers in zip(net._places(), handed, expected, strict=True):
        assert min(array.strides) > 0
        assert tensor.data is array
        np.testing.assert_array_equal(array.get(), numbers)
