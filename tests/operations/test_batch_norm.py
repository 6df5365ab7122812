"""Batch normalisation: what it keeps, when it trains, and what becomes of its buffers in nets, files and runs."""

import numpy as np
import pytest
import torch
from runs import assert_same

from backprop_xp import Graph, GraphNet, Input, Linear, Loss
from backprop_xp.exchange import ModelFileError, load, save, to_onnx
from backprop_xp.graph import BatchNorm
from backprop_xp.training import SGD, CheckpointError, DivergedError, EarlyStopping, load_parameters, steps


def net_of(width=5, **options):
    nodes = {"x": Input(4), "h": (Linear(width), "x"), "n": ("batch_norm", "h"), "a": ("tanh", "n"), "y": (Linear(2), "a")}  # fmt: skip
    return GraphNet(nodes, **{"rng": 0, "loss": "mse", "reduction": "mean", "init": "glorot_normal"} | options)


def data(n=60, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4)) * 3 + 1
    return x, np.sin(x[:, :2])


def buffers(net):
    return {name: tensor.data.copy() for name, tensor in net.buffers.items()}


def assert_same_buffers(net, expected):
    assert net.buffers.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(net.buffers[name].data, array, err_msg=name)


def test_running_numbers_are_buffers_and_no_parameters():
    net = net_of()
    assert list(net.buffers) == ["n.running_mean", "n.running_var"]
    assert list(net.tensors) == ["h.weight", "h.bias", "n.gain", "n.bias", "y.weight", "y.bias"]
    assert not {*net.parameters} & {*net.buffers.values()}
    assert list(net.tensors_of("n")) == ["gain", "bias", "running_mean", "running_var"]
    assert "10" in str(net.draw()).splitlines()[3]  # gain and bias: what is trained


def test_loss_and_grad_trains_and_forward_does_not():
    """As with dropout: one rule."""
    net, (x, y) = net_of(), data()
    at_first = buffers(net)
    net.forward(x)
    net.loss_and_grad(x, y, training=False)
    net.plan(x)
    assert_same_buffers(net, at_first)
    h = x @ net.tensors["h.weight"].data.T
    net.loss_and_grad(x, y)
    np.testing.assert_allclose(net.buffers["n.running_mean"].data, 0.1 * h.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(net.buffers["n.running_var"].data, 0.9 + 0.1 * h.var(axis=0, ddof=1), rtol=1e-12)
    once = buffers(net)
    net.forward(x, training=True)
    for name, array in buffers(net).items():
        assert not np.array_equal(array, once[name])


def test_pytorchs_defaults():
    theirs = torch.nn.BatchNorm1d(3)
    assert (BatchNorm().eps, BatchNorm().momentum) == (theirs.eps, theirs.momentum)
    assert repr(BatchNorm()) == "BatchNorm(eps=1e-05, momentum=0.1)"


@pytest.mark.parametrize("momentum", [0, 1])
def test_none_and_all_of_the_batch(momentum):
    net = GraphNet({"x": Input(4), "n": (BatchNorm(momentum=momentum), "x")}, rng=0)
    x, _ = data()
    net.loss_and_grad(x)
    mean, variance = (tensor.data for tensor in net.buffers.values())
    expected = (x.mean(axis=0), x.var(axis=0, ddof=1)) if momentum else (np.zeros(4), np.ones(4))
    np.testing.assert_allclose((mean, variance), expected, rtol=1e-12)


def test_a_feature_that_is_the_same_in_all_samples():
    net = GraphNet({"x": Input(2), "n": (BatchNorm(), "x")}, rng=0)
    x = np.column_stack([np.full(6, 7.0), np.arange(6.0)])
    _, grad = net.loss_and_grad(x, input_grad=True, keep_signals=True)
    assert not net.signals["n"].data[:, 0].any() and not grad[:, 0].any()


def test_statistics_of_numbers_far_from_zero():
    """In float32, and over many samples."""
    random = np.random.default_rng(0)
    x = (random.normal(size=(200_000, 3)) + np.array([1000, -300, 0])).astype(np.float32)
    net = GraphNet({"x": Input(3), "n": (BatchNorm(momentum=1), "x")}, rng=0, dtype="float32")
    net.loss_and_grad(x)
    np.testing.assert_allclose(net.buffers["n.running_mean"].data, x.mean(axis=0, dtype=np.float64), atol=1e-4)
    np.testing.assert_allclose(net.buffers["n.running_var"].data, x.var(axis=0, dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("x", [np.ones(4), np.ones((1, 4))])
def test_one_sample_has_no_variance(x):
    net = net_of()
    message = r"node 'n' \(batch_norm\) needs at least 2 samples in training, got 1; with training=False it takes"
    before = buffers(net)
    with pytest.raises(ValueError, match=message):
        net.loss_and_grad(x, x[..., :2])
    with pytest.raises(ValueError, match=message):
        net.forward(x, training=True)
    assert_same_buffers(net, before)
    assert net.parameters[0].grad is None
    assert net.loss_and_grad(x, x[..., :2], training=False) > 0
    assert net.forward(x).shape == (*x.shape[:-1], 2)


def test_backward_starts_from_a_forward_pass_in_training():
    (x, y), nets = data(), [net_of(), net_of()]
    nets[0].loss_and_grad(x, y)
    output = nets[1].forward(x, keep_signals=True, training=True)
    nets[1].backward(2 * (output - y) / y.size)
    for a, b in zip(nets[0].parameters, nets[1].parameters):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    assert_same_buffers(nets[1], buffers(nets[0]))  # once


def test_a_call_that_fails_changes_no_buffer():
    class Broken(Loss):
        needs_target = False

        def __call__(self, z):
            raise ZeroDivisionError

    net = net_of(loss=Broken())
    before = buffers(net)
    with pytest.raises(ZeroDivisionError):
        net.loss_and_grad(data()[0])
    assert_same_buffers(net, before)


def test_what_the_user_does_to_buffers_is_seen_and_checked():
    net, (x, _) = net_of(), data()
    before = net(x)
    net.buffers["n.running_mean"].data[:] = 1
    assert not np.allclose(net(x), before)
    net.buffers["n.running_mean"].data = np.ones(3)
    with pytest.raises(ValueError, match=r"buffers\['n.running_mean'\].data must have shape \(5,\), got \(3,\)"):
        net(x)


def test_arrays_that_were_handed_out_stay_as_they_are():
    net, (x, y) = net_of(), data()
    mean = net.buffers["n.running_mean"].data
    net.loss_and_grad(x, y)
    assert not mean.any() and net.buffers["n.running_mean"].data.any()


def test_in_use_it_is_cut_and_compiled_and_in_training_it_gets_all():
    net, (x, y) = net_of(), data(5000)
    reason = net.plan(x).reason
    assert "not tiled: node 'n' needs the whole batch in training" in reason and net.plan(x).engine == "layered"
    for engine in ("fused", "tiled"):
        net.engine = engine
        with pytest.raises(
            ValueError, match=f"the {engine} engine can't run this call: node 'n' needs the whole batch"
        ):
            net.loss_and_grad(x, y)
    net.engine = "tiled"
    cut = net(x)
    net.engine = "layered"
    np.testing.assert_allclose(cut, net(x), rtol=1e-12)


def test_the_builder():
    g = Graph()
    net = g.net(g.batch_norm(g.input(3), 1e-3, 0.2, name="n"), rng=0)
    assert repr(net.nodes[-1].operation) == "BatchNorm(eps=0.001, momentum=0.2)"
    assert g.batch_norm(g.input(2)).name == "batch_norm0"


# ---- files ------------------------------------------------------------------------------------------------------------


def test_a_file_whose_buffers_are_wrong(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    from safetensors import safe_open

    path = tmp_path / "net"
    for change, message in (
        (lambda arrays: arrays.pop("n.running_var"), "the array 'n.running_var' is missing"),
        (lambda arrays: arrays.update({"n.running_mean": np.zeros(3)}), r"'n.running_mean' must be float64 \(5,\)"),
    ):
        save(net_of(), path)
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        arrays = safetensors.load_file(path)
        change(arrays)
        safetensors.save_file(arrays, path, metadata)
        with pytest.raises(ModelFileError, match=message):
            load(path, backend="numpy")


def test_a_parameter_and_a_buffer_share_no_array(tmp_path):
    net, path = net_of(), tmp_path / "net"
    net.buffers["n.running_mean"] = net.tensors["n.bias"]
    save(net, path)
    with pytest.raises(ModelFileError, match=r"'n.running_mean' and 'n.bias', a parameter and a buffer, can't share"):
        load(path, backend="numpy")


def test_two_nodes_may_share_running_numbers(tmp_path):
    nodes = {"x": Input(3), "a": ("batch_norm", "x"), "b": ("batch_norm", "a")}
    net = GraphNet(nodes, rng=0, backend="numpy")
    net.buffers["b.running_var"] = net.buffers["a.running_var"]
    save(net, tmp_path / "net")
    again = load(tmp_path / "net", backend="numpy")
    assert again.buffers["b.running_var"] is again.buffers["a.running_var"]
    assert again.buffers["b.running_mean"] is not again.buffers["a.running_mean"]


def test_the_onnx_node(tmp_path):
    onnx = pytest.importorskip("onnx")
    to_onnx(net_of(), tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    (node,) = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert list(node.input)[1:] == ["n.gain", "n.bias", "n.running_mean", "n.running_var"]


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_it_learns_what_pytorch_learns():
    net, (x, y) = net_of(), data()
    theirs = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
    ).double()
    with torch.no_grad():
        for p, own in zip(theirs.parameters(), net.parameters):
            p.copy_(torch.tensor(own.data))
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(20):
        for start in range(0, 60, 20):
            rows = slice(start, start + 20)
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(theirs(torch.tensor(x[rows])), torch.tensor(y[rows])).backward()
            optimiser.step()
    net.fit(x, y, epochs=20, batch_size=20, optimiser=SGD(lr=0.1), shuffle=False)
    for p, own in zip(theirs.parameters(), net.parameters):
        np.testing.assert_allclose(own.data, p.detach().numpy(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(net.buffers["n.running_var"].data, theirs[1].running_var.numpy(), rtol=1e-10)
    theirs.eval()
    np.testing.assert_allclose(net(x), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-8, atol=1e-10)


def test_a_resumed_run_goes_on_with_the_buffers(tmp_path):
    options = {"batch_size": 16, "checkpoint": tmp_path, "checkpoint_every": 3}
    whole, part, other = net_of(), net_of(), net_of(rng=5)
    validation = data(30, seed=1)
    a = whole.fit(*data(), epochs=4, batch_size=16, validation=validation)
    part.fit(*data(), epochs=2, validation=validation, **options)
    b = other.fit(*data(), epochs=4, resume=True, validation=validation, **options)
    assert_same(whole, other)
    assert_same_buffers(other, buffers(whole))
    assert [epoch.validation_loss for epoch in a.epochs] == [epoch.validation_loss for epoch in b.epochs]


def test_the_parameters_of_a_checkpoint_come_with_their_buffers(tmp_path):
    net, other = net_of(), net_of(rng=5)
    net.fit(*data(), epochs=2, checkpoint=tmp_path)
    (path,) = tmp_path.glob("*.npz")
    load_parameters(other, path)
    assert_same(net, other)
    assert_same_buffers(other, buffers(net))
    wider = net_of(width=6)
    before = buffers(wider)
    with pytest.raises(CheckpointError, match="an array of another net"):
        load_parameters(wider, path)
    assert_same_buffers(wider, before)


def test_a_checkpoint_without_buffers_is_of_another_net(tmp_path):
    net_of().fit(*data(), epochs=1, checkpoint=tmp_path)
    (path,) = tmp_path.glob("*.npz")
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "buffers"}
    np.savez(path, **arrays)
    net = net_of(rng=5)
    before = [tensor.data.copy() for tensor in net.parameters]
    with pytest.raises(CheckpointError, match="it has no 'buffers"):
        load_parameters(net, path)
    for tensor, array in zip(net.parameters, before):
        np.testing.assert_array_equal(tensor.data, array)


class Worse:
    """Ends an epoch by spoiling the net, from the third on."""

    def __call__(self, net, epoch):
        if epoch.number >= 3:
            for tensor in (*net.parameters, *net.buffers.values()):
                tensor.data[...] = 100


@pytest.mark.parametrize("resumed", [False, True])
def test_early_stopping_puts_back_the_buffers_of_the_best_epoch(resumed, tmp_path):
    best, net = net_of(), net_of()
    history = best.fit(*data(), epochs=3, validation=data(30, seed=1))
    assert history.epochs[2].validation_loss < min(epoch.validation_loss for epoch in history.epochs[:2])
    options = {"validation": data(30, seed=1), "early_stopping": EarlyStopping(2), "callbacks": [Worse()]}
    if resumed:
        net.fit(*data(), epochs=4, checkpoint=tmp_path, **options)
        net = net_of(rng=3)
        options |= {"early_stopping": EarlyStopping(2), "checkpoint": tmp_path, "resume": True}
    history = net.fit(*data(), epochs=9, **options)
    assert history.best == 3 and len(history.epochs) == 5
    assert_same(net, best)
    assert_same_buffers(net, buffers(best))


def test_buffers_are_those_before_a_step_that_diverges():
    net, (x, y) = net_of(), data()
    net.fit(x, y, batch_size=20)
    before = buffers(net)
    x[5] = np.nan
    with pytest.raises(DivergedError):
        net.fit(x, y, batch_size=60)
    assert_same_buffers(net, before)


@pytest.mark.parametrize(
    "samples, batch_size, message",
    [
        (61, 20, "61 samples in batches of 20 leave a last batch of 1, and batch normalisation needs 2: take another"),
        (60, 1, "batch normalisation needs batches of at least 2 samples, got batch_size=1"),
    ],
)
def test_batches_of_one_are_refused_before_the_first_step(samples, batch_size, message):
    net = net_of()
    before = [tensor.data.copy() for tensor in net.parameters]
    for run in (net.fit, lambda *a, **k: list(steps(net, *a, **k))):
        with pytest.raises(ValueError, match=message):
            run(*data(samples), batch_size=batch_size)
    for tensor, array in zip(net.parameters, before):
        np.testing.assert_array_equal(tensor.data, array)
    net.fit(*data(62), batch_size=20)


def test_validation_is_the_net_in_use():
    net = net_of()
    history = net.fit(*data(), epochs=2, validation=data(5000, seed=1))
    x, y = data(5000, seed=1)
    assert history.epochs[-1].validation_loss == pytest.approx(((net(x) - y) ** 2).mean(), rel=1e-9)


@pytest.mark.gpu
def test_a_run_on_the_device(cupy):
    nets = [net_of(backend=backend) for backend in ("numpy", "cupy")]
    for net in nets:
        net.fit(*data(), epochs=2, batch_size=16, early_stopping=5)
    assert isinstance(nets[1].buffers["n.running_var"].data, cupy.ndarray)
    nets[1].to("numpy")
    for name, tensor in nets[0].buffers.items():
        np.testing.assert_allclose(nets[1].buffers[name].data, tensor.data, rtol=1e-9)
