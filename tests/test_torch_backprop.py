"""What PyTorch does with a net's gradients: derivatives of them, transforms, compilation, export, autocast."""

import copy
import pickle

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import ACTIVATIONS, Graph, GraphNet, Net
from backprop_xp.ready.batch import Backward

torch = pytest.importorskip("torch")

from backprop_xp.exchange import to_torch  # noqa: E402
from backprop_xp.torch_layer import as_torch  # noqa: E402

func = torch.func


def chain(dtype="float64", activations=("tanh", "gelu", "identity")):
    return Net(
        (3, 5, 4, 2), activations, bias=(True, False, True), dtype=dtype, rng=0, backend="numpy", init="he_normal"
    )


def graph(p=0.0, batch=True):
    g = Graph()
    x = g.input(3, "x")
    h = g.apply("silu", g.layer_norm(g.linear(x, 4, name="h")))
    h = g.dropout(h * g.linear(x, 4, name="k"), p) if p else h * g.linear(x, 4, name="k")
    h = g.batch_norm(h, name="n") if batch else h
    return g.net(g.apply("softmax", g.linear(g.concatenate(h, x) + g.linear(x, 7), 2)), rng=0, backend="numpy")


def samples(n=5, grad=True, dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(n, 3, dtype=dtype, requires_grad=grad)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [chain, graph])
def test_gradgradcheck(make, training):
    layer, x = as_torch(make()).train(training), samples()
    assert torch.autograd.gradgradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_dropout_drops_the_same_in_second_derivatives():
    layer, x = as_torch(graph(0.5, batch=False)), samples(40)
    z = layer(x)
    plain = torch.autograd.grad(z.sum(), [x, *layer.parameters()], retain_graph=True)
    again = torch.autograd.grad(z.sum(), [x, *layer.parameters()], create_graph=True)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


def penalty(model, x):
    """A loss with first, second and third derivatives in x."""
    (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (twice,) = torch.autograd.grad((grad.norm(dim=1) - 1).square().sum(), x, create_graph=True)
    return (twice**2).sum() + grad.sum()


@pytest.mark.parametrize("make", [chain, graph])
def test_losses_of_derivatives_are_those_of_pytorchs_modules(make):
    net = make()
    ours, theirs = as_torch(net).eval(), to_torch(net).eval()
    results = []
    for model in (ours, theirs):
        x = samples()
        loss = penalty(model, x)
        loss.backward()
        results.append([loss, x.grad, *(torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters())])
    assert len(results[0]) == len(results[1])
    order = [
        i
        for a in results[0]
        for i, b in enumerate(results[1])
        if a.shape == b.shape and torch.allclose(a, b, rtol=1e-8)
    ]
    assert {*order} == {*range(len(order))}


def test_an_input_that_depends_on_the_nets_own_weights():
    """A gradient in a weight has nothing of what the weight does to x."""
    net = Net((2, 2), ("tanh",), rng=0, backend="numpy")
    ours, theirs = as_torch(net), to_torch(net)
    found = []
    for model in (ours, theirs):
        (weight,) = model.parameters()
        z = model(weight * 3)
        (grad,) = torch.autograd.grad(z.sum(), weight, create_graph=True)
        found.append([grad, *torch.autograd.grad((grad**2).sum(), weight)])
    torch.testing.assert_close(*found)


def test_the_second_derivative_of_a_kink_is_zero():
    layer, x = as_torch(Net((3, 4, 1), ("relu", "identity"), rng=0, backend="numpy")), samples()
    (grad,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((grad**2).sum(), x)
    assert not second.any()


def test_transforms():
    net = chain()
    layer, x = as_torch(net), samples(grad=False)
    n = x.numpy()
    jacobian = net.derivatives(n, "jacobian")
    for found in (
        func.vmap(func.jacrev(layer))(x),
        func.vmap(func.jacfwd(layer))(x),
        torch.stack([func.jacrev(layer)(row) for row in x]),
        torch.stack([torch.autograd.functional.jacobian(layer, row, vectorize=True) for row in x]),
    ):
        np.testing.assert_allclose(found.detach(), jacobian, rtol=1e-9, atol=1e-12)
    hessian = func.vmap(func.hessian(layer))(x)
    np.testing.assert_allclose(hessian.detach(), net.derivatives(n, "hessian"), rtol=1e-8, atol=1e-12)
    z, along = func.jvp(layer, (x,), (torch.ones_like(x),))
    np.testing.assert_allclose(along.detach(), net.derivatives(n, "directional", direction=np.ones(3)), rtol=1e-9)
    np.testing.assert_allclose(z.detach(), net(n), rtol=1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, along)


def test_gradients_sample_by_sample_and_many_models_at_once():
    layer, x = as_torch(chain()), samples(grad=False)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return func.functional_call(layer, parameters, (x,)).square().sum()

    found = func.vmap(func.grad(loss), (None, 0))(parameters, x)
    for i, row in enumerate(x):
        layer.zero_grad()
        layer(row).square().sum().backward()
        for name, p in layer.named_parameters():
            torch.testing.assert_close(found[name][i], p.grad)
    stacked = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
    both = func.vmap(loss, (0, None))(stacked, x)
    torch.testing.assert_close(both[0], layer(x).square().sum().detach())


def test_what_changes_from_call_to_call_is_not_transformed_or_exported():
    layer, x = as_torch(graph(0.5)), samples(grad=False)
    with pytest.raises(
        RuntimeError, match=r"changes from call to call in training: call .eval\(\) before torch.func's"
    ):
        func.vmap(func.jacrev(layer))(x)
    with pytest.raises(RuntimeError, match=r"call .eval\(\) before an export"):
        torch.jit.trace(layer, (x,))


@pytest.mark.parametrize("make", [chain, graph])
def test_export(make):
    layer, x = as_torch(make()).eval(), samples(grad=False)
    with torch.no_grad():
        free = {0: torch.export.Dim("n")}
        shapes = ((free,),) if make is graph else (free,)  # a graph takes *inputs
        program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
        more = torch.cat([x, 2 * x])
        torch.testing.assert_close(program.module()(more), layer(more))
        torch.testing.assert_close(torch.jit.trace(layer, (x,))(x), layer(x))


@pytest.mark.parametrize("functions", [[name, None] for name in ACTIVATIONS] + [[["layer_norm", "relu"], "softmax"]])
@pytest.mark.filterwarnings("ignore")  # this exporter is the old one
def test_onnx_export(functions, tmp_path, capfd):
    """Of a model in which a net is a layer, by PyTorch's exporter, for any number of samples."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    net = Net((3, 8, 2), functions, bias=True, dtype="float32", init="glorot_normal", rng=0, backend="numpy")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), as_torch(net)).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (torch.zeros(5, 4),), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )  # fmt: skip
    x = 5 * torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    (found,) = runtime.InferenceSession(path).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_compiled_without_a_break():
    net = chain()
    layer = as_torch(net)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3).double(), layer)
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = samples()
    results = []
    for each in (model, fast):
        model.zero_grad()
        x.grad = None
        each(x).square().sum().backward()
        results.append([each(x), x.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    torch.optim.SGD(model.parameters(), 0.1).step()
    torch.testing.assert_close(fast(x), model(x))
    net.weights[0].data = 2 * net.weights[0].data
    with pytest.raises(RuntimeError, match="given other arrays since this was compiled: call the module itself once"):
        fast(x)
    torch.testing.assert_close(model(x), fast(x))


def test_compiled_in_training_it_draws_as_it_does_elsewhere():
    net = graph(0.5)
    same = copy.deepcopy(net)
    layer, other, x = as_torch(net), as_torch(same), samples()
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager")(x), other(x))
    assert net.draws == same.draws == 1


def test_copies_are_compiled_for_themselves():
    layer, x = as_torch(chain()), samples(grad=False)
    for clone in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            clone.biases[1].add_(1)
        torch.testing.assert_close(torch.compile(clone, backend="aot_eager")(x), layer(x) + 1)


def test_autocast_computes_in_the_nets_precision():
    layer = as_torch(chain("float32"))
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), layer)
    x = samples(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model(x)
        assert z.dtype == torch.float32
        torch.testing.assert_close(z, layer(model[0](x).float()))
        (grad,) = torch.autograd.grad(z.sum(), x, create_graph=True)
        grad.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.weights)
    with pytest.raises(TypeError, match=r"x must be torch.float32 on cpu, .*got torch.bfloat16"):
        layer(x.bfloat16())


def test_parameter_groups_and_lbfgs():
    net = chain()
    layer, x = as_torch(net), samples(40, grad=False)
    y = torch.sin(x[:, :2])
    start = [w.detach().clone() for w in layer.weights]
    groups = [{"params": layer.weights, "lr": 0.0}, {"params": layer.biases, "lr": 0.1, "weight_decay": 0.01}]
    optimiser = torch.optim.AdamW(groups, lr=1.0)
    (layer(x) - y).square().mean().backward()
    optimiser.step()
    for before, after in zip(start, layer.weights):
        torch.testing.assert_close(before, after.detach())
    assert net.biases[0].data.any()

    lbfgs = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        lbfgs.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        return loss

    first = float(lbfgs.step(closure))
    assert float(closure()) < first / 10
    np.testing.assert_allclose(net(x.numpy()), layer(x).detach(), rtol=1e-10)


def test_a_graph_is_compiled_for_any_number_of_samples():
    layer = as_torch(graph(batch=False)).eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for n in (5, 6, 7):
        torch.testing.assert_close(compiled(samples(n)), layer(samples(n)))


def test_a_net_without_parameters_is_compiled_too():
    net = GraphNet({"x": __import__("backprop_xp").Input(3), "y": ("tanh", "x")}, backend="numpy")
    x = samples()
    torch.testing.assert_close(torch.compile(as_torch(net), backend="aot_eager", fullgraph=True)(x), torch.tanh(x))


def test_two_forward_passes_before_two_backward_passes_and_one_again():
    layer = as_torch(chain("float32"))
    for n in (3, 300, 2500):
        inputs = [torch.randn(n, 3, requires_grad=True) for _ in range(2)]
        tensors = [[x, *layer.parameters()] for x in inputs]
        expected = [torch.autograd.grad(layer(x).sum(), own) for x, own in zip(inputs, tensors)]
        outputs = [layer(x).sum() for x in inputs]
        for i in (1, 0, 0, 1):
            found = torch.autograd.grad(outputs[i], tensors[i], retain_graph=True)
            assert all(map(torch.equal, found, expected[i]))


@needs_compiler
def test_signals_are_kept_only_where_a_backward_pass_may_come(monkeypatch):
    kept = []
    forward = Backward.forward
    monkeypatch.setattr(Backward, "forward", lambda *given: kept.append(True) or forward(*given))
    layer, x = as_torch(chain("float32")), samples(40, grad=False, dtype=torch.float32)
    with torch.no_grad():
        expected = layer(x)
    layer.requires_grad_(False)(x)
    assert not kept
    assert torch.equal(layer.requires_grad_(True)(x), expected) and kept
