"""Nets as layers of PyTorch models: the same numbers as PyTorch alone, in shared memory."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from backprop_xp import Activation, Elementwise, GraphNet, Input, Linear, Net
from backprop_xp.activations import get_activation
from backprop_xp.operations import Activate, BatchNorm
from backprop_xp.toolchain import compiler

torch = pytest.importorskip("torch")

from backprop_xp.torch_layer import as_torch  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no CUDA device")
    return request.param


def make(sizes=(3, 4, 2), activations=("tanh", "softplus"), dtype="float64", device="cpu", **options):
    backend = "numpy" if device == "cpu" else "cupy"
    return Net(sizes, activations, dtype=dtype, rng=0, backend=backend, **options)


def pure(net, device):
    """The same model in PyTorch's own layers."""
    functions = {"tanh": torch.nn.Tanh, "softplus": torch.nn.Softplus, "relu": torch.nn.ReLU}
    layers = []
    for i, f in enumerate(net.activations):
        linear = torch.nn.Linear(
            net.sizes[i], net.sizes[i + 1], bool(net.biases), device, getattr(torch, net.dtype.name)
        )
        with torch.no_grad():
            linear.weight.copy_(torch.from_dlpack(net.weights[i].data))
            if net.biases:
                linear.bias.copy_(torch.from_dlpack(net.biases[i].data))
        layers += [linear, functions[f.name]()]
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 3), (2, 3, 3)])
def test_gradcheck(shape, bias, device):
    layer = as_torch(make(bias=bias, device=device))
    x = torch.randn(*shape, dtype=torch.float64, device=device, requires_grad=True)
    assert layer(x).shape == (*shape[:-1], 2)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mixed_model_trains_like_a_pure_one(dtype, device):
    torch.manual_seed(0)
    net = make((4, 8, 3), ("tanh", "relu"), dtype, device, bias=True)
    kind = getattr(torch, dtype)
    first, last = (torch.nn.Linear(a, b, device=device, dtype=kind) for a, b in ((5, 4), (3, 2)))
    theirs = torch.nn.Sequential(copy.deepcopy(first), pure(net, device), copy.deepcopy(last))
    ours = torch.nn.Sequential(first, as_torch(net), last)
    x, y = torch.randn(16, 5, device=device, dtype=kind), torch.randn(16, 2, device=device, dtype=kind)
    optimizers = [torch.optim.Adam(model.parameters(), 0.05) for model in (ours, theirs)]
    for _ in range(10):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            losses.append(((model(x) - y) ** 2).mean())
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-6)


def test_parameters_share_memory(device):
    net = make(bias=True, device=device)
    layer, x = as_torch(net), torch.ones(2, 3, dtype=torch.float64, device=device)
    before = layer(x)
    net.weights[0].data *= 2
    assert not torch.equal(layer(x), before)
    with torch.no_grad():
        layer.biases[1].fill_(7)
    assert (net.biases[1].data == 7).all()
    np.testing.assert_allclose(layer(x).detach().cpu(), net.to("numpy")(np.ones((2, 3))), rtol=1e-12)


def test_arrays_that_cannot_be_shared_are_replaced_in_the_net(recwarn):
    net = make()
    net.weights[0].data = net.weights[0].data[::-1]
    net.weights[1].data.flags.writeable = False
    layer = as_torch(net)
    assert not recwarn.list
    for w, p in zip(net.weights, layer.weights):
        assert np.shares_memory(w.data, p.detach().numpy())


@pytest.mark.gpu
def test_weights_that_run_backwards_on_a_device():
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no CUDA device")
    net = make(bias=True, device="cuda")
    net.weights[0].data, net.biases[0].data = net.weights[0].data[::-1, ::-1], net.biases[0].data[::-1]
    layer, x = as_torch(net), torch.ones(2, 3, dtype=torch.float64, device="cuda")
    np.testing.assert_allclose(layer(x).detach().cpu(), net(np.ones((2, 3))).get(), rtol=1e-12)
    for w, p in zip((*net.weights, *net.biases), layer.parameters()):
        assert w.data.data.ptr == p.data_ptr()


def test_two_backward_passes_through_one_forward_pass(device):
    layer = as_torch(make(bias=True, device=device))
    x = torch.randn(4, 3, dtype=torch.float64, device=device, requires_grad=True)
    z = layer(x)
    z.sum().backward(retain_graph=True)
    once = [p.grad.clone() for p in (x, *layer.parameters())]
    z.sum().backward()
    for p, grad in zip((x, *layer.parameters()), once):
        torch.testing.assert_close(p.grad, 2 * grad)


def test_what_is_frozen_gets_no_gradient():
    layer = as_torch(make())
    layer.weights[0].requires_grad_(False)
    layer(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    assert layer.weights[0].grad is None and layer.weights[1].grad is not None


def test_a_weight_changed_before_the_backward_pass_is_noticed():
    layer = as_torch(make())
    z = layer(torch.ones(2, 3, dtype=torch.float64)).sum()
    with torch.no_grad():
        layer.weights[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()


class Same(Activation):
    """Its value is its argument's very memory."""

    def __call__(self, x):
        return x

    def grad(self, x):
        return 1 + x


def test_code_is_differentiated_once():
    layer = as_torch(make(activations=("tanh", Same())))
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    with pytest.raises(TypeError, match="Same is written in Python: an Elementwise formula has derivatives of every"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


def test_an_export_of_code_says_that_a_formula_is_missing():
    layer = as_torch(make(activations=("tanh", Same()))).eval()
    x = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(TypeError, match="Same is written in Python, of which an export has no form: write it"):
        torch.jit.trace(layer, (x,))


def test_what_is_no_tensor_is_said():
    with pytest.raises(TypeError, match="x must be a tensor of PyTorch, got ndarray"):
        as_torch(make())(np.ones((2, 3)))


LAST = ["identity", "tanh", Same(), Elementwise("straight", value="t", grad="where(abs(t) < 1, 1, 0)")]


@pytest.mark.parametrize("last", LAST, ids=["identity", "tanh", "code", "straight-through"])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_the_output_may_be_changed_in_place(last, shape):
    x = torch.full(shape, 0.3, dtype=torch.float64)
    for change, factor in ((lambda z: z.mul_(20), 20), (lambda z: z.add_(30), 1)):
        layer = as_torch(make(activations=("tanh", last)))
        expected = torch.autograd.grad(layer(x).sum() * factor, layer.weights[0])[0]
        torch.testing.assert_close(torch.autograd.grad(change(layer(x)).sum(), layer.weights[0])[0], expected)


def test_an_empty_batch(device):
    layer = as_torch(make(bias=True, device=device))
    layer(torch.empty(0, 3, dtype=torch.float64, device=device)).sum().backward()
    assert layer(torch.empty(2, 0, 3, dtype=torch.float64, device=device)).shape == (2, 0, 2)
    assert not layer.weights[0].grad.any() and not layer.biases[1].grad.any()


@pytest.mark.parametrize(
    "x, error, message",
    [
        (
            torch.ones(2, 3),
            TypeError,
            "x must be torch.float64 on cpu, as the parameters are; got torch.float32 on cpu",
        ),
        (torch.ones(2, 4, dtype=torch.float64), ValueError, r"x must be \(..., 3\), got shape \(2, 4\)"),
        (torch.tensor(1.0, dtype=torch.float64), ValueError, r"x must be \(..., 3\), got shape \(\)"),
        (torch.ones(3, device="meta", dtype=torch.float64), TypeError, "on cpu.*got torch.float64 on meta"),
    ],
)
def test_errors(x, error, message):
    with pytest.raises(error, match=message):
        as_torch(make())(x)


def test_only_nets():
    with pytest.raises(TypeError, match="as_torch takes a Net or a GraphNet, got list"):
        as_torch([make()])


def test_on_a_device_that_no_net_computes_on():
    with pytest.raises(TypeError, match="a net computes on 'cpu' or 'cuda', got a tensor on meta"):
        as_torch(make()).to("meta")(torch.ones(3, dtype=torch.float64, device="meta"))


@pytest.mark.gpu
def test_a_net_on_a_device_that_pytorch_does_not_see():
    pytest.importorskip("cupy")
    if torch.cuda.is_available():
        pytest.skip("this PyTorch sees a CUDA device")
    with pytest.raises(
        RuntimeError, match=r"the net is on 'cupy' and this PyTorch sees no CUDA device: .*to\('numpy'\)"
    ):
        as_torch(make(device="cuda"))


@pytest.mark.gpu
def test_it_runs_on_pytorchs_current_stream():
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no CUDA device")
    net, stream = make((64, 512, 512), bias=True, device="cuda"), torch.cuda.Stream()
    layer, x = as_torch(net), torch.randn(4096, 64, dtype=torch.float64, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        late = x * 2
        z = layer(late)
        z.sum().backward()
        grad = layer.weights[0].grad.clone()
    stream.synchronize()
    torch.testing.assert_close(grad, torch.autograd.grad(layer(2 * x).sum(), layer.weights[0])[0])


@pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")
def test_an_activation_swapped_between_the_passes_counts_from_the_next_call_on():
    net, x = make(activations=("tanh", "identity")), torch.ones(5, 3, dtype=torch.float64)
    layer, gradients = as_torch(net), []
    for then in (get_activation("tanh"), get_activation("relu")):
        output = layer(x).sum()
        net.activations[0] = then
        gradients.append(torch.autograd.grad(output, list(layer.parameters())))
    for before, after in zip(*gradients, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def of_names(engine):
    net = make(activations=("tanh", "identity"), engine=engine)
    net.activations[0] = "tanh"
    return net, lambda f: net.activations.__setitem__(0, f)


def of_nodes(engine):
    net = make(activations=(Activate("tanh"), "identity"), engine=engine)
    return net, lambda f: setattr(net.activations[0], "activation", get_activation(f))


def of_a_graph(engine):
    node = Activate("tanh")
    description = {"x": Input(3), "h": (Linear(4), "x"), "a": (node, "h"), "y": ("add", "a", "h")}
    net = GraphNet(description, rng=0, backend="numpy", engine=engine)
    return net, lambda f: setattr(node, "activation", get_activation(f))


@pytest.mark.parametrize("again", [False, True], ids=["once", "differentiated again"])
@pytest.mark.parametrize("engine", ["auto", "layered"])
@pytest.mark.parametrize("swapped", [of_names, of_nodes, of_a_graph])
def test_backward_has_the_activations_of_forward_in_every_engine(swapped, engine, again):
    gradients = []
    for then in ("tanh", "relu"):
        net, swap = swapped(engine)
        layer = as_torch(net)
        output = layer(torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)).square().sum()
        swap(then)
        gradients.append(torch.autograd.grad(output, list(layer.parameters()), create_graph=again))
    for before, after in zip(*gradients, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ["auto", "layered"])
def test_backward_has_the_buffers_of_forward(engine):
    gradients = []
    for then in (1.0, 9.0):
        net = Net((3, 4, 2), ([BatchNorm(), "tanh"], "identity"), rng=0, backend="numpy", engine=engine)
        layer = as_torch(net).eval()
        output = layer(torch.ones(5, 3, dtype=torch.float64)).square().sum()
        net.buffers["z0.0.running_var"].data = np.full(4, then)
        gradients.append(torch.autograd.grad(output, list(layer.parameters())))
    for before, after in zip(*gradients, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)
