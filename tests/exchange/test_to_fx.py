"""Graph nets as torch.fx.GraphModule: the same numbers, the same parameters by name, and back."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import Elementwise, Graph, GraphNet, Input, Linear, Net, Operation, Residual
from backprop_xp.exchange import from_torch, to_torch
from backprop_xp.graph import Dropout, LayerNorm

torch = pytest.importorskip("torch")

from tests.graphs import arrays, descriptions, in_torch  # noqa: E402


def assert_equal(net, model, x, y, tolerance=1e-9):
    """Outputs, and gradients of the squared error in every parameter and every input, without dropout."""
    given_ = {name: torch.tensor(array, requires_grad=True) for name, array in x.items()}
    z = model.eval()(*given_.values())
    np.testing.assert_allclose(net(x), z.detach(), rtol=tolerance, atol=tolerance)
    model.zero_grad()
    ((z - torch.tensor(y)) ** 2).sum().backward()
    _, grads = net.loss_and_grad(x, y, input_grad=True, training=False)
    grads = grads if isinstance(grads, dict) else dict.fromkeys(x, grads)
    for name, tensor in given_.items():
        np.testing.assert_allclose(grads[name], tensor.grad, rtol=tolerance, atol=tolerance)
    theirs = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in net.tensors.items():
        parameter = theirs[name.replace(".gain", ".weight")]
        np.testing.assert_allclose(tensor.grad, parameter.grad, rtol=tolerance, atol=tolerance)
    assert len(theirs) == len(net.tensors)


@given(descriptions(), st.sampled_from([1, 5]), st.sampled_from(["float32", "float64"]))
@settings(max_examples=30, deadline=None)
def test_any_graph_there_and_back(description, samples, dtype):
    net = GraphNet(description, loss="mse", rng=0, backend="numpy", engine="layered", dtype=dtype)
    x, y = arrays(net, samples)
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    scale = max(1.0, float(np.abs(in_torch(net, x, y)[1]).max()) ** 2)
    model = to_torch(net)
    assert_equal(net, model, x, y, tolerance * scale)
    options = {} if net.tensors else {"dtype": dtype}
    again = from_torch(model, loss="mse", engine="layered", backend="numpy", **options)
    assert again.dtype == net.dtype and again.inputs == net.inputs
    assert again.tensors.keys() == net.tensors.keys()
    for name, tensor in net.tensors.items():
        np.testing.assert_array_equal(again.tensors[name].data, tensor.data)
    np.testing.assert_allclose(again(x), net(x), rtol=1e-6)
    assert len([n for n in again.nodes if n.owner != n.name]) == len([n for n in net.nodes if n.owner != n.name])


def make(**options):
    g = Graph()
    x, z = g.input(3, "x"), g.input(2, "z")
    h = g.chain(x, Residual(Linear(3), "tanh", Dropout(0.25)), name="block")
    h = g.concatenate(g.layer_norm(h, eps=1e-3, name="norm") * h, z)
    return g.net(g.linear(h, 2, name="out"), loss="mse", rng=0, backend="numpy", **options)


def test_what_it_is_made_of():
    model = to_torch(make())
    assert [*model.state_dict()] == [
        "norm.weight", "norm.bias", "out.weight", "out.bias", "block.0.weight", "block.0.bias",
    ]  # fmt: skip
    assert (model.norm.eps, model.get_submodule("block.2").p) == (1e-3, 0.25)
    assert model.training and isinstance(model, torch.fx.GraphModule)
    x = {"x": torch.ones(2, 3).double(), "z": torch.zeros(2, 2).double()}
    assert torch.equal(model.eval()(**x), model(x["x"], x["z"]))
    assert torch.equal(pickle.loads(pickle.dumps(model))(**x), model(**x))


def test_dropout_is_pytorchs_in_training():
    net = GraphNet({"x": Input(1000), "y": (Dropout(0.25), "x")}, backend="numpy")
    model = to_torch(net)
    z = model(torch.ones(1, 1000).double())
    assert set(z.unique().tolist()) == {0.0, 1 / 0.75}
    assert torch.equal(model.eval()(torch.ones(1, 1000).double()), torch.ones(1, 1000).double())


def test_pytorch_can_train_it_and_the_net_comes_back():
    net = make()
    model = to_torch(net).eval()
    x, y = arrays(net, 20)
    tensors = {name: torch.tensor(array) for name, array in x.items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    for _ in range(5):
        optimizer.zero_grad()
        ((model(**tensors) - torch.tensor(y)) ** 2).sum().backward()
        optimizer.step()
        net.loss_and_grad(x, y, training=False)
        for tensor in net.parameters:
            tensor.data = tensor.data - 0.001 * tensor.grad
    assert_equal(net, model, x, y)
    again = from_torch(model, loss="mse")
    for name, tensor in net.tensors.items():
        np.testing.assert_allclose(again.tensors[name].data, tensor.data, rtol=1e-9)


def test_parameters_are_copies():
    net = make()
    model, before = to_torch(net), net.tensors["out.bias"].data.copy()
    with torch.no_grad():
        model.out.bias += 1
    np.testing.assert_array_equal(net.tensors["out.bias"].data, before)


def test_what_is_shared_is_shared_there_and_back():
    description = {
        "x": Input(3), "a": (Linear(3), "x"), "b": (Linear(3, share="a"), "a"), "c": (Linear(3), "b"),
        "d": (Linear(3), "c"), "y": ("add", "a", "d"),
    }  # fmt: skip
    net = GraphNet(description, loss="mse", rng=0, backend="numpy")
    net.tensors["c.weight"] = net.tensors["d.weight"]
    model = to_torch(net)
    assert model.c.weight is model.d.weight and not hasattr(model, "b")
    assert len([*model.parameters()]) == 5
    for other in (from_torch(model), from_torch(torch.export.export(model, (torch.ones(2, 3).double(),)))):
        assert other.tensors.keys() == net.tensors.keys()
        assert other.tensors["c.weight"] is other.tensors["d.weight"]
        assert len(other.parameters) == 5
    x, y = arrays(net, 4)
    assert_equal(net, model, x, y)


def test_names_that_pytorch_can_not_have_and_code_in_names():
    names = [
        "class",
        "a b",
        "sum",
        "x): import os; os.abort()\n#".replace("\n", ""),
        'q"',
        "train",
        "h.weight",
        "..",
        "1.0",
    ]
    description = {name: Input(2) for name in names[:4]} | {"h": (Linear(2), names[0])}
    description |= {name: (Linear(2), "h") for name in names[4:]}
    net = GraphNet(description | {"y": ("add", *names)}, loss="mse", rng=0, backend="numpy")
    model = to_torch(net)
    assert {"h.weight", "h.weight_.weight", "train_.bias", "1.0.weight", "q_.weight"} <= {*model.state_dict()}
    x, _ = arrays(net, 3)
    tensors = [torch.tensor(x[name]) for name in net.inputs]
    np.testing.assert_allclose(model(*tensors).detach(), net(x), rtol=1e-12)
    again = from_torch(model)
    np.testing.assert_allclose(again(dict(zip(again.inputs, x.values()))), net(x), rtol=1e-12)


def test_a_net_that_gives_back_its_input():
    net = GraphNet({"x": Input(2)}, backend="numpy")
    x = torch.ones(3, 2)
    assert torch.equal(to_torch(net)(x), x)


class Own(Operation):
    def forward(self, *inputs, **parameters):
        return inputs[0]


def test_what_has_no_counterpart_is_refused_by_name():
    own = Linear(2)
    own.forward = lambda x: x
    for operation, message in (
        (Own(), r"node 'y' is code, Own\(\); PyTorch takes built-in operations"),
        (own, "node 'y' is code, Linear"),
        (Elementwise("bump", "t * t"), "PyTorch has no counterpart of the activation Elementwise 'bump'"),
    ):
        net = GraphNet({"x": Input(2), "y": (operation, "x")}, backend="numpy")
        with pytest.raises(TypeError, match=message):
            to_torch(net)
    with pytest.raises(TypeError, match="to_torch takes a Net or a GraphNet, got dict"):
        to_torch({})


def test_a_weight_that_does_not_fit_is_refused():
    net = GraphNet({"x": Input(2), "y": (Linear(2), "x")}, backend="numpy")
    net.tensors["y.weight"].data = np.ones(3)
    with pytest.raises(ValueError, match=r"tensors\['y.weight'\].data must have shape \(2, 2\), got \(3,\)"):
        to_torch(net)


@pytest.mark.gpu
def test_a_net_on_a_device():
    pytest.importorskip("cupy")
    description = {"x": Input(3), "h": (Linear(3), "x"), "n": (LayerNorm(), "h"), "y": ("add", "x", "n")}
    net = GraphNet(description, rng=0, backend="cupy")
    model, x = to_torch(net), np.ones((4, 3))
    np.testing.assert_allclose(net(x).get(), model(torch.tensor(x)).detach().numpy(), rtol=1e-12)
    assert isinstance(from_torch(torch.nn.Sequential(torch.nn.Linear(2, 2))), Net)
