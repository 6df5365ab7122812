"""Graph nets as layers of PyTorch models: the same numbers as PyTorch alone, in shared memory."""

import copy
import pickle

import numpy as np
import pytest
from here import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import Graph, GraphNet, Input, Linear, Net, Operation, Residual
from backprop_xp.backend import NUMPY
from backprop_xp.graph import Dropout, LayerNorm
from backprop_xp.programs import matrices

torch = pytest.importorskip("torch")

from backprop_xp.torch_calls import Calls  # noqa: E402
from backprop_xp.torch_layer import as_torch  # noqa: E402
from tests.graphs import arrays, descriptions, in_torch  # noqa: E402


def make(p=0.5, dtype="float64", **options):
    """Two inputs, a residual block, a shared weight, and every kind of operation."""
    g = Graph()
    x, z = g.input(3, "x"), g.input(2, "z")
    first = g.linear(x, 4, name="h")
    h = g.apply("tanh", first)
    h = g.chain(h, Residual(Linear(4), "gelu", Dropout(p)), name="block")
    h = g.layer_norm(h + g.linear(z, 4, bias=False, name="k"), name="norm")
    again = g.linear(x, 4, share=first, name="again")
    out = g.concatenate(h * again, z)
    return g.net(g.linear(out, 2, name="out"), dtype=dtype, rng=0, backend="numpy", **options)


@needs_compiler
@pytest.mark.parametrize("engine", ["auto", "layered"])
def test_products_have_the_nets_precision(engine, monkeypatch):
    monkeypatch.setattr(matrices, "lacking", lambda: "")
    random, found = np.random.default_rng(0), {}
    x, grad = (random.normal(size=(60, width)).astype(np.float32) for width in (20, 5))
    for precision in ("float32", "bfloat16"):
        net = Net((20, 24, 5), dtype="float32", rng=0, backend="numpy", precision=precision, engine=engine)
        module, numbers = as_torch(net), torch.from_numpy(x).requires_grad_()
        module(numbers).backward(torch.from_numpy(grad))
        found[precision] = [numbers.grad.numpy(), *(p.grad.numpy() for p in module.parameters())]
        np.testing.assert_array_equal(module(torch.from_numpy(x)).detach().numpy(), net(x))
    pairs = zip(*found.values(), strict=True)
    assert {np.array_equal(a, b) for a, b in pairs} == {engine == "layered"}  # which rounds nothing on a CPU


def tensors(net, *shape, grad=True, seed=0):
    torch.manual_seed(seed)
    kind = getattr(torch, net.dtype.name)
    return {name: torch.randn(*shape, width, dtype=kind, requires_grad=grad) for name, width in net.inputs.items()}


def host(named):
    return {name: tensor.detach().numpy() for name, tensor in named.items()}


@given(descriptions(), st.sampled_from([1, 2, 9]))
@settings(max_examples=40, deadline=None)
def test_any_graph_is_what_it_is_in_pytorch(description, samples):
    net = GraphNet(description, loss="mse", rng=0, backend="numpy")
    x, y = arrays(net, samples)
    _, output, expected = in_torch(net, x, y)
    layer = as_torch(net).eval()
    given_ = {name: torch.tensor(array, requires_grad=True) for name, array in x.items()}
    z = layer(*given_.values())
    np.testing.assert_allclose(z.detach(), output, rtol=1e-9, atol=1e-9)
    ((z - torch.tensor(y)) ** 2).sum().backward()
    for name, tensor in given_.items():
        np.testing.assert_allclose(tensor.grad, expected[name], rtol=1e-8, atol=1e-8)
    for (module, own), name in zip(layer._at, net.tensors, strict=True):
        np.testing.assert_allclose(getattr(module, own).grad, expected[name], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,)])
def test_gradcheck(shape):
    net = make()
    layer, x = as_torch(net), tensors(net, *shape)
    draws = net.draws
    assert layer(**x).shape == (*shape, 2)

    def called(a, b, *_):
        net.draws = draws  # the same numbers are dropped
        return layer(a, z=b)

    assert torch.autograd.gradcheck(called, (x["x"], x["z"], *layer.parameters()))


def test_in_training_it_drops_what_the_net_would():
    net, same = make(), make()
    layer, x = as_torch(net), tensors(net, 6)
    assert layer.training
    for _ in range(3):
        z = layer(**x)
        np.testing.assert_allclose(z.detach(), same.forward(host(x), keep_signals=True, training=True), rtol=1e-12)
        layer.zero_grad()
        z.sum().backward()
        same.backward(np.ones((6, 2)))
        np.testing.assert_allclose(layer.tensors.h.weight.grad, same.tensors["h.weight"].grad, rtol=1e-12)
    layer.eval()
    draws = net.draws
    np.testing.assert_allclose(layer(**x).detach(), same.forward(host(x)), rtol=1e-12)
    assert net.draws == draws


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_trains_like_pytorchs_own_modules(dtype):
    from backprop_xp.exchange import to_torch

    net = make(p=0.0, dtype=dtype)
    theirs, ours = to_torch(net), as_torch(net)
    x, y = tensors(net, 16, grad=False), torch.randn(16, 2, dtype=getattr(torch, dtype))
    optimizers = [torch.optim.Adam(model.parameters(), 0.01) for model in (ours, theirs)]
    for _ in range(10):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            losses.append(((model(**x) - y) ** 2).mean())
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-6)
    np.testing.assert_array_equal(net.tensors["h.weight"].data, ours.tensors.h.weight.detach())


def test_the_state_has_the_names_of_the_nets_tensors():
    net = make()
    assert [*as_torch(net).state_dict()] == [f"tensors.{name}" for name in net.tensors]
    assert "tensors.block.0.weight" in as_torch(net).state_dict()


def test_names_that_pytorch_can_not_have():
    names = ["a b", "a_b", ".", "keys", "train", "weight", "ünicode", "_hidden", "1", "graph", "a..b", "__class__"]
    description = {"x": Input(2)} | {name: (Linear(2), "x") for name in names}
    net = GraphNet(description | {"y": ("add", *names)}, rng=0, backend="numpy")
    layer, x = as_torch(net), tensors(net, 3)
    assert len(layer.state_dict()) == 2 * len(names)
    assert {"tensors.a_b.weight", "tensors.train_.weight", "tensors.1.bias"} <= {*layer.state_dict()}
    np.testing.assert_allclose(layer(*x.values()).detach(), net(host(x)), rtol=1e-12)
    layer.load_state_dict({name: array + 1 for name, array in layer.state_dict().items()})
    np.testing.assert_allclose(layer(*x.values()).detach(), net(host(x)), rtol=1e-12)
    assert (net.tensors["train.bias"].data == 1).all()


def test_parameters_share_memory_whatever_is_done_to_either():
    net = make(loss="mse")
    layer, x = as_torch(net), tensors(net, 4)
    for tensor, (module, name) in zip(net._places(), layer._at, strict=True):
        assert np.shares_memory(tensor.data, getattr(module, name).detach().numpy())
    net.fit(host(x), np.zeros((4, 2)), epochs=1)
    np.testing.assert_allclose(layer.eval()(**x).detach(), net(host(x)), rtol=1e-12)
    layer.float()
    assert layer.net.dtype == np.float32
    x = {name: tensor.float() for name, tensor in x.items()}
    np.testing.assert_allclose(layer(**x).detach(), net(host(x)), rtol=1e-5)
    with torch.no_grad():
        layer.tensors.out.bias += 1
    np.testing.assert_allclose(layer(**x).detach(), net(host(x)), rtol=1e-5)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_a_net_of_its_own(clone):
    net = make()
    layer, x = as_torch(net).eval(), tensors(net, 4)
    other, before = clone(layer), net(host(x))
    with torch.no_grad():
        other.tensors.out.bias += 1
    np.testing.assert_allclose(other.net(host(x)), before + 1)
    np.testing.assert_allclose(other(**x).detach(), before + 1)
    np.testing.assert_allclose(layer(**x).detach(), before, rtol=1e-12)


def test_a_tensor_in_two_places_is_one_parameter():
    net = GraphNet(
        {"x": Input(3), "a": (Linear(3), "x"), "b": (Linear(3), "a"), "y": ("add", "a", "b")}, rng=0, backend="numpy"
    )
    net.tensors["b.weight"] = net.tensors["a.weight"]
    layer = as_torch(net)
    assert len([*layer.parameters()]) == 3
    x = np.ones((2, 3))
    net.loss_and_grad(x)
    (0.5 * layer(torch.tensor(x)) ** 2).sum().backward()
    np.testing.assert_allclose(layer.tensors.a.weight.grad, net.tensors["a.weight"].grad, rtol=1e-12)


def test_what_is_frozen_gets_no_gradient_and_inputs_only_where_asked():
    net = make()
    layer, x = as_torch(net), tensors(net, 4)
    layer.tensors.h.weight.requires_grad_(False)
    layer(x["x"], x["z"].detach()).sum().backward()
    assert layer.tensors.h.weight.grad is None
    assert layer.tensors.h.bias.grad is not None and x["x"].grad is not None


def test_it_notices_changes():
    layer = as_torch(make())
    x = tensors(layer.net, 4)
    z = layer(**x).sum()
    with torch.no_grad():
        layer.tensors.out.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()


@pytest.mark.parametrize("last", ["add", "dropout", "identity", "layer_norm", "linear", "concatenate", "multiply"])
def test_the_output_may_be_changed_in_place(last):
    operation = Linear(3) if last == "linear" else last
    net = GraphNet({"x": Input(3), "a": (Linear(3), "x"), "y": (operation, "a")}, rng=0, backend="numpy")
    x = torch.full((4, 3), 0.3, dtype=torch.float64) + torch.arange(3) ** 2
    layer = as_torch(net).eval()
    weight = layer.tensors.a.weight
    expected = torch.autograd.grad(layer(x).sum() * 20, weight)[0]
    torch.testing.assert_close(torch.autograd.grad(layer(x).mul_(20).sum(), weight)[0], expected)


def test_two_backward_passes_through_one_forward_pass():
    layer = as_torch(make())
    x = tensors(layer.net, 4)
    z = layer(**x)
    z.sum().backward(retain_graph=True)
    once = [p.grad.clone() for p in (*x.values(), *layer.parameters())]
    z.sum().backward()
    for p, grad in zip((*x.values(), *layer.parameters()), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * grad)


def test_other_parameters_stand_in_for_a_while():
    net = make()
    layer, x = as_torch(net).eval(), tensors(net, 4)
    state = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    doubled = torch.func.functional_call(layer, state, kwargs=x)
    before = net(host(x))
    for tensor in net.parameters:
        tensor.data = 2 * tensor.data
    np.testing.assert_allclose(doubled.detach(), net(host(x)), rtol=1e-12)
    assert not np.allclose(before, net(host(x)))


class Swap(Operation):
    def forward(self, *inputs, **parameters):
        return inputs[0][:, ::-1].copy()

    def backward(self, grad, *inputs, **parameters):
        return grad[:, ::-1].copy()


def test_operations_of_the_users_and_nets_without_parameters():
    net = GraphNet({"x": Input(3), "s": (Swap(), "x"), "y": ("multiply", "s", "x")}, backend="numpy")
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    layer = as_torch(net)
    assert [*layer.parameters()] == []
    assert torch.autograd.gradcheck(layer, (x,))
    torch.testing.assert_close(layer(x), x.flip(1) * x)
    with pytest.raises(TypeError, match="node 's' is written in Python, of which PyTorch knows no second d"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


ONES = torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    "args, named, error, message",
    [
        (ONES[:1], {}, TypeError, "the inputs are 'x', 'z', got 1 in order and by name"),
        (ONES, {"z": ONES[1]}, TypeError, r"got 2 in order and by name \['z'\]"),
        ((), {"x": ONES[0], "y": ONES[1]}, TypeError, r"got 0 in order and by name \['x', 'y'\]"),
        ((*ONES, ONES[0]), {}, TypeError, "got 3 in order"),
        ((ONES[0].float(), ONES[1]), {}, TypeError, "input 'x' must be torch.float64 on cpu.*got torch.float32"),
        (ONES[::-1], {}, ValueError, r"input 'x' must be \(..., 3\), got shape \(2, 2\)"),
        ((ONES[0][0], ONES[1]), {}, ValueError, r"alike in all dimensions but the last, got 'x' \(3,\), 'z' \(2, 2\)"),
        ((ONES[0][:1], ONES[1]), {}, ValueError, r"alike.* got 'x' \(1, 3\), 'z' \(2, 2\)"),
    ],
)
def test_inputs_are_checked(args, named, error, message):
    with pytest.raises(error, match=message):
        as_torch(make())(*args, **named)


def test_a_normalisation_is_trained_by_its_nets_names():
    net = GraphNet({"x": Input(3), "y": (LayerNorm(), "x")}, backend="numpy", dtype="float32")
    assert [*as_torch(net).state_dict()] == ["tensors.y.gain", "tensors.y.bias"]


@pytest.mark.parametrize("dtype, n", [("float32", 300), ("float32", 5000), ("float64", 5000)])
@pytest.mark.parametrize("sizes", [(2, 7, 3), (3, 70, 40, 2)], ids=["narrow", "any widths"])
@needs_compiler
def test_the_fused_passes_from_a_given_gradient(sizes, dtype, n, random):
    """Of a chain that is kept ready, of its copy by an engine, and of the layered engine, which keeps signals."""
    net = Net(sizes, ["sin"] * (len(sizes) - 2) + ["tanh"], bias=True, dtype=dtype, rng=0, backend="numpy")
    x, g = (random.normal(size=(n, width)).astype(dtype) for width in (sizes[0], sizes[-1]))
    results = []
    for engine, shared in (("layered", True), ("auto", True), ("auto", False)):
        net.engine = engine
        calls = Calls(net, shared=shared)
        parameters = [torch.from_numpy(tensor.data) for tensor in net._places()]
        given_ = [torch.from_numpy(x)]
        z = calls.forward(NUMPY, given_, parameters)
        assert (calls._values is None) == (engine == "auto")
        # a gradient that lies in memory as PyTorch's may: columns apart, backwards in time, or one number for all
        for grad in (
            torch.from_numpy(g),
            torch.from_numpy(g.T.copy()).T,
            torch.ones(1, 1, dtype=getattr(torch, dtype)).expand(g.shape),
        ):
            found = []
            for wanted in (True, False):
                gradients = calls.down(given_, parameters, grad, wanted)
                assert (gradients is not None) == (engine == "auto" and shared)
                found += gradients or calls.backward(NUMPY, given_, parameters, grad, wanted)
            assert found.pop(len(found) // 2) is None
            results.append([z, *found])
    for i, result in enumerate(results):
        for a, b in zip(results[i % 3], result, strict=True):
            scale = float(np.abs(np.asarray(a)).max())
            np.testing.assert_allclose(
                b, a, rtol=1e-5 if dtype == "float32" else 1e-11, atol=scale * np.finfo(dtype).eps * 200
            )


@pytest.mark.parametrize("training", [True, False])
def test_a_graph_of_every_engine_gives_the_same_gradients(training):
    results = []
    for engine in ("auto", "layered"):
        net = make(engine=engine)
        layer, x = as_torch(net).train(training), tensors(net, 50)
        layer(**x).square().sum().backward()
        results.append([tensor.grad for tensor in (*x.values(), *layer.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def at_odd_addresses(x):
    memory = bytearray(x.numel() * x.element_size() + 1)
    odd = torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel()).view(x.shape)
    return odd.copy_(x)


LIES = {
    "as it is": lambda x: x,
    "column by column": lambda x: x.T.contiguous().T,
    "every other row": lambda x: x.repeat_interleave(2, 0)[::2],
    "lazily negated": lambda x: torch._neg_view(-x),
    "at odd addresses": at_odd_addresses,
}


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("lies", LIES.values(), ids=LIES)
def test_numbers_may_lie_in_memory_as_they_like(lies, flat, random):
    net = Net((3, 70, 40, 2), ("sin", "tanh", "identity"), bias=True, dtype="float32", rng=0, backend="numpy")
    x, g = (torch.from_numpy(random.normal(size=(60, width)).astype("float32")) for width in (3, 2))
    layer, results = as_torch(net, flat), []
    for how in (LIES["as it is"], lies):
        given_ = how(x).requires_grad_()
        output = layer(given_)
        results.append([output, *torch.autograd.grad(output, [given_, *layer.parameters()], how(g))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


def test_saved_tensors_may_come_back_as_copies(random):
    net = Net((3, 70, 2), bias=True, dtype="float32", rng=0, backend="numpy")
    layer, x = as_torch(net), torch.from_numpy(random.normal(size=(60, 3)).astype("float32"))
    expected = torch.autograd.grad(layer(x).sum(), list(layer.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        output = layer(x).sum()
    with torch.no_grad():
        x.zero_()
    for a, b in zip(expected, torch.autograd.grad(output, list(layer.parameters())), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


def test_a_gradient_of_zeros_that_lie_nowhere(random):
    layer = as_torch(Net((3, 2), bias=True, dtype="float32", rng=0, backend="numpy"))
    output = layer(torch.from_numpy(random.normal(size=(5, 3)).astype("float32")))
    grads = torch.autograd.grad(output, list(layer.parameters()), torch._efficientzerotensor((5, 2)))
    for grad, parameter in zip(grads, layer.parameters(), strict=True):
        assert torch.equal(grad, torch.zeros_like(parameter))
