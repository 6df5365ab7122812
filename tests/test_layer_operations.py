"""Dropout and normalisations in the layers of a Net: it is the GraphNet of the same nodes, in everything."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import (
    Dropout,
    Elementwise,
    GraphNet,
    Identity,
    Input,
    LayerNorm,
    Linear,
    Net,
    Operation,
    ReLU,
    Residual,
    Sigmoid,
    Tanh,
    Tensor,
    cli,
    net_options,
)
from backprop_xp.check import check_against_torch, check_gradients
from backprop_xp.exchange import ModelFileError, from_torch, keep, to_onnx, to_torch
from backprop_xp.graph import Activate, Add, Chain
from backprop_xp.operations import draws
from backprop_xp.training import CheckpointError, DivergedError

HIDDEN = [LayerNorm(), "relu", Dropout(0.25)]
OPTIONS = {"loss": "mse", "rng": 0, "backend": "numpy"}


class Scale(Operation):
    """A user's own: it draws, has a parameter and a buffer, and works sample by sample."""

    name, scope, needs_key = "scale", "sample", True

    def initial(self, widths, draw):
        return {"factor": np.asarray(draw((widths[0], 1)))[:, 0]}

    def initial_buffers(self, widths):
        return {"kept": np.full(1, 2.0)}

    def from_context(self, context, z):
        return {"kept": context.buffers["kept"] + (0 if context.key is None else context.key % 7)}

    def forward(self, z, factor, kept):
        return z * factor * kept

    def backward(self, grad, z, factor, kept):
        return grad * factor * kept, (grad * z * kept).sum(axis=0)


def layers(**options):
    return Net((4, 6, 6, 3), [HIDDEN, ["batch_norm", "tanh"], None], bias=[True, False, True], **OPTIONS | options)


def graph(entries, sizes=(4, 6, 6, 3), bias=(True, False, True), **options):
    """The same net, its nodes written out."""
    nodes, before = {"x": Input(sizes[0])}, "x"
    for i, (width, has, entry) in enumerate(zip(sizes[1:], bias, entries)):
        nodes[f"t{i}"] = Linear(width, has), before
        steps = entry if isinstance(entry, list) else [entry or "identity"]
        nodes[f"z{i}"] = Chain(*steps) if len(steps) > 1 else steps[0], f"t{i}"
        before = f"z{i}"
    return GraphNet(nodes, **OPTIONS | options)


def batch(n=50, dtype="float64"):
    random = np.random.default_rng(n)
    return random.normal(size=(n, 4)).astype(dtype), random.normal(size=(n, 3)).astype(dtype)


def assert_same_state(net, other):
    for node, own in net._tensors().items():
        for name, tensor in own.items():
            theirs = other._tensors()[node][name]
            np.testing.assert_array_equal(tensor.data, theirs.data, err_msg=f"{node}.{name}")
            if tensor.grad is not None and theirs.grad is not None:
                np.testing.assert_array_equal(tensor.grad, theirs.grad, err_msg=f"{node}.{name}")
    for name, tensor in net.buffers.items():
        np.testing.assert_array_equal(tensor.data, other.buffers[name].data, err_msg=name)
    assert (net.seed, net.draws) == (other.seed, other.draws)


entries = st.lists(
    st.sampled_from(["relu", "tanh", "layer_norm", "batch_norm", "dropout"]), min_size=1, max_size=4
).map(lambda names: [*names])


@settings(max_examples=15, deadline=None)
@given(st.lists(entries, min_size=3, max_size=3), st.sampled_from(["float32", "float64"]), st.integers(2, 40))
def test_any_lists_are_the_graph_of_their_nodes(lists, dtype, n):
    options = {"dtype": dtype, "engine": "layered"}
    net, other = Net((4, 6, 6, 3), lists, bias=True, **OPTIONS | options), graph(lists, bias=[True] * 3, **options)
    x, y = batch(n, dtype)
    for training in (True, False, True):
        got = net.loss_and_grad(x, y, input_grad=True, training=training)
        expected = other.loss_and_grad(x, y, input_grad=True, training=training)
        assert got[0] == expected[0]
        np.testing.assert_array_equal(got[1], expected[1])
        assert_same_state(net, other)
    np.testing.assert_array_equal(net(x), other(x))


@pytest.mark.parametrize("n", [2, 50, 3000])
def test_every_engine_gives_the_graphs_bits(n):
    """Ready calls, the compiled pass of graphs, tiles."""
    lists = [[LayerNorm(), "relu"], ["tanh", Dropout(0.0)], None]
    for engine in ("auto", "fused", "tiled"):
        net = Net((4, 6, 6, 3), lists, bias=True, **OPTIONS, engine=engine)
        other = graph(lists, bias=[True] * 3, engine=engine)
        x, y = batch(n)
        for _ in range(2):
            assert net.loss_and_grad(x, y) == other.loss_and_grad(x, y)
            np.testing.assert_array_equal(net(x), other(x))
        assert_same_state(net, other)
        assert net.plan(x).engine == other.plan(x).engine


def test_one_sample_keeps_every_signal():
    lists = [[LayerNorm(), "relu"], "tanh", None]
    net, other = Net((4, 6, 6, 3), lists, **OPTIONS), graph(lists, bias=[False] * 3)
    x, y = (array[0] for array in batch())
    assert net.loss_and_grad(x, y) == other.loss_and_grad(x, y)
    assert [*net.signals] == ["t0", "z0.0", "z0", "t1", "z1", "t2", "z2"]
    for name, tensor in net.signals.items():
        assert tensor.data.ndim == 1
        np.testing.assert_array_equal(tensor.data, other.signals[name].data)
        np.testing.assert_array_equal(tensor.grad, other.signals[name].grad)
    assert net.signals["t0"] is net.linear_outputs[0] and net.signals["z0"] is net.nonlinear_outputs[0]
    output = net.forward(x, keep_signals=True)
    assert output.shape == (3,)
    assert net.backward(np.ones(3), input_grad=True).shape == (4,)
    net.loss_and_grad(*batch())
    assert all(tensor.data is None for tensor in net.signals.values())


def test_what_it_has():
    net = layers()
    assert [tensor.name for tensor in net.parameters] == [
        "W0", "W1", "W2", "b0", "b2", "z0.0.gain", "z0.0.bias", "z1.0.gain", "z1.0.bias",
    ]  # fmt: skip
    assert [*net.tensors] == ["z0.0.gain", "z0.0.bias", "z1.0.gain", "z1.0.bias"]
    assert [*net.buffers] == ["z1.0.running_mean", "z1.0.running_var"]
    assert repr(net) == "Net(4-6-6-3, layer_norm+relu+dropout, batch_norm+tanh, identity, mse, float64, numpy)"
    assert net.fewest_samples == 2
    assert [type(f) for f in net.activations] == [Chain, Chain, Identity]
    assert "layer_norm" in str(net.draw())
    assert [*net.tensors_of("z1.0")] == ["gain", "bias", "running_mean", "running_var"]


@pytest.mark.parametrize(
    "entry, kind",
    [
        (None, Identity), ("relu", ReLU), (["relu"], ReLU), (Activate("tanh"), Tanh), ([Activate("tanh")], Tanh),
        ("dropout", Dropout), ([Dropout(0.1)], Dropout), (LayerNorm(), LayerNorm), (("relu", None), Chain),
    ],
)  # fmt: skip
def test_what_stands_for_what(entry, kind):
    net = Net((3, 2), [entry], **OPTIONS)
    assert type(net.activations[0]) is kind
    net.loss_and_grad(np.ones((4, 3)), np.ones((4, 2)))


def test_lists_in_lists_are_one():
    nested = Net((3, 2), [[Chain("relu", LayerNorm()), ["tanh", Chain(Dropout(0.5), "relu")]]], **OPTIONS)
    assert [node.name for node in nested._plan().nodes] == ["x", "t0", "z0.0", "z0.1", "z0.2", "z0.3", "z0"]
    assert [*nested.tensors] == ["z0.1.gain", "z0.1.bias"]


@pytest.mark.parametrize(
    "entry, error, message",
    [
        ([], ValueError, "Chain needs at least one operation"),
        ("layer_nrom", ValueError, "unknown activation 'layer_nrom'"),
        (Linear(2), ValueError, "linear can't stand in a layer of a Net: write the net as a GraphNet"),
        (["tanh", Residual("relu")], ValueError, "residual can't stand in a layer of a Net"),
        (Chain("tanh", Linear(2)), ValueError, "linear can't stand"),
        ([Add(), "relu"], ValueError, "add can't stand"),
        ("concatenate", ValueError, "concatenate can't stand"),
        (Input(2), ValueError, "input can't stand"),
        (LayerNorm, TypeError, "an activation is a name or an object with __call__ and grad, got LayerNorm"),
        (3, TypeError, "an activation is a name or an object"),
    ],
)
def test_what_can_not_stand_there(entry, error, message):
    with pytest.raises(error, match=message):
        Net((3, 2), [entry], **OPTIONS)
    net = Net((3, 2), **OPTIONS)
    net.activations[0] = entry
    with pytest.raises(error, match=message):
        net.loss_and_grad(np.ones((4, 3)), np.ones((4, 2)))


def test_an_operation_that_changes_the_width():
    class Half(Operation):
        name = "half"

        def width(self, width):
            return width // 2

    with pytest.raises(ValueError, match="layer 0 has 4 features, and its half makes 2 of them"):
        Net((3, 4, 2), [["relu", Half()], None], **OPTIONS)


def test_activations_may_be_replaced_at_any_time():
    net, (x, y) = layers(), batch()
    net.loss_and_grad(x, y)
    for entry in (["layer_norm", "relu"], ["layer_norm", "relu", "tanh"]):
        net.activations[0] = entry  # a list is looked at anew each time
        for last in ("gelu", "relu"):
            entry[1] = last
            other = graph([entry, ["batch_norm", "tanh"], None])
            for name, tensor in _places(net):
                node, _, own = name.rpartition(".")
                other._tensors()[node][own].data = tensor.data
            other.draws = net.draws
            for name, tensor in net.buffers.items():
                other.buffers[name].data = tensor.data
            assert net.loss_and_grad(x, y) == other.loss_and_grad(x, y)
            np.testing.assert_array_equal(net(x), other(x))
    assert [*net.signals] == ["t0", "z0.0", "z0.1", "z0", "t1", "z1.0", "z1", "t2", "z2"]


def test_an_activation_within_an_entry_is_seen_by_the_next_call():
    net, x = Net((3, 4, 2), rng=0, backend="numpy"), np.ones((5, 3))
    net.activations[0] = entry = Activate("tanh")
    net.loss_and_grad(x)
    entry.activation = Sigmoid()
    expected = Net((3, 4, 2), ["sigmoid", None], rng=0, backend="numpy").forward(x)
    np.testing.assert_array_equal(net.forward(x), expected)


def test_the_steps_of_an_entry_stay():
    """Its nodes are made of them once."""
    net = Net((3, 4), [["tanh", Dropout(0.5)]], backend="numpy")
    with pytest.raises(AttributeError, match="steps"):
        net.activations[0].steps = ()
    assert repr(net.activations[0]).startswith("Chain(Activate(") and "Dropout(" in repr(net.activations[0])


REFUSED = [
    (np.ones((4, 3)), np.full(4, 7), {}),
    (np.ones((4, 3)), None, {}),
    (np.ones((4, 3)), np.zeros(4, int), {"sample_weight": np.ones(3)}),
    (np.ones((4, 2)), np.zeros(4, int), {}),
    (np.ones(3), 9, {}),
]


@pytest.mark.parametrize("engine", ["auto", "layered"])
@pytest.mark.parametrize("x, y, options", REFUSED)
def test_a_refused_call_draws_nothing(x, y, options, engine):
    net = Net((3, 4, 2), [["tanh", Dropout(0.5)], None], "softmax_cross_entropy", engine=engine, backend="numpy")
    for good, target in ((np.ones((4, 3)), np.zeros(4, int)), (np.ones(3), 1)):
        net.loss_and_grad(good, target)  # a ready call may refuse as well
    with pytest.raises((ValueError, TypeError)):
        net.loss_and_grad(x, y, **options)
    assert net.draws == 2


def test_settings_within_a_list_are_seen_by_the_next_call():
    net, (x, y) = Net((4, 3), [["tanh", Dropout(0.5)]], **OPTIONS), batch()
    outputs = net(x)
    net.loss_and_grad(x, y)
    net.activations[0].steps[1].p = 0.0
    draws_before = net.draws
    again = net.loss_and_grad(x, y)
    assert net.draws == draws_before + 1
    np.testing.assert_allclose(again, ((outputs - y) ** 2).sum(), rtol=1e-12)
    slope = Net((4, 3), [["leaky_relu", "layer_norm"]], **OPTIONS)
    before = slope(x)
    slope.activations[0].steps[0].activation.negative_slope = 0.9
    assert np.abs(slope(x) - before).max() > 1e-3


@pytest.mark.parametrize(
    "entry, message",
    [
        ("relu", "'z1.0.bias' is not there any more: what the activations of a net have to train or keep is made with"),
        (["tanh", "batch_norm"], "'z1.0.bias' is not there any more"),
        (["batch_norm", "tanh", "layer_norm"], "'z1.bias' is new"),
    ],
)
def test_what_has_parameters_is_made_with_the_net(entry, message):
    net = layers()
    net.activations[1] = entry
    for call in (lambda: net(batch()[0]), lambda: net.loss_and_grad(*batch())):
        with pytest.raises(ValueError, match=message):
            call()


def test_your_own_operation_draws_and_keeps(tmp_path):
    lists = [[Scale(), "relu"], Elementwise("bump", "exp(-t * t)"), None]
    net, other = Net((4, 6, 6, 3), lists, **OPTIONS), graph(lists, bias=[False] * 3)
    assert_same_state(net, other)  # drawn in one order
    x, y = batch()
    for _ in range(3):
        assert net.loss_and_grad(x, y) == other.loss_and_grad(x, y)
    assert_same_state(net, other)
    net.save(tmp_path / "net")
    custom = {"scale": lists[0][0], "bump": lists[1]}
    again = Net.load(tmp_path / "net", custom=custom, backend="numpy")
    assert again.activations[0].steps[0] is lists[0][0]
    assert_same_state(net, again)
    assert net.loss_and_grad(x, y) == again.loss_and_grad(x, y)
    with pytest.raises(ModelFileError, match="its operation 'scale' is not built in"):
        Net.load(tmp_path / "net", custom={"bump": lists[1]})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file(tmp_path, dtype):
    net, (x, y) = layers(dtype=dtype, reduction="mean"), batch(dtype=dtype)
    net.loss_and_grad(x, y)
    net.tensors["z1.0.gain"] = net.tensors["z0.0.gain"]
    net.biases[0] = net.tensors["z0.0.bias"]
    net.save(tmp_path / "net")
    again = Net.load(tmp_path / "net", backend="numpy")
    assert type(again) is Net and repr(again) == repr(net) and again.bias == net.bias
    assert again.tensors["z1.0.gain"] is again.tensors["z0.0.gain"] and again.biases[0] is again.tensors["z0.0.bias"]
    assert_same_state(net, again)
    assert again.loss_and_grad(x, y) == net.loss_and_grad(x, y)
    assert_same_state(net, again)


def test_hostile_files(tmp_path):
    net, path = layers(), tmp_path / "net"
    net.save(path)
    for change, message in (
        ({"activations": [[{"name": "linear", "features": 6, "bias": True}], {}, {}]}, "linear can't stand in a layer"),
        ({"activations": [["relu"], {}, {}]}, "the operations of its layers must be JSON objects"),
        ({"activations": [[]]}, "Chain needs at least one operation"),
        ({"seed": -1}, "'seed' of its description must be from 0"),
        ({"seed": None}, "'seed' of its description must be of type int"),
        ({"shared": {"z0.0.gain": "z1.0.running_mean"}}, "must map places without an array"),
    ):
        description, arrays = keep._describe(net, keep.KINDS["chain"])
        keep.write(path, arrays, {"format": 1, "kind": "chain", **description, "extra": {}} | change)
        with pytest.raises(ModelFileError, match=message):
            Net.load(path, backend="numpy")
    description, arrays = keep._describe(net, keep.KINDS["chain"])
    del arrays["z1.0.running_mean"]
    shared = {"shared": {"z1.0.running_mean": "z1.0.gain"}}
    keep.write(path, arrays, {"format": 1, "kind": "chain", **description, "extra": {}} | shared)
    with pytest.raises(ModelFileError, match="a parameter and a buffer, can't share an array"):
        Net.load(path, backend="numpy")


def test_copies_and_moves():
    net, (x, y) = layers(), batch()
    others = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    net.loss_and_grad(x, y)
    for other in others:
        other.loss_and_grad(x, y)
        assert_same_state(other, net)
    assert net.to("numpy") is net


def test_onnx(tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    net, (x, y) = layers(dtype="float32"), batch(dtype="float32")
    net.loss_and_grad(x, y)
    to_onnx(net, tmp_path / "net.onnx")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], net(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match=r"node 'z0' is code, Scale\(\)"):
        to_onnx(Net((3, 2), [Scale()], **OPTIONS), tmp_path / "own.onnx")


def test_pytorch():
    torch = pytest.importorskip("torch")
    net, (x, y) = layers(), batch()
    net.loss_and_grad(x, y)
    net.tensors["z1.0.gain"] = net.tensors["z0.0.gain"]
    module = to_torch(net)
    kinds = [type(part).__name__ for part in module]
    assert kinds == ["Linear", "LayerNorm", "ReLU", "Dropout", "Linear", "BatchNorm1d", "Tanh", "Linear", "Identity"]
    np.testing.assert_allclose(module.eval()(torch.from_numpy(x)).detach(), net(x), rtol=1e-12)
    again = from_torch(module, loss="mse", rng=3, backend="numpy")
    assert type(again) is Net and repr(again) == repr(net)
    assert again.tensors["z1.0.gain"] is again.tensors["z0.0.gain"]
    np.testing.assert_array_equal(again(x), net(x))
    assert again.seed != 0
    for first in (torch.nn.LayerNorm(4), torch.nn.ReLU()):  # nothing of a Net comes before its first layer
        made = from_torch(torch.nn.Sequential(first, torch.nn.Linear(4, 3)), backend="numpy")
        assert type(made) is GraphNet
    two = from_torch(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.ReLU()), backend="numpy")
    assert type(two) is Net and [step.name for step in two.activations[0].steps] == ["tanh", "relu"]
    with pytest.raises(TypeError, match=r"node 'z0' is code, Scale\(\)"):
        to_torch(Net((3, 2), [Scale()], **OPTIONS))


def test_as_a_module_of_pytorch():
    torch = pytest.importorskip("torch")
    from backprop_xp.torch_layer import as_torch

    net, other, (x, y) = layers(), layers(), batch()
    module = as_torch(net)
    names = ["tensors.z0.0.gain", "tensors.z0.0.bias", "tensors.z1.0.gain", "tensors.z1.0.bias"]
    assert [name for name, _ in module.named_parameters()] == [
        "weights.0", "weights.1", "weights.2", "biases.0", "biases.1", *names
    ]  # fmt: skip
    assert {"buffers.z1.0.running_mean", "buffers.z1.0.running_var"} < module.state_dict().keys()
    ((module(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).sum().backward()
    other.loss_and_grad(x, y)
    for parameter, (name, tensor) in zip(module._in_places(), _places(other)):
        np.testing.assert_allclose(parameter.grad, tensor.grad, rtol=1e-12, err_msg=name)
    for name, tensor in other.buffers.items():
        np.testing.assert_array_equal(module.net.buffers[name].data, tensor.data)
    module.eval()
    assert module(torch.from_numpy(x[0])).shape == (3,)
    assert module(torch.from_numpy(np.stack([x, x]))).shape == (2, len(x), 3)
    fresh = as_torch(layers(rng=5))
    fresh.load_state_dict(module.state_dict())
    np.testing.assert_array_equal(fresh.eval()(torch.from_numpy(x)).detach(), module(torch.from_numpy(x)).detach())
    copied = copy.deepcopy(module)
    assert copied.net is not net and copied.net.tensors["z0.0.gain"] is not net.tensors["z0.0.gain"]


def _places(net):
    return [(f"{node}.{name}", tensor) for node, own in net._tensors().items() for name, tensor in own.items()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_proofs(dtype):
    net, (x, y) = layers(dtype=dtype, reduction="mean"), batch(8)
    net.fit(*batch(40), epochs=1)
    state = net.draws, {name: tensor.data for name, tensor in net.buffers.items()}
    report = check_gradients(net, x, y)
    assert report.ok, report
    assert [row.name for row in report.rows] == [*net._named(), "x"]
    assert check_against_torch(net, x, y).ok
    assert (net.draws, {name: tensor.data for name, tensor in net.buffers.items()}) == state
    assert check_gradients(Net((4, 3), [["tanh", "layer_norm"]], **OPTIONS), x[0], y[0]).ok


def test_training_and_resuming(tmp_path):
    data = batch(60)
    whole, part, again, other = layers(), layers(), layers(), graph([HIDDEN, ["batch_norm", "tanh"], None])
    run = {"batch_size": 20, "optimiser": "sgd", "clip_norm": 0.1, "seed": 0}
    whole.fit(*data, epochs=4, **run)
    other.fit(*data, epochs=4, **run)
    for (name, tensor), (_, theirs) in zip(_places(whole), _places(other)):  # clipped by norms, summed in other orders
        np.testing.assert_allclose(tensor.data, theirs.data, rtol=1e-9, atol=1e-12, err_msg=name)
    part.fit(*data, epochs=2, checkpoint=tmp_path / "run", **run)
    again.draws, again.seed = 9, 9
    again.fit(*data, epochs=4, checkpoint=tmp_path / "run", resume=True, **run)
    assert_same_state(again, whole)
    with pytest.raises(ValueError, match="leave a last batch of 1"):
        layers().fit(*data, batch_size=59)
    data[0][3, 0] = 1e308
    with pytest.raises(DivergedError, match="isn't finite"):
        layers(dtype="float64").fit(*data, epochs=1, batch_size=20, optimiser="sgd")


def test_compiling_ahead_and_the_command_line(tmp_path, capsys):
    net = Net((3, 4, 2), [[LayerNorm(), "relu"], None], dtype="float32", **OPTIONS)
    net.save(tmp_path / "net")
    assert cli.main(["compile", str(tmp_path / "net"), "--backend", "numpy"]) == 0
    assert "layer_norm+relu" in capsys.readouterr().out
    assert not [built for built in net.compile(None) if not built.known]
    made = net_options.made("3-4-2", "layer_norm+relu,identity", None, None, False, None, "numpy")
    assert repr(made.activations) == repr(net.activations)
    one = net_options.made("3-4-4-2", "layer_norm+relu", None, None, False, None, "numpy")
    assert [*one.tensors] == ["z0.0.gain", "z0.0.bias", "z1.0.gain", "z1.0.bias"]


def test_derivatives_are_those_of_the_same_graph():
    net, x = layers(), batch()[0]
    jacobian = net.derivatives(x, "jacobian")
    for column in range(x.shape[1]):
        step = np.zeros(x.shape[1])
        step[column] = 1e-6
        expected = (net(x + step) - net(x - step)) / 2e-6
        np.testing.assert_allclose(jacobian[:, :, column], expected, atol=1e-7)


def test_dropout_that_was_not_there_at_first_draws_too():
    net, (x, y) = Net((4, 3), ["tanh"], **OPTIONS), batch()
    net.activations[0] = ["tanh", Dropout(0.5)]
    losses = {float(net.loss_and_grad(x, y)) for _ in range(3)}
    assert len(losses) == 3 and net.draws == 3
    assert draws.key(net.seed, 0, 0) == draws.key(0, 0, 0)


@pytest.mark.gpu
def test_on_a_device():
    cupy_net, host_net, (x, y) = layers(backend="cupy"), layers(), batch()
    for _ in range(2):
        got, expected = cupy_net.loss_and_grad(x, y), host_net.loss_and_grad(x, y)
        np.testing.assert_allclose(got.get(), expected, rtol=1e-10)
    cupy_net.to("numpy")
    np.testing.assert_allclose(cupy_net(x), host_net(x), rtol=1e-10)
    for name, tensor in cupy_net.buffers.items():
        np.testing.assert_allclose(tensor.data, host_net.buffers[name].data, rtol=1e-10)


def test_ready_calls_see_what_changes_within_a_list():
    net, (x, y) = Net((4, 6, 3), [[LayerNorm(), "leaky_relu"], None], **OPTIONS), batch()
    for change in (
        lambda: setattr(net.activations[0].steps[1].activation, "negative_slope", 0.5),
        lambda: setattr(net.activations[0].steps[0], "eps", 0.5),
        lambda: net.tensors.update({"z0.0.gain": Tensor(np.full(6, 3.0))}),
        lambda: net.activations.__setitem__(0, Chain(LayerNorm(), "tanh")),
        lambda: net.activations.__setitem__(0, ["layer_norm", "sigmoid"]),
        lambda: net.tensors["z0.0.bias"].data.fill(2.0),
    ):
        before = net.loss_and_grad(x, y)
        assert net.loss_and_grad(x, y) == before
        change()
        plain = copy.deepcopy(net)
        plain.engine = "layered"
        got, expected = net.loss_and_grad(x, y), plain.loss_and_grad(x, y)
        assert abs(got - before) > 1e-6
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        for (name, tensor), (_, other) in zip(_places(net), _places(plain)):
            np.testing.assert_allclose(tensor.grad, other.grad, rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_checkpoint_of_a_net_that_draws_nothing_has_no_seed(tmp_path, monkeypatch):
    """As those have that were written before any Net could draw."""
    from backprop_xp.training import resume

    run = {"epochs": 2, "batch_size": 20, "checkpoint": tmp_path / "run", "seed": 0}
    monkeypatch.setattr(resume, "NET_STATE", ())
    net = Net((4, 3), loss="mse", rng=0, backend="numpy")
    net.fit(*batch(60), **run)
    monkeypatch.undo()
    again = Net((4, 3), loss="mse", rng=1, backend="numpy")
    again.fit(*batch(60), **run, resume=True)
    np.testing.assert_array_equal(again.weights[0].data, net.weights[0].data)
    drawing = Net((4, 3), [Dropout(0.5)], loss="mse", rng=1, backend="numpy")
    with pytest.raises(CheckpointError, match="it has no 'seed'"):
        drawing.fit(*batch(60), **run, resume=True)
