"""One sample through a compiled net, a chain or any graph: equal to the layered engine, and never stale."""

import copy
import pickle
import threading

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import ACTIVATIONS, LOSSES, Elementwise, GraphNet, Input, Linear, Net, Residual, Tanh
from backprop_xp.graph import BatchNorm, Dropout, LayerNorm
from backprop_xp.losses import ElementwiseLoss
from backprop_xp.ready import calls

pytestmark = needs_compiler
ELEMENTWISE = [name for name, loss in LOSSES.items() if issubclass(loss, ElementwiseLoss)]


def both(sizes, activations, **options):
    """The same net on the layered engine and on the compiled one."""
    return (Net(sizes, activations, rng=3, backend="numpy", engine=engine, **options) for engine in ("layered", "auto"))


def assert_same(reference, net, x, y=None, eps=1e-13):
    expected, got = reference.loss_and_grad(x, y), net.loss_and_grad(x, y)
    assert net._prepared._single, "the compiled net did not run"
    assert type(got) is type(expected)
    np.testing.assert_allclose(got, expected, rtol=eps)
    for name in ("weights", "biases", "linear_outputs", "nonlinear_outputs"):
        for a, b in zip(getattr(reference, name), getattr(net, name), strict=True):
            scale = max(1.0, np.abs(a.grad).max())
            np.testing.assert_allclose(b.grad, a.grad, rtol=eps, atol=eps * scale)
            np.testing.assert_allclose(b.data, a.data, rtol=eps, atol=eps)
            assert b.grad.dtype == net.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_losses(loss, reduction, dtype):
    pair = both((4, 5, 3), ("tanh", "identity"), loss=loss, bias=True, reduction=reduction, dtype=dtype)
    x, y = np.linspace(-1, 1, 4), np.array([0.0, 1.0, 0.25])
    eps = 2e-5 if dtype == "float32" else 1e-13
    assert_same(*pair, x, y if LOSSES[loss].needs_target else None, eps)


def test_every_activation_in_one_net():
    names = tuple(ACTIVATIONS)
    assert_same(*both((3,) + (4,) * len(names), names, init="glorot_normal"), np.array([0.5, -1.0, 2.0]), eps=1e-11)


def test_nan_and_infinity_propagate():
    reference, net = both((3, 4, 2), ("sigmoid", "identity"))
    for x in (np.array([np.nan, 0, 0]), np.array([np.inf, 1, 1])):
        for n in (reference, net):
            n.loss_and_grad(x)
        for a, b in zip(reference.weights, net.weights):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-12)


def test_a_subclass_runs_its_own_code():
    class Doubled(Tanh):
        def grad(self, x):
            return 2 * super().grad(x)

    reference, net = both((3, 2), (Doubled(),))
    assert reference.loss_and_grad(np.ones(3)) == net.loss_and_grad(np.ones(3))
    assert net._prepared is None
    assert np.array_equal(reference.weights[0].grad, net.weights[0].grad)


def test_an_elementwise_of_the_user_is_compiled():
    bump = Elementwise("bump", "exp(-width * t ** 2)", params={"width": 2.0})
    assert_same(*both((3, 2), (bump,)), np.array([0.1, 0.2, -0.3]))


def test_what_was_handed_out_is_not_overwritten():
    net = Net((3, 2), rng=0, backend="numpy")
    net.loss_and_grad(np.ones(3))
    grad, signal = net.weights[0].grad, net.linear_outputs[0].data
    before = grad.copy(), signal.copy()
    net.loss_and_grad(np.full(3, 5.0))
    assert np.array_equal(grad, before[0])
    assert np.array_equal(signal, before[1])
    assert not np.array_equal(net.weights[0].grad, grad)


def test_a_gradient_can_be_set_and_data_changed_before_it_is_read():
    net = Net((3, 2), rng=0, backend="numpy")
    net.loss_and_grad(np.ones(3))
    net.weights[0].data = net.weights[0].data + 1
    assert net.weights[0].grad.shape == (2, 3)
    net.loss_and_grad(np.ones(3))
    net.weights[0].grad = None
    assert net.weights[0].grad is None


def test_backward_after_a_compiled_call():
    reference, net = both((3, 4, 2), ("tanh", "identity"))
    x = np.array([1.0, 2.0, 3.0])
    for n in (reference, net):
        n.loss_and_grad(x)
    a, b = (n.backward(np.ones(2), input_grad=True) for n in (reference, net))
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_outputs_of_one_sample_keep_the_signals_of_a_chain():
    reference, net = both((3, 4, 2), ("tanh", "identity"), bias=True)
    x = np.array([1.0, -2.0, 3.0])
    for n in (reference, net):
        n.loss_and_grad(np.ones(3))
        n.before = [parameter.grad for parameter in n.parameters]
    assert calls.find_forward(net, x, None) is not None and calls.find_forward(net, x, False) is None
    output = net(x)
    np.testing.assert_allclose(output, reference(x), rtol=1e-13)
    output[:] = 0
    for name in ("linear_outputs", "nonlinear_outputs"):
        for a, b in zip(getattr(reference, name), getattr(net, name), strict=True):
            np.testing.assert_allclose(b.data, a.data, rtol=1e-13)
            assert a.grad is None and b.grad is None
    assert all(parameter.grad is before for parameter, before in zip(net.parameters, net.before))
    a, b = (n.backward(np.ones(2), input_grad=True) for n in (reference, net))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    net(x, keep_signals=False)
    with pytest.raises(RuntimeError, match="no signals are kept"):
        net.backward(np.ones(2))


def test_copies_and_pickles_have_their_own():
    net = Net((3, 2), rng=0, backend="numpy")
    loss = net.loss_and_grad(np.ones(3))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        other.weights[0].data *= 2
        assert other.loss_and_grad(np.ones(3)) != loss
        assert net.loss_and_grad(np.ones(3)) == loss


def test_input_of_other_kinds_gives_the_same():
    net = Net((3, 2), rng=0, backend="numpy")
    expected = net.loss_and_grad(np.array([1.0, 2.0, 3.0]))
    strided = np.array([1.0, 0, 2.0, 0, 3.0, 0])[::2]
    strided.flags.writeable = False
    for x in ([1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3]), strided, np.float32([1, 2, 3])):
        assert net.loss_and_grad(x) == pytest.approx(expected, rel=1e-14)


def test_wrong_shapes_go_the_ordinary_way():
    small = Net((3, 2), rng=0, backend="numpy")
    small.loss_and_grad(np.ones(3))
    with pytest.raises(ValueError, match="x must have 3 features, got 4"):
        small.loss_and_grad(np.ones(4))


# ---- graphs that are no chains ----------------------------------------------------------------------------------------

GRAPHS = {
    "residual": {"x": Input(5), "a": (Residual(Linear(5), "leaky_relu"), "x"), "y": (Linear(3), "a")},
    "everything": {
        "x": Input(5), "z": Input(2), "a": (Linear(17, bias=False), "x"), "b": ("tanh", "a"),
        "c": ("concatenate", "b", "x", "z"), "d": (LayerNorm(), "c"), "e": (Linear(24), "d"), "f": ("identity", "e"),
        "g": ("multiply", "f", "e"), "h": ("add", "g", "f", "e"), "i": (Dropout(0.3), "h"), "n": (BatchNorm(), "i"),
        "k": (Linear(24), "n"), "l": (Linear(24, share="k"), "k"), "m": (Linear(24, share="k"), "l"),
        "j": ("concatenate", "m", "a"), "o": ("add", "j"), "y": (Linear(3), "o"),
    },
    "an activation of the input": {"x": Input(5), "a": ("tanh", "x"), "b": ("add", "a", "x"), "y": ("gelu", "b")},
}  # fmt: skip


def graphs(name, **options):
    """The same graph on the layered engine and with ready calls."""
    given = {"rng": 0, "backend": "numpy", "loss": "half_sum_sq", "init": "glorot_normal"} | options
    return tuple(GraphNet(GRAPHS[name], **given, engine=engine) for engine in ("layered", "auto"))


def sample_of(net):
    random = np.random.default_rng(0)
    x = {name: random.normal(size=width).astype(net.dtype) for name, width in net.inputs.items()}
    return x if len(x) > 1 else x["x"]


def left(net):
    """Everything that calls leave to the user."""
    tensors = {**net.tensors, **{f"signal {name}": tensor for name, tensor in net.signals.items()}}
    return {(name, kind): getattr(t, kind) for name, t in tensors.items() for kind in ("data", "grad")}


def assert_left(net, reference, tolerance=1e-11):
    got, expected = left(net), left(reference)
    for key, array in expected.items():
        assert (got[key] is None) == (array is None), key
        if array is not None:
            assert got[key].shape == array.shape and got[key].dtype == array.dtype
            scale = tolerance * max(1.0, np.abs(array).max())
            np.testing.assert_allclose(got[key], array, rtol=tolerance, atol=scale, err_msg=str(key))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", GRAPHS)
def test_any_graph(name, dtype):
    reference, net = graphs(name, dtype=dtype, reduction="mean", loss="mse")
    x, tolerance = sample_of(net), 2e-4 if dtype == "float32" else 1e-11
    y, training = np.linspace(0, 1, net.nodes[-1].width).astype(dtype), name != "everything"
    assert calls.find(net, x, y, None, training) is not None and calls.find_forward(net, x, None) is not None
    for one in (reference, net):
        one.draws = 0
        one.losses = [one.loss_and_grad(x, y, training=training), one.loss_and_grad(x, y, training=training)]
    np.testing.assert_allclose(net.losses, reference.losses, rtol=tolerance)
    assert type(net.losses[0]) is type(reference.losses[0])
    assert_left(net, reference, tolerance)
    for one in (reference, net):
        for parameter in one.parameters:
            parameter.grad = None
        one.output = one(x)
    np.testing.assert_allclose(net.output, reference.output, rtol=tolerance, atol=tolerance)
    assert_left(net, reference, tolerance)
    net.output[:] = 7  # its owner's
    for one in (reference, net):
        one.backward(np.ones(len(y)))
    assert_left(net, reference, tolerance)


def test_classes_and_probabilities_of_one_sample():
    nets = graphs("residual", loss="softmax_cross_entropy", reduction="mean")
    x = sample_of(nets[0])
    for y in (2, np.int64(1), np.array(0), np.array([0.25, 0.5, 0.25]), np.uint8(2), [0.5, 0.5, 0.0]):
        losses = [net.loss_and_grad(x, y) for net in nets]
        np.testing.assert_allclose(*losses, rtol=1e-13)
        assert_left(*reversed(nets))
    assert (
        calls.find(nets[1], x, 2, None) is not None and calls.find(nets[1], x, np.array([0.0, 1, 0]), None) is not None
    )
    for bad in (3, -1, np.int64(3), np.array(-1)):
        with pytest.raises(ValueError, match=f"class indices must be from 0 to 2, got {bad}"):
            nets[1].loss_and_grad(x, bad)
    for bad, error in ((True, TypeError), (1.0, TypeError), (None, ValueError), (np.ones(4), ValueError)):
        messages = []
        for net in nets:
            try:
                messages.append(net.loss_and_grad(x, bad))
            except error as found:
                messages.append(str(found))
        assert messages[0] == messages[1]


def test_dropout_draws_what_the_layered_engine_draws():
    nodes = {"x": Input(40), "d": (Dropout(0.5), "x"), "a": (Linear(40), "d"), "b": ("add", "a", "d"),
             "e": (Dropout(0.2), "b")}  # fmt: skip
    reference, net = (GraphNet(nodes, rng=0, loss="mse", backend="numpy", engine=e) for e in ("layered", "auto"))
    x, y = np.random.default_rng(0).normal(size=(2, 7, 40))
    for rows in (0, slice(0, 1), slice(0, 7), 3, slice(2, 4), 1):
        given = x[rows], y[rows]
        assert calls.find(net, *given, None) is not None
        losses = [one.loss_and_grad(*given) for one in (reference, net)]
        np.testing.assert_allclose(*losses, rtol=1e-12)
        for a, b in zip(reference.parameters, net.parameters):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-12, atol=1e-13)
        for one in (reference, net):  # one that fails draws as well
            with pytest.raises(ValueError, match="y must have the shape"):
                one.loss_and_grad(given[0], np.ones(3))
        np.testing.assert_allclose(net(given[0]), reference(given[0]), rtol=1e-12)
        np.testing.assert_allclose(
            net.loss_and_grad(*given, training=False), reference.loss_and_grad(*given, training=False), rtol=1e-12
        )
        assert net.draws == reference.draws
    net.loss_and_grad(x[0], y[0])
    reference.loss_and_grad(x[0], y[0])
    grads = [one.backward(np.ones(40), input_grad=True) for one in (reference, net)]  # through the same draws
    np.testing.assert_allclose(*grads, rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (4,)], ids=["sample", "batch"])
def test_batch_normalisation_is_never_stale(shape):
    nodes = {"x": Input(5), "a": (Linear(5), "x"), "n": (BatchNorm(), "a"), "b": ("add", "n", "x")}
    reference, net = (GraphNet(nodes, rng=0, backend="numpy", engine=e) for e in ("layered", "auto"))
    random = np.random.default_rng(0)
    x = random.normal(size=(*shape, 5))

    def assert_same():
        assert calls.find_forward(net, x, None) is not None
        np.testing.assert_allclose(net(x), reference(x), rtol=1e-12)
        losses = [one.loss_and_grad(x, training=False) for one in (reference, net)]
        np.testing.assert_allclose(*losses, rtol=1e-12)
        for a, b in zip(reference.parameters, net.parameters):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-12, atol=1e-14)

    assert_same()
    for k in range(2):
        batch = random.normal(size=(6, 5)) + k
        assert calls.find(net, batch, None, None) is None  # in training it needs the whole batch
        np.testing.assert_allclose(net.loss_and_grad(batch), reference.loss_and_grad(batch), rtol=1e-12)
        assert_same()
    for change in (
        lambda one: one.buffers["n.running_mean"].data.__iadd__(1),
        lambda one: setattr(one.buffers["n.running_var"], "data", np.linspace(1, 2, 5)),
        lambda one: setattr(one.buffers["n.running_var"], "data", [1, 2, 3, 4, 5]),
        lambda one: one.buffers.update({"n.running_mean": type(one.buffers["n.running_mean"])(np.zeros(5))}),
    ):
        change(net)
        change(reference)
        assert_same()
    net.buffers["n.running_var"].data = np.ones(4)
    with pytest.raises(ValueError, match=r"buffers\['n.running_var'\].data must have shape \(5,\), got \(4,\)"):
        net(x)
    if not shape:
        net.buffers["n.running_var"].data = np.ones(5)
        with pytest.raises(ValueError, match="needs at least 2 samples in training, got 1"):
            net.loss_and_grad(x)


def test_several_inputs_are_checked_as_ever():
    reference, net = graphs("everything")
    x = sample_of(net)
    net.loss_and_grad(x, training=False)
    pair = {name: np.stack([array, array]) for name, array in x.items()}
    for wrong in (
        x["x"], {"x": x["x"]}, x | {"w": x["x"]}, {"x": x["x"], "z": x["x"]}, x | {"z": pair["z"]},
        pair | {"z": np.ones((3, 2))}, x | {"z": None}, x | {"z": np.array(1.0)},
    ):  # fmt: skip
        messages = []
        for one in (reference, net):
            with pytest.raises((TypeError, ValueError)) as error:
                one.loss_and_grad(wrong, training=False)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    for fine in ({"z": x["z"], "x": x["x"]}, x | {"z": x["z"].tolist()}, x | {"z": x["z"].astype("float32")}):
        assert net.loss_and_grad(fine, training=False) == pytest.approx(reference.loss_and_grad(fine, training=False))
    np.testing.assert_allclose(net(pair)[1], reference(x), rtol=1e-12)


def test_one_tensor_in_several_places():
    nodes = {"x": Input(4), "a": (Linear(4), "x"), "b": ("tanh", "a"), "c": (Linear(4), "b"), "d": ("add", "c", "a"),
             "e": (Linear(4), "d")}  # fmt: skip
    reference, net = (GraphNet(nodes, rng=0, backend="numpy", engine=engine) for engine in ("layered", "auto"))
    for one in (reference, net):
        one.tensors["c.weight"] = one.tensors["e.weight"] = one.tensors["a.weight"]
    for x in (np.ones(4), np.ones((1, 4)), np.random.default_rng(0).normal(size=(9, 4))):
        assert calls.find(net, x, None, None) is not None
        np.testing.assert_allclose(net.loss_and_grad(x), reference.loss_and_grad(x), rtol=1e-12)
        for a, b in zip(reference.parameters, net.parameters, strict=True):
            np.testing.assert_allclose(b.grad, a.grad, rtol=1e-12, atol=1e-12)


def test_what_a_sample_of_a_graph_left_is_its_owners():
    _, net = graphs("residual")
    x = sample_of(net)
    net.loss_and_grad(x)
    before = {key: None if array is None else (array, array.copy()) for key, array in left(net).items()}
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(
            other.backward(np.ones(3), input_grad=True), copy.deepcopy(net).backward(np.ones(3), input_grad=True)
        )
        other.tensors["y.weight"].data *= 2
        assert other.loss_and_grad(x) != net.loss_and_grad(x)
    net.loss_and_grad(2 * x)
    net(3 * x)
    for pair in before.values():
        if pair is not None:
            np.testing.assert_array_equal(*pair)


def test_threads_share_a_ready_call():
    _, net = graphs("residual")
    xs = np.random.default_rng(0).normal(size=(4, 5))
    expected, wrong = [(net.loss_and_grad(x), net(x)) for x in xs], []

    def work(x, loss, output):
        wrong.extend(1 for _ in range(200) if net.loss_and_grad(x) != loss or not np.array_equal(net(x), output))

    workers = [threading.Thread(target=work, args=(x, *pair)) for x, pair in zip(xs, expected)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_odd_numbers_of_one_sample():
    reference, net = graphs("residual")
    for odd in (np.nan, np.inf, -np.inf, -0.0, 1e308, 5e-324):
        x = np.array([odd, 1.0, -1.0, 0.5, 2.0])
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(net.loss_and_grad(x), reference.loss_and_grad(x), rtol=1e-12)
            np.testing.assert_allclose(net(x), reference(x), rtol=1e-12)
        for a, b in zip(reference.parameters, net.parameters):
            np.testing.assert_allclose(b.grad, a.grad, rtol=1e-11)
