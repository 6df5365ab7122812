"""The proof of gradients itself: it passes what is right and fails what is wrong, NaN included."""

import sys

import numpy as np
import pytest

from backprop_xp import (
    ACTIVATIONS,
    LOSSES,
    MSE,
    Elementwise,
    Graph,
    GraphNet,
    Input,
    Linear,
    Net,
    Residual,
    Tanh,
    check,
    cli,
)
from backprop_xp.exchange import pytorch
from backprop_xp.graph import BatchNorm, Dropout


class Wrong(Tanh):
    def __init__(self, by=1e-4):
        super().__init__()
        self.by = by

    def grad(self, x):
        return (1 + self.by) * super().grad(x)


class Lost(Tanh):
    def grad(self, x):
        return np.where(x > 0, np.nan, super().grad(x))


def test_a_wrong_derivative_fails(random):
    net, x = Net((3, 4, 2), (Wrong(), "tanh"), rng=0), random.normal(size=(5, 3))
    report = check.check_gradients(net, x)
    assert not report.ok
    assert [row.name for row in report.rows if row.ok] == ["W1"]
    assert "WRONG" in str(report)


def test_nan_fails(random):
    net, x = Net((3, 2), (Lost(),), rng=0), random.normal(size=(5, 3))
    assert not check.check_gradients(net, x).ok
    x[0, 0] = np.inf
    assert not check.check_gradients(Net((3, 2), rng=0), x).ok


def test_a_report_of_nothing_is_no_proof():
    assert not check.Report("empty").ok
    report = check.Report("shapes")
    report.add("a", np.ones(3), np.ones(4), 1.0)
    assert not report.ok


def test_the_net_itself_is_not_changed(random):
    net, x = Net((3, 2), dtype="float32", bias=True, rng=0), random.normal(size=(5, 3))
    before = [p.data.copy() for p in (*net.weights, *net.biases)]
    check.numerical_gradients(net, x)
    for p, data in zip((*net.weights, *net.biases), before, strict=True):
        np.testing.assert_array_equal(p.data, data)
        assert p.data.dtype == np.float32
        assert p.grad is None


def test_pytorchs_side_has_biases_weights_and_means(random):
    pytest.importorskip("torch")
    net = Net((3, 4, 2), ("gelu", "identity"), "mse", True, rng=0, reduction="mean")
    x, y, w = random.normal(size=(5, 3)), random.normal(size=(5, 2)), random.uniform(0, 2, 5)
    report = check.check_against_torch(net, x, y, w)
    assert report.ok, report
    assert [row.name for row in report.rows] == ["loss", "W0", "W1", "b0", "b1", "x"]
    net.activations[0] = Wrong()
    assert not check.check_against_torch(net, x, y, w).ok


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("proof", [check.check_gradients, check.check_against_torch])
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3, 1e6])
def test_a_wrong_derivative_fails_however_large_the_loss(proof, factor, dtype, random):
    if proof is check.check_against_torch:
        pytest.importorskip("torch")
    x, y = random.normal(size=(40, 3)), factor * random.normal(size=(40, 2))
    for function, right in (("tanh", True), (Wrong(0.1), False)):
        net = Net((3, 4, 2), (function, "tanh"), "half_squared_error", True, dtype, rng=0, engine="layered")
        report = proof(net, x, y)
        assert report.ok == right, report
        assert all(row.tolerance <= check.MOST_ALLOWED for row in report.rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 40, 4000])
def test_a_mean_is_held_to_what_one_sample_counts_for(n, dtype, random):
    pytest.importorskip("torch")
    x, y = random.normal(size=(n, 3)), random.normal(size=(n, 2))
    for function, right in (("tanh", True), (Wrong(0.1), False)):
        net = Net((3, 4, 2), (function, "tanh"), "mse", dtype=dtype, rng=0, reduction="mean", engine="layered")
        assert check.check_against_torch(net, x, y).ok == right
        assert check.check_against_torch(net, x, y, np.linspace(0, 2, n + 1)[1:]).ok == right


def test_where_rounding_swamps_the_gradient_nothing_is_proved():
    report = check.Report("swamped")
    report.add("a", np.full(3, 1.5), np.ones(3), relative=1e-9, absolute=1e9)
    assert not report.ok


def test_nan_and_infinity_in_a_report_fail_on_either_side():
    for bad in (np.nan, np.inf, -np.inf):
        for pair in (([1, bad], [1, 1]), ([1, 1], [1, bad]), ([1, bad], [1, bad])):
            report = check.Report("bad")
            report.add("a", *map(np.array, pair), relative=np.inf)
            assert not report.ok
    assert not check.Row("a", float("nan"), 1.0).ok
    assert not check.Row("a", 0.0, float("nan")).ok


@pytest.mark.parametrize("x", [[0.5, -1.0, 2.0], [[0.5, -1.0, 2.0]], np.ones((7, 3), np.float32)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_engine_is_right(engine, dtype, x):
    net = Net((3, 4, 2), ("gelu", "mish"), "half_sum_sq", True, dtype, rng=0, engine=engine, reduction="mean")
    report = check.check_gradients(net, x)
    assert report.ok, report
    assert [row.name for row in report.rows] == ["W0", "W1", "b0", "b1", "x"]


def test_differences_are_the_known_derivatives():
    net, x = Net((3, 2), rng=0), np.array([1.0, -2.0, 0.5])
    w = net.weights[0].data
    gradients = check.numerical_gradients(net, x)
    np.testing.assert_allclose(gradients["W0"], np.outer(w @ x, x), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(gradients["x"], w.T @ w @ x, rtol=1e-8, atol=1e-9)
    np.testing.assert_array_equal(x, [1.0, -2.0, 0.5])


def test_probabilities_single_samples_and_weights_of_single_samples(random):
    pytest.importorskip("torch")
    for reduction in ("sum", "mean"):
        net = Net((3, 4), loss="softmax_cross_entropy", bias=True, rng=0, reduction=reduction)
        for x, y, w in (
            (np.ones(3), 1, None), (np.ones(3), 1, 0.5), (np.ones(3), [0.1, 0.2, 0.3, 0.4], 2.0),
            (random.normal(size=(5, 3)), random.dirichlet(np.ones(4), 5), random.uniform(1, 2, 5)),
        ):  # fmt: skip
            assert check.check_against_torch(net, x, y, w).ok
            assert check.check_gradients(net, x, y, w).ok


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "bce_with_logits", "mse"])
def test_targets_of_whole_numbers(loss):
    pytest.importorskip("torch")
    net = Net((3, 2), loss=loss, rng=0, backend="numpy")
    assert check.check_against_torch(net, np.eye(3), np.eye(3, 2, dtype=np.int32)).ok
    assert check.check_against_torch(net, np.eye(3)[0], [1, 0]).ok


def test_what_pytorch_lacks_is_said(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.delitem(pytorch.MODULES, "mish")
    with pytest.raises(TypeError, match="PyTorch has no counterpart of the activation Mish"):
        check.torch_activation(ACTIVATIONS["mish"]())


def test_pytorchs_tables_cover_what_is_built_in():
    pytest.importorskip("torch")
    for name in pytorch.MODULES:
        assert check.torch_activation(ACTIVATIONS[name]()) is not None
    for name in LOSSES:
        assert callable(check.torch_losses(LOSSES[name]()))


def test_what_pytorch_has_not_is_refused_in_a_sentence():
    pytest.importorskip("torch")

    class Plain:
        def __call__(self, z):
            return 0.5 * (z * z).sum()

        def grad(self, z):
            return z

    x = np.ones((2, 3))
    with pytest.raises(TypeError, match="PyTorch has no counterpart of the activation Elementwise"):
        check.check_against_torch(Net((3, 2), (Elementwise("tanh", "t * t"),)), x)
    with pytest.raises(TypeError, match="PyTorch has no counterpart of the loss Plain"):
        check.check_against_torch(Net((3, 2), loss=Plain()), x)

    class Halved(MSE):
        name = "halved"

    with pytest.raises(TypeError, match="PyTorch has no counterpart of the loss Halved"):
        check.check_against_torch(Net((3, 2), loss=Halved()), x, x[:, :2])


def test_without_pytorch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="this check needs PyTorch: pip install"):
        check.check_against_torch(Net((3, 2)), np.ones(3))
    narrowed = ["--activation", "tanh", "--loss", "mse"]
    assert cli.main(["check", "--backend", "numpy", "--engine", "layered", *narrowed]) == 0
    printed = capsys.readouterr().out
    assert "without PyTorch" in printed
    assert "tanh x mse x bias: central differences" in printed
    assert printed.endswith("every gradient is right\n")


def test_the_command_fails_when_a_gradient_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(Tanh, "grad", lambda self, x: x)
    monkeypatch.setattr(Tanh, "backprop", lambda self, t, grad_z: grad_z * t)
    narrowed = ["--activation", "tanh", "--loss", "half_sum_sq"]
    assert cli.main(["check", "--backend", "numpy", "--engine", "layered", *narrowed]) == 1
    assert "FAIL tanh x half_sum_sq: central differences" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["auto", "layered"])
def test_a_tensor_in_several_places_is_moved_in_all_of_them(engine):
    pytest.importorskip("torch")
    net = Net((3, 3, 3, 3), ("tanh", "sigmoid", "identity"), "mse", True, rng=0, engine=engine)
    net.weights[2], net.biases[1] = net.weights[0], net.biases[0]
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    for report in (check.check_gradients(net, x, y), check.check_against_torch(net, x, y)):
        assert report.ok, report
        assert [row.name for row in report.rows if row.name != "loss"] == ["W0", "W1", "b0", "b2", "x"]
    net._store = lambda gradients, accumulate: [setattr(t, "grad", g) for t, g in zip(net._places(), gradients)]
    assert not check.check_gradients(net, x, y).ok  # the last place's gradient alone


def test_tensors_are_told_apart_by_their_place():
    net = Net((3, 3, 3), rng=0)
    net.weights = [type(w)(w.data) for w in net.weights]  # without names
    assert check.check_gradients(net, np.ones(3)).ok


def graph(function="tanh", p=0.5, **options):
    """Two inputs, a block with dropout, a shared weight, a product and a normalisation."""
    g = Graph()
    x, z = g.input(3, "x"), g.input(2, "z")
    first = g.linear(x, 4, name="h")
    h = g.chain(g.apply(function, first), Residual(Linear(4), "gelu", Dropout(p)), name="block")
    h = g.layer_norm(h * g.linear(x, 4, share=first), name="norm")
    net = g.net(g.linear(g.concatenate(h, z), 2, bias=False, name="out"), rng=0, backend="numpy", **options)
    for name in ("h.bias", "block.0.bias"):
        net.tensors[name].data = net.tensors[name].data + net.dtype.type(0.25)
    return net


NAMES = ["h.weight", "h.bias", "block.0.weight", "block.0.bias", "norm.gain", "norm.bias", "out.weight", "x", "z"]


@pytest.mark.parametrize("shape", [(), (1,), (6,)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_graphs_by_the_names_of_their_parameters_and_inputs(engine, dtype, reduction, shape, random):
    pytest.importorskip("torch")
    net = graph(loss="softmax_cross_entropy", dtype=dtype, reduction=reduction, engine=engine)
    x = {"z": random.normal(size=(*shape, 2)), "x": random.normal(size=(*shape, 3))}
    y, weight = random.integers(0, 2, shape), random.uniform(1, 2, shape)
    report = check.check_gradients(net, x, y, weight)
    assert report.ok, report
    assert sorted(row.name for row in report.rows) == sorted(NAMES)
    report = check.check_against_torch(net, x, y, weight)
    assert report.ok, report
    assert sorted(row.name for row in report.rows) == sorted(["loss", *NAMES])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_derivative_in_a_graph_fails(dtype, random):
    x = {"x": random.normal(size=(5, 3)), "z": random.normal(size=(5, 2))}
    right, wrong = (check.check_gradients(graph(f, dtype=dtype), x) for f in ("tanh", Wrong(1e-1)))
    assert right.ok, right
    assert {row.name for row in wrong.rows if not row.ok} <= {"h.weight", "h.bias", "x"}
    assert not wrong.ok
    assert not check.check_gradients(graph(Lost()), x).ok


def test_dropout_drops_the_same_in_every_call_and_the_net_draws_on_as_if_nothing_was(random):
    net, same = graph(), graph()
    x = {"x": random.normal(size=(5, 3)), "z": random.normal(size=(5, 2))}
    reports = []
    for _ in range(3):
        assert check.check_gradients(net, x).ok
        before = {name: tensor.data.copy() for name, tensor in net.tensors.items()}
        reports.append(check.numerical_gradients(net, x)["h.weight"])
        assert net.draws == same.draws
        assert net.loss_and_grad(x) == same.loss_and_grad(x)
        np.testing.assert_allclose(reports[-1], net.tensors["h.weight"].grad, rtol=1e-6, atol=1e-6)
        for name, tensor in net.tensors.items():
            np.testing.assert_array_equal(tensor.data, before[name])
    assert not np.allclose(reports[0], reports[1])


def test_a_graph_with_one_input_takes_an_array(random):
    net = GraphNet({"in": Input(3), "y": (Linear(2), "in")}, rng=0, backend="numpy")
    x = random.normal(size=(4, 3))
    assert [row.name for row in check.check_gradients(net, x).rows] == ["y.weight", "y.bias", "in"]
    assert check.check_gradients(net, {"in": x}).ok
    assert check.numerical_gradients(net, x).keys() == {"y.weight", "y.bias", "in"}


def test_an_input_that_is_called_like_a_parameter(random):
    net = GraphNet({"a.weight": Input(2), "a": (Linear(2), "a.weight")}, rng=0, backend="numpy")
    report = check.check_gradients(net, random.normal(size=(4, 2)))
    assert report.ok
    assert [row.name for row in report.rows] == ["a.weight", "a.bias", "input a.weight"]


def test_a_tensor_in_two_nodes_of_a_graph_is_moved_in_both(random):
    pytest.importorskip("torch")
    net = GraphNet({"x": Input(3), "a": (Linear(3), "x"), "y": (Linear(3), "a")}, rng=0, backend="numpy")
    net.tensors["y.weight"] = net.tensors["a.weight"]
    for report in (check.check_gradients(net, np.ones((2, 3))), check.check_against_torch(net, np.ones((2, 3)))):
        assert report.ok, report
        assert [row.name for row in report.rows if row.name != "loss"] == ["a.weight", "a.bias", "y.bias", "x"]


def test_what_is_wrong_with_inputs_is_for_the_net_to_say(random):
    for proof in (check.check_gradients, check.numerical_gradients):
        with pytest.raises((TypeError, ValueError), match=r"the inputs? .*'x', 'z'"):
            proof(graph(), np.ones((2, 3)))
        with pytest.raises(ValueError, match="x must hold the inputs 'x', 'z', got 'x', 'y'"):
            proof(graph(), {"x": np.ones((2, 3)), "y": np.ones((2, 2))})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_normalisation_is_checked_in_training_and_its_buffers_stay(dtype, random):
    description = {"x": Input(3), "h": (Linear(4), "x"), "n": (BatchNorm(), "h"), "y": (Linear(2), "n")}
    net = GraphNet(description, loss="mse", rng=0, backend="numpy", engine="layered", dtype=dtype)
    before = {name: tensor.data.copy() for name, tensor in net.buffers.items()}
    report = check.check_gradients(net, random.normal(size=(6, 3)), random.normal(size=(6, 2)))
    assert report.ok, report
    for name, tensor in net.buffers.items():
        np.testing.assert_array_equal(tensor.data, before[name])
        assert tensor.data.dtype == net.dtype


def test_tables_of_pandas(random):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("torch")
    x, y = random.normal(size=(4, 3)), random.integers(0, 2, 4)
    net = Net((3, 2), loss="softmax_cross_entropy", rng=0)
    for proof in (check.check_gradients, check.check_against_torch):
        assert proof(net, pandas.DataFrame(x), pandas.Series(y)).ok
