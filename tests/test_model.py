"""One Tensor in several places of a net: its gradient is the sum, in every engine, and it is trained once."""

import copy
import pickle

import numpy as np
import pytest
from arrays import batch_of, host
from here import needs_compiler
from own import Cube

from backprop_xp import LOSSES, GraphNet, Input, Linear, Net, Tensor
from backprop_xp.ready import calls
from backprop_xp.toolchain import compiler

ENGINES = ["auto", "layered", "tiled", pytest.param("fused", marks=needs_compiler)]  # fmt: skip
WIDTHS = {"narrow": 4, "wide": 48}
SHAPES = {"sample": (), "small": (7,), "empty": (0,), "several tiles": (1500,)}


def tied(width=4, depth=4, engine="auto", backend="numpy", last="softplus", **options):
    """Layers 1, 2 and 3 have one weight, 0 and 2 one bias; and the same net with tensors of its own everywhere."""
    sizes, names = (width,) * (depth + 1), ("tanh",) * (depth - 1) + (last,)
    options = {"loss": "mse", "bias": True, "init": "glorot_normal", "backend": backend, "engine": engine} | options
    nets = [Net(sizes, names, rng=3, **options) for _ in range(2)]
    for net in nets:
        for i, b in enumerate(net.biases):
            b.data = b.data + 0.1 * (1 + i % 2)
        for i in (2, 3):
            net.weights[i] = net.weights[1] if net is nets[0] else Tensor(net.weights[1].data.copy())
        net.biases[2] = net.biases[0] if net is nets[0] else Tensor(net.biases[0].data.copy())
    return nets


def assert_sums(net, own, tolerance=1e-12):
    """The gradients of a net with shared tensors are the sums of another's, whose tensors are its own."""
    w, b = [host(t.grad) for t in own.weights], [host(t.grad) for t in own.biases]
    for tensor, expected in (
        (net.weights[0], w[0]),
        (net.weights[1], w[1] + w[2] + w[3]),
        (net.biases[0], b[0] + b[2]),
        (net.biases[1], b[1]),
        (net.biases[3], b[3]),
    ):
        np.testing.assert_allclose(host(tensor.grad), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_add_up(engine, width, shape):
    net, own = tied(width, engine=engine)
    x, y = batch_of(net, shape)
    for one in (net, own):
        one.loss_and_grad(x, y)
    assert_sums(net, own)
    before = [p.grad.copy() for p in net.parameters]
    net.loss_and_grad(x, y, accumulate=True)
    for p, grad in zip(net.parameters, before, strict=True):
        np.testing.assert_allclose(p.grad, 2 * grad, rtol=1e-12)
    if shape != (0,):
        for one in (net, own):
            z = one.forward(x, keep_signals=True)
            one.backward(z - y)
        assert_sums(net, own)


def test_with_code_of_the_users():
    net, own = tied(last=Cube())
    for one in (net, own):
        one.loss_and_grad(*batch_of(net, (3000,)))
    assert_sums(net, own)


def test_ties_made_and_undone_between_calls_are_seen():
    net, own = tied()
    x, y = batch_of(net, (5,))
    own.loss_and_grad(x, y)
    if not compiler.missing():
        assert calls.find(own, x, y, None) is not None
    own.weights[2:] = own.weights[1], own.weights[1]
    own.biases[2] = own.biases[0]
    net.loss_and_grad(x, y)
    own.loss_and_grad(x, y)
    for p, q in zip(net.parameters, own.parameters, strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)


def test_parameters_are_listed_once():
    net, own = tied()
    assert net.parameters == [net.weights[0], net.weights[1], net.biases[0], net.biases[1], net.biases[3]]
    assert len(own.parameters) == 8
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.weights[3] is other.weights[1] is not net.weights[1]
        assert len(other.parameters) == 5


def test_layers_of_other_shapes_can_not_share():
    net = Net((3, 4, 2), rng=0)
    net.weights[1] = net.weights[0]
    with pytest.raises(ValueError, match=r"weights\[1\].data must have shape \(2, 4\), got \(4, 3\)"):
        net.loss_and_grad(np.ones(3))


def test_two_tensors_over_the_same_memory_have_partial_derivatives():
    net, own = tied()
    for k in (2, 3):
        own.weights[k] = Tensor(own.weights[1].data)
    for one in (net, own):
        one.loss_and_grad(*batch_of(net, (6,)))
    assert_sums(net, own)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_it_trains_as_pytorch_does_with_a_shared_parameter(optimiser):
    torch = pytest.importorskip("torch")
    net, _ = tied(reduction="mean")
    x, y = batch_of(net, (32,))
    linears = [torch.nn.Linear(4, 4).double() for _ in range(4)]
    for i, linear in enumerate(linears):
        linear.weight.data, linear.bias.data = (torch.tensor(t[i].data) for t in (net.weights, net.biases))
    linears[2].weight = linears[3].weight = linears[1].weight
    linears[2].bias = linears[0].bias
    functions = [torch.nn.Tanh()] * 3 + [torch.nn.Softplus()]
    model = torch.nn.Sequential(*(m for pair in zip(linears, functions) for m in pair))
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser](model.parameters(), 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        ((model(torch.tensor(x)) - torch.tensor(y)) ** 2).mean().backward()
        optimizer.step()
    from backprop_xp.training import SGD, Adam

    net.fit(x, y, epochs=5, batch_size=32, shuffle=False, optimiser=(SGD if optimiser == "sgd" else Adam)(lr=0.01))
    assert net.weights[3] is net.weights[1]
    for ours, theirs in zip((*net.weights, *net.biases), [m.weight for m in linears] + [m.bias for m in linears]):
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-9)


def graph(engine="auto"):
    nodes = {"x": Input(4), "a": (Linear(4), "x"), "f": ("tanh", "a"), "b": (Linear(4), "f"), "s": ("add", "b", "x")}
    return GraphNet(nodes, loss="mse", rng=0, engine=engine, backend="numpy")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_in_a_graph(shape, engine):
    net, own = graph(engine), graph(engine)
    net.tensors["b.weight"] = net.tensors["a.weight"]
    own.tensors["b.weight"].data = own.tensors["a.weight"].data.copy()
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, *shape, 4))
    for one in (net, own):
        one.loss_and_grad(x, y)
    expected = own.tensors["a.weight"].grad + own.tensors["b.weight"].grad
    np.testing.assert_allclose(net.tensors["a.weight"].grad, expected, rtol=1e-12)
    assert len(net.parameters) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["layered", "fused", "cooperative"])
@pytest.mark.parametrize("repeated", [False, True], ids=["plain", "repeated"])
def test_on_a_device(engine, repeated):
    pytest.importorskip("cupy")
    net, own = tied(engine=engine, backend="cupy")
    x, y = batch_of(net, (70,))
    own.loss_and_grad(x, y)
    step = net.repeated(x, y) if repeated else lambda: net.loss_and_grad(x, y)
    for _ in range(2):
        step()
        assert_sums(net, own)
    net.weights[1].data *= 2
    for w in own.weights[1:]:
        w.data *= 2
    step()
    own.loss_and_grad(x, y)
    assert_sums(net, own)
    net.weights[3] = Tensor(net.weights[1].data)  # the same memory, and no longer the same tensor
    step()
    np.testing.assert_allclose(host(net.weights[3].grad), host(own.weights[3].grad), rtol=1e-12, atol=1e-12)
    moved = net.to("numpy")
    assert moved.weights[2] is moved.weights[1]


@pytest.mark.gpu
def test_streamed_to_a_device(monkeypatch):
    pytest.importorskip("cupy")
    from backprop_xp.passes import streamed

    monkeypatch.setattr(streamed, "HOST_BYTES", 1 << 12)
    monkeypatch.setattr(streamed, "PIECE_BYTES", 1 << 13)
    net, own = tied(backend="cupy")
    x, y = (host(a) for a in batch_of(net, (3000,)))
    for one in (net, own):
        one.loss_and_grad(x, y)
    assert_sums(net, own, 1e-10)


def test_a_drawing_counts_a_shared_tensor_once():
    assert str(tied()[0].draw()).split()[-1] == str(2 * 16 + 3 * 4)
    net = graph()
    net.tensors["b.weight"] = net.tensors["a.weight"]
    assert str(net.draw()).split()[-1] == str(16 + 2 * 4)


@pytest.mark.parametrize("samples", [None, 7])
def test_a_loss_that_is_set_by_its_name_is_the_object_and_keeps_calls_ready(samples):
    net = Net((3, 4, 2), loss="half_squared_error", rng=0, backend="numpy")
    net.loss = "mse"
    assert type(net.loss) is LOSSES["mse"] and calls.why_not(net) == ""
    x, y = batch_of(net, () if samples is None else (samples,))
    loss = net.loss_and_grad(x, y)
    assert loss == Net((3, 4, 2), loss="mse", rng=0, backend="numpy").loss_and_grad(x, y)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(other.loss) is LOSSES["mse"]
    with pytest.raises(ValueError, match=r"^unknown loss 'msee'; did you mean 'mse'"):
        net.loss = "msee"
    assert type(net.loss) is LOSSES["mse"]


def test_a_precision_is_checked_when_it_is_set():
    net = Net((2, 3), dtype="float32", rng=0)
    with pytest.raises(ValueError, match="unknown precision 'bf16'; did you mean 'bfloat16'"):
        net.precision = "bf16"
    assert net.precision == "auto"
    with pytest.raises(ValueError, match="precision 'bfloat16' is for nets of dtype float32, this one is of float64"):
        Net((2, 3), rng=0).precision = "bfloat16"
